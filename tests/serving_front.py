"""A server with TensorFlow Serving's two interfaces, over real SavedModels, in its own process.

    python -m tests.serving_front FOLDER [--most-mb MB] [--fault-file FILE]

FOLDER has a folder for each model with its versions, as `mtseg-export --serving` writes them. The
newest two are served, and new ones are found. With a `batching.config` there, requests pass a queue
for each signature as TensorFlow's batching session has them: those for some outputs of a signature
pass it by, which is logged in the session's words, and so is how many are computed at once. When
the server is ready it prints the ports of gRPC and REST. FILE may name a fault at any time:

    hang           tiles are never answered
    die-after:N    the process ends when the tile after the N-th comes
    busy:N         the first N tiles are refused as UNAVAILABLE
    exhausted:N    the first N tiles are refused as RESOURCE_EXHAUSTED
    bytes          answers are neither protocol buffers nor JSON
    values         probabilities are NaN
    shape          probabilities of a voxel are missing
    denied         every request is refused as UNAUTHENTICATED unless it has the token open-sesame
"""

import argparse
import http.server
import json
import os
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

TOKEN = "Bearer open-sesame"


class Refused(Exception):
    """A status code of gRPC and a text."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


class Queues:
    """The queues of TensorFlow's batching session, for batches of one request.

    Args:
        parameters: of `--batching_parameters_file`, by name.
    """

    def __init__(self, parameters):
        self._most = parameters["max_batch_size"]
        self._most_waiting = parameters["max_enqueued_batches"]
        self._threads = threading.Semaphore(parameters["num_batch_threads"])
        self._lock, self._waiting, self._running, self._peak = threading.Lock(), {}, 0, 0

    def run(self, key, inputs, compute):
        """Computes a request after those before it, or refuses it, as the session does.

        Args:
            key: of its queue.
            inputs: arrays by name.
            compute: is called in its turn.
        """
        sizes = {len(array) for array in inputs.values()}
        if len(sizes) != 1:
            raise Refused(
                "INVALID_ARGUMENT",
                "Batching session Run() input tensors must have equal 0th-dimension size",
            )
        (size,) = sizes
        if size > self._most:
            raise Refused(
                "INVALID_ARGUMENT",
                f"Task size {size} is larger than maximum input batch size {self._most}",
            )
        with self._lock:
            if self._waiting.get(key, 0) >= self._most_waiting:
                raise Refused(
                    "UNAVAILABLE",
                    "The batch scheduling queue to which this task was submitted is full",
                )
            self._waiting[key] = self._waiting.get(key, 0) + 1
        with self._threads:
            with self._lock:
                self._waiting[key] -= 1
                self._running += 1
                if self._running > self._peak:
                    self._peak = self._running
                    print(f"{self._peak} computed at once", file=sys.stderr, flush=True)
            try:
                return compute()
            finally:
                with self._lock:
                    self._running -= 1


def read_parameters(path):
    """The values in a file of batching parameters."""
    return {n: int(v) for n, v in re.findall(r"^(\w+) { value: (\d+) }", path.read_text(), re.M)}


class Models:
    """The models that are served, and the fault that is asked for."""

    def __init__(self, folder, fault_file):
        batching = folder / "batching.config"
        self._queues = Queues(read_parameters(batching)) if batching.is_file() else None
        self._folder, self._loaded, self._lock = folder, {}, threading.Lock()
        self._fault_file, self._tiles = fault_file, 0

    @property
    def _fault(self):
        return self._fault_and_number[0]

    @property
    def _fault_and_number(self):
        try:
            name, _, number = self._fault_file.read_text().partition(":")
        except OSError:
            name, number = "", ""
        if not name:
            self._tiles = 0
        return name, int(number or 0)

    def versions(self, name):
        path = self._folder / name
        numbers = (
            sorted(int(p.name) for p in path.iterdir() if p.name.isdecimal())
            if (re.fullmatch(r"[\w.-]+", name) and path.is_dir())
            else []
        )
        with self._lock:
            for number in numbers[-2:]:
                if (name, number) not in self._loaded:
                    self._loaded[name, number] = tf.saved_model.load(str(path / str(number)))
            for key in [key for key in self._loaded if key[0] == name]:
                if key[1] not in numbers[-2:]:
                    del self._loaded[key]
        return numbers[-2:]

    def predict(self, name, version, signature, inputs, outputs=()):
        numbers = self.versions(name)
        number = version or (numbers or [None])[-1]
        with self._lock:
            model = self._loaded.get((name, number))
        if model is None:
            which = f"Specific({name}, {version})" if version else f"Latest({name})"
            raise Refused("NOT_FOUND", f"Servable not found for request: {which}")
        signature = signature or "serving_default"
        if signature not in model.signatures:
            raise Refused(
                "INVALID_ARGUMENT",
                f'Serving signature name: "{signature}" not found in signature def',
            )
        compute = model.signatures[signature]
        specs = compute.structured_input_signature[1]
        if set(specs) != set(inputs):
            raise Refused("INVALID_ARGUMENT", f"input keys are {sorted(specs)}")
        is_tile = "tile" in inputs
        if is_tile:
            self._misbehave()
        try:
            tensors = {k: tf.cast(tf.constant(v), specs[k].dtype) for k, v in inputs.items()}
        except (ValueError, TypeError) as error:
            raise Refused("INVALID_ARGUMENT", str(error)[:500]) from error

        def run():
            return {k: v.numpy() for k, v in compute(**tensors).items()}

        try:
            if self._queues is None:
                computed = run()
            elif set(outputs) in (set(), set(compute.structured_outputs)):
                computed = self._queues.run((name, number, signature), tensors, run)
            else:
                print(
                    "Request doesn't match any declared signature. Bypassing batcher.",
                    file=sys.stderr, flush=True,
                )  # fmt: skip
                computed = run()
        except (tf.errors.OpError, ValueError, TypeError) as error:
            raise Refused("INVALID_ARGUMENT", str(error)[:500]) from error
        if is_tile and self._fault == "values":
            computed["probabilities"] = computed["probabilities"] * np.nan
        if is_tile and self._fault == "shape":
            computed["probabilities"] = computed["probabilities"][:, 1:]
        return number, {k: v for k, v in computed.items() if not outputs or k in outputs}

    def _misbehave(self):
        with self._lock:
            fault, count = self._fault_and_number
            self._tiles += 1
            number = self._tiles
        if fault == "hang":
            time.sleep(3600)
        if fault == "die-after" and number > count:
            os._exit(9)
        if fault in ("busy", "exhausted") and number <= count:
            code = {"busy": "UNAVAILABLE", "exhausted": "RESOURCE_EXHAUSTED"}[fault]
            raise Refused(code, "not now")

    def check_token(self, token):
        if self._fault == "denied" and token != TOKEN:
            raise Refused("UNAUTHENTICATED", "who are you?")

    @property
    def is_garbled(self):
        return self._fault == "bytes"


def start_grpc(models, most_bytes, credentials=None):
    def predict(request, context):
        try:
            metadata = dict(context.invocation_metadata())
            models.check_token(metadata.get("authorization"))
            version, outputs = models.predict(
                request.model_spec.name,
                request.model_spec.version.value,
                request.model_spec.signature_name,
                {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()},
                request.output_filter,
            )
        except Refused as error:
            context.abort(grpc.StatusCode[error.code], str(error))
        if models.is_garbled:
            return b"\xff\xfe no protocol buffer"
        response = predict_pb2.PredictResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = version
        for name, array in outputs.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(array))
        return response.SerializeToString()

    handler = grpc.unary_unary_rpc_method_handler(
        predict, request_deserializer=predict_pb2.PredictRequest.FromString
    )
    server = grpc.server(
        ThreadPoolExecutor(64),
        options=[
            ("grpc.max_receive_message_length", most_bytes),
            ("grpc.max_send_message_length", most_bytes),
        ],
    )
    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler(
                "tensorflow.serving.PredictionService", {"Predict": handler}
            )
        ]
    )
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    return server, port


def start_rest(models, most_bytes):
    status_of = {"NOT_FOUND": 404, "UNAVAILABLE": 503, "UNAUTHENTICATED": 401}
    status_of["RESOURCE_EXHAUSTED"] = 429

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.removeprefix("/v1/models/")
            states = [
                {"version": str(v), "state": "AVAILABLE", "status": {"error_code": "OK"}}
                for v in reversed(models.versions(name))
            ]
            self._answer(200, {"model_version_status": states})

        def do_POST(self):
            size = int(self.headers["content-length"])
            if size > most_bytes:
                return self._answer(413, {"error": f"{size} bytes are larger than {most_bytes}"})
            body = json.loads(self.rfile.read(size))
            form = r"/v1/models/([\w.-]+)(?:/versions/(\d+))?:predict"
            name, version = re.fullmatch(form, self.path).groups()
            is_rows = "instances" in body
            if is_rows:
                rows = body["instances"]
                inputs = {key: [row[key] for row in rows] for key in rows[0]}
            else:
                inputs = body["inputs"]
            signature = body.get("signature_name")
            try:
                models.check_token(self.headers.get("authorization"))
                _, outputs = models.predict(name, int(version or 0), signature, inputs)
            except Refused as error:
                return self._answer(status_of.get(error.code, 400), {"error": str(error)})
            columns = {k: _to_lists(v) for k, v in outputs.items()}
            if is_rows:
                count = len(next(iter(columns.values())))
                rows = [{k: v[n] for k, v in columns.items()} for n in range(count)]
                return self._answer(200, {"predictions": rows})
            if len(columns) == 1:
                (columns,) = columns.values()
            return self._answer(200, {"outputs": columns})

        def _answer(self, status, content):
            text = b"{garbled" if models.is_garbled else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, server.server_address[1]


def _to_lists(array):
    if array.dtype == object:
        return [item.decode() for item in array.tolist()]
    # TensorFlow Serving writes the digits that tell a float32 from its neighbours.
    return array.astype(np.float64).tolist() if array.dtype.kind == "f" else array.tolist()


def main(argv=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--most-mb", type=float, default=2000)
    parser.add_argument("--fault-file", type=Path, default=Path("none"))
    parser.add_argument("--certificate", type=Path, help="and key, in one PEM file: TLS over gRPC")
    arguments = parser.parse_args(argv)
    models = Models(arguments.folder, arguments.fault_file)
    for path in arguments.folder.iterdir():
        if path.is_dir():
            models.versions(path.name)
    most_bytes = int(arguments.most_mb * 1e6)
    credentials = None
    if arguments.certificate:
        pem = arguments.certificate.read_bytes()
        credentials = grpc.ssl_server_credentials([(pem, pem)])
    server, port = start_grpc(models, most_bytes, credentials)
    _, rest_port = start_rest(models, most_bytes)
    print(port, rest_port, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
