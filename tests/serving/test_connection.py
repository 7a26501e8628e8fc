"""What becomes of a server's answer: arrays, a retry, or one clear line, over gRPC and REST.

The servers are a few lines in this process that answer as a test says; tests/end_to_end/
test_served.py has one that computes.
"""

import contextlib
import dataclasses
import http.server
import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from mtseg.errors import InputError
from mtseg.inference.tiling import plan_tiles
from mtseg.serving import connection as connections
from mtseg.serving import remote_model
from mtseg.serving.address import ServerOptions, parse_address
from mtseg.serving.connection import ModelGoneError, RequestError, ServerError
from mtseg.serving.remote_model import ServedNetwork, connect

INPUTS = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}


@contextlib.contextmanager
def serve_grpc(answers):
    """Serves gRPC: each answer is a status code with a text, or outputs by name."""
    requests = []

    def predict(request, context):
        requests.append(request)
        answer = answers.pop(0)
        if isinstance(answer, tuple):
            context.abort(grpc.StatusCode[answer[0]], answer[1])
        response = predict_pb2.PredictResponse()
        response.model_spec.version.value = 7
        for name, array in answer.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(array))
        return response

    handler = grpc.unary_unary_rpc_method_handler(
        predict,
        request_deserializer=predict_pb2.PredictRequest.FromString,
        response_serializer=predict_pb2.PredictResponse.SerializeToString,
    )
    service = "tensorflow.serving.PredictionService"
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(service, {"Predict": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"grpc://127.0.0.1:{port}/m", requests
    finally:
        server.stop(None)


@contextlib.contextmanager
def serve_rest(answers):
    """Serves HTTP: each answer is a status code with a JSON object."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            size = int(self.headers.get("content-length", 0))
            requests.append((self.path, json.loads(self.rfile.read(size) or "null")))
            status, content = answers.pop(0)
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/m", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(connections, "FIRST_WAIT_SECONDS", 0.0)


def ask(address, outputs=("y",), version=None, **options):
    connection = connect(parse_address(address), ServerOptions(**{"retries": 2, **options}))
    try:
        return connection.predict("sign", INPUTS, outputs, version)
    finally:
        connection.close()


def error_of(serve, *answers):
    """The error that follows from the server's answers; all of them must have been needed."""
    left = list(answers)
    with serve(left) as (address, _), pytest.raises(ServerError) as caught:
        ask(address, version=1)
    assert not left
    assert "\n" not in str(caught.value)
    return caught.value


def test_requests_go_to_all_addresses_of_a_host_in_turn(monkeypatch):
    """As of a service of Kubernetes without an address of its own."""
    answer = {"y": np.float32([[1.5]])}
    open_channel = grpc.insecure_channel
    with (
        serve_grpc([answer] * 999) as (one, of_one),
        serve_grpc([answer] * 999) as (
            other,
            of_other,
        ),
    ):
        both = ",".join(parse_address(address).netloc for address in (one, other))
        monkeypatch.setattr(
            grpc, "insecure_channel", lambda _, **how: open_channel(f"ipv4:{both}", **how)
        )
        connection = connect(parse_address(one), ServerOptions())
        while not (of_one and of_other):  # the first requests go to who is connected first
            connection.predict("sign", INPUTS, ("y",))
        num_one, num_other = len(of_one), len(of_other)
        for _ in range(4):
            connection.predict("sign", INPUTS, ("y",))
        connection.close()
    assert (len(of_one), len(of_other)) == (num_one + 2, num_other + 2)


def test_arrays_go_to_a_signature_and_its_outputs_come_back_over_grpc():
    with serve_grpc([{"y": np.float32([[1.5]])}]) as (address, requests):
        response = ask(address, version=7)
    (request,) = requests
    assert request.model_spec.name == "m"
    assert request.model_spec.signature_name == "sign"
    assert request.model_spec.version.value == 7
    assert list(request.output_filter) == ["y"]
    np.testing.assert_array_equal(tf.make_ndarray(request.inputs["x"]), INPUTS["x"])
    assert response.outputs["y"].dtype == np.float32
    assert (response.outputs["y"].tolist(), response.version) == ([[1.5]], 7)


def test_arrays_go_to_a_signature_and_its_outputs_come_back_over_rest():
    # A signature with one output leaves out its name.
    with serve_rest([(200, {"outputs": [[1.5]]})]) as (address, requests):
        response = ask(address, version=7)
    body = {"signature_name": "sign", "inputs": {"x": INPUTS["x"].tolist()}}
    assert requests == [("/v1/models/m/versions/7:predict", body)]
    assert response.outputs["y"].dtype == np.float32
    assert (response.outputs["y"].tolist(), response.version) == ([[1.5]], 7)


def test_a_model_of_any_name_is_asked_for_over_rest():
    with serve_rest([(200, {"outputs": [[1.5]]})]) as (address, requests):
        ask(f"{address} é%", version=7)
    assert requests[0][0] == "/v1/models/m%20%C3%A9%25/versions/7:predict"


def test_over_rest_the_version_is_asked_for_first():
    """Not after the answer: a newer version that is ready then has not computed it."""
    status = {
        "model_version_status": [
            {"version": "3", "state": "AVAILABLE"},
            {"version": "4", "state": "LOADING"},
        ]
    }
    answers = [(200, status), (200, {"outputs": {"y": [1], "z": [2]}})]
    with serve_rest(answers) as (address, requests):
        response = ask(address, outputs=("y", "z"))
    assert [path for path, _ in requests] == ["/v1/models/m", "/v1/models/m/versions/3:predict"]
    assert response.version == 3


@pytest.mark.promise("servers may fail")
@pytest.mark.parametrize(
    ("serve", "answer"),
    [
        (serve_grpc, ("NOT_FOUND", "no servable")),
        # A proxy may have words of its own: the code decides.
        (serve_rest, (404, {"error": "nothing here"})),
    ],
)
def test_a_missing_model_is_known_by_its_status_code(serve, answer):
    error = error_of(serve, answer)
    assert isinstance(error, ModelGoneError)
    assert "the server has no such model" in str(error)


@pytest.mark.promise("servers may fail")
@pytest.mark.parametrize(
    ("serve", "answer"),
    [
        (serve_grpc, ("INVALID_ARGUMENT", "the file for op 3 was not found")),
        (serve_rest, (400, {"error": "the file for op 3 was not found"})),
    ],
)
def test_words_alone_do_not_make_a_model_missing(serve, answer):
    error = error_of(serve, answer)
    assert not isinstance(error, ModelGoneError)
    assert "refused the request" in str(error)
    assert "op 3" in str(error)


@pytest.mark.promise("servers may fail")
@pytest.mark.parametrize(
    ("serve", "answer"),
    [
        (serve_grpc, ("INVALID_ARGUMENT", 'Serving signature name: "sign" not found')),
        (serve_rest, (400, {"error": 'Serving signature name: "sign" not found'})),
    ],
)
def test_a_model_of_another_kind_is_known_by_its_signatures(serve, answer):
    assert "Serve a model that mtseg-export of this version wrote" in str(error_of(serve, answer))


@pytest.mark.promise("servers may fail")
@pytest.mark.parametrize(
    ("serve", "answer", "good"),
    [
        (serve_grpc, ("UNAVAILABLE", "starting"), {"y": np.float32([2])}),
        (serve_grpc, ("RESOURCE_EXHAUSTED", "queue is full"), {"y": np.float32([2])}),
        (serve_rest, (429, {"error": "queue is full"}), (200, {"outputs": [2]})),
        (serve_rest, (502, {"error": "bad gateway"}), (200, {"outputs": [2]})),
        (serve_rest, (503, {"error": "starting"}), (200, {"outputs": [2]})),
    ],
)
def test_a_temporary_failure_is_tried_again_and_then_reported(serve, answer, good):
    with serve([answer, answer, good]) as (address, requests):
        assert ask(address, version=1).outputs["y"].tolist() == [2]
        assert len(requests) == 3
    assert "no answer in 3 attempts" in str(error_of(serve, answer, answer, answer))


@pytest.mark.promise("servers may fail")
@pytest.mark.parametrize(
    ("serve", "answer", "remedy"),
    [
        (serve_grpc, ("DEADLINE_EXCEEDED", "too slow"), "--deadline-s"),
        (serve_rest, (504, {"error": "too slow"}), "--deadline-s"),
        (serve_grpc, ("UNAUTHENTICATED", "who?"), "--token-file"),
        (serve_grpc, ("PERMISSION_DENIED", "not you"), "--token-file"),
        (serve_rest, (401, {"error": "who?"}), "--token-file"),
        (serve_rest, (403, {"error": "not you"}), "--token-file"),
        (serve_grpc, ("RESOURCE_EXHAUSTED", "message larger than max (9 > 5)"), "--message-mb"),
        (serve_rest, (413, {"error": "too large"}), "--message-mb"),
        (serve_rest, (500, {"error": "two\nlines"}), "two lines"),
        (serve_rest, (200, [1]), "not that of TensorFlow Serving"),
        (serve_rest, (200, {"outputs": [[1], [1, 2]]}), "no arrays"),
        (serve_rest, (200, {"outputs": {"z": [1]}}), "lacks y"),
        (serve_grpc, {"z": np.float32([1])}, "lacks y"),
    ],
)
def test_any_other_failure_is_final_and_says_what_to_do(serve, answer, remedy):
    assert remedy in str(error_of(serve, answer))


@pytest.mark.promise("servers may fail")
@pytest.mark.parametrize(
    ("serve", "answer", "is_of_the_request"),
    [
        (serve_grpc, ("DEADLINE_EXCEEDED", "too slow"), True),
        (serve_grpc, ("INVALID_ARGUMENT", "the tile is odd"), True),
        (serve_rest, (413, {"error": "too large"}), True),
        (serve_rest, (504, {"error": "too slow"}), True),
        (serve_rest, (400, {"error": "the tile is odd"}), True),
        (serve_rest, (401, {"error": "who?"}), False),
        (serve_rest, (404, {"error": "no model"}), False),
        (serve_rest, (400, {"error": 'Serving signature name: "sign" not found'}), False),
        (serve_grpc, ("UNAUTHENTICATED", "who?"), False),
    ],
)
def test_what_may_be_the_fault_of_one_scan_is_told_apart(serve, answer, is_of_the_request):
    assert isinstance(error_of(serve, answer), RequestError) == is_of_the_request


def test_a_server_that_closes_amid_a_request_is_heard_out():
    """It refuses by the size that the header says, and does not wait for the rest."""
    server = socket.create_server(("127.0.0.1", 0))

    def refuse():
        client, _ = server.accept()
        client.recv(1000)
        client.sendall(b"HTTP/1.1 413 Too Large\r\ncontent-length: 9\r\n\r\ntoo large")
        client.close()

    thread = threading.Thread(target=refuse)
    thread.start()
    connection = connect(
        parse_address(f"http://127.0.0.1:{server.getsockname()[1]}/m"), ServerOptions(retries=0)
    )
    large = {"x": np.zeros(3_000_000, np.float32)}
    with pytest.raises(ServerError, match="Give a smaller --message-mb"):
        connection.predict("sign", large, ("y",), 1)
    thread.join()
    server.close()


@pytest.mark.parametrize("scheme", ["grpcs", "https"])
def test_certificates_that_cannot_be_read_are_one_clear_line(tmp_path, scheme):
    address = parse_address(f"{scheme}://localhost/m")
    missing = ServerOptions(ca_path=tmp_path / "none.pem")
    with pytest.raises(InputError, match=r"none\.pem: cannot be read .* Give a PEM file"):
        connect(address, missing)


@contextlib.contextmanager
def serve_bytes(answer, pause_s=0.0):
    """Serves HTTP: these bytes for every request, all at once or one by one."""
    requests = []

    def serve(listening):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with connection, contextlib.suppress(OSError):
                    requests.append(read_request(connection))
                    for place in range(0, len(answer), 1 if pause_s else len(answer)):
                        connection.sendall(answer[place : place + 1] if pause_s else answer)
                        time.sleep(pause_s)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=[listening], daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/m", requests
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(20)


def read_request(connection):
    """A whole request: closing a connection before its end would reset it, and lose the answer."""
    with connection.makefile("rb") as stream:
        head = b""
        while (line := stream.readline()).strip():
            head += line
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        return head + stream.read(int(length[1]) if length else 0)


def http_answer(body, status="200 OK", *headers):
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(head).encode() + body


@pytest.mark.promise("loopback only")
@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See", "307 T", "308 P"])
def test_a_scan_and_a_token_are_not_sent_on_to_another_server(status):
    with serve_rest([]) as (other, requests):
        moved = http_answer(b"", status, f"Location: {other}")
        with serve_bytes(moved) as (address, _), pytest.raises(ServerError, match="sends the req"):
            ask(address, version=1, token="secret")
        assert requests == []


@pytest.mark.promise("loopback only")
@pytest.mark.parametrize("serve", [serve_grpc, serve_rest])
def test_what_is_for_this_machine_is_not_sent_to_a_proxy(serve, monkeypatch):
    """A token may be sent to this machine unencrypted."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "grpc_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    answer = {"y": np.float32([1.5])}
    with serve([answer if serve is serve_grpc else (200, {"outputs": [1.5]})]) as (address, _):
        assert ask(address, version=1, retries=0, token="secret").outputs["y"] == [1.5]


@pytest.mark.promise("servers may fail")
@pytest.mark.parametrize("pause_s", [0.02, 0.2], ids=["body", "head"])
def test_an_answer_that_comes_letter_by_letter_is_not_waited_for(pause_s):
    with serve_bytes(http_answer(b" " * 1000), pause_s) as (address, _):
        started = time.monotonic()
        with pytest.raises(ServerError, match="no answer within 2 s"):
            ask(address, version=1, deadline_seconds=2.0)
    assert time.monotonic() - started < 6


@pytest.mark.promise("servers may fail")
def test_an_answer_that_breaks_off_is_asked_for_again():
    short = http_answer(b'{"outputs": [1.5]}')[:-3]
    with serve_bytes(short) as (address, requests):
        with pytest.raises(ServerError, match="no answer in 3 attempts"):
            ask(address, version=1)
        assert len(requests) == 3


@pytest.mark.promise("servers may fail")
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([["x" * 1_000_000]] + [["y"]] * 1_000_000, "has no arrays"),  # 4 TB as an array
        ([[1], [1, 2]], "has no arrays"),
    ],
    ids=["texts", "ragged"],
)
def test_an_answer_that_no_memory_can_hold_is_one_line(body, words):
    content = json.dumps({"outputs": body}).encode()
    with (
        serve_bytes(http_answer(content)) as (address, _),
        pytest.raises(ServerError, match=words),
    ):
        ask(address, version=1)


def test_a_version_that_is_no_number_is_none():
    state = [{"version": float("inf"), "state": "AVAILABLE"}]
    answers = [(200, {"model_version_status": state}), (200, {"outputs": [1.5]})]
    with serve_rest(answers) as (address, requests):
        assert ask(address).version is None
    assert requests[1][0] == "/v1/models/m:predict"


def test_a_terminal_obeys_nothing_that_a_server_writes():
    with (
        serve_bytes(http_answer(b"\x1b[2J\x07gone", "400 Bad")) as (address, _),
        pytest.raises(ServerError, match=r"\?\[2J\?gone"),
    ):
        ask(address, version=1)


@pytest.mark.promise("servers may fail")
@pytest.mark.parametrize("pause_s", [0.0, 0.01], ids=["breaks off", "letter by letter"])
def test_a_refusal_whose_text_does_not_come_is_one_line(pause_s):
    answer = http_answer(b"x" * 1000, "500 Error")[: None if pause_s else -500]
    started = time.monotonic()
    with (
        serve_bytes(answer, pause_s) as (address, _),
        pytest.raises(ServerError, match="the server refused the request"),
    ):
        ask(address, version=1, retries=0, deadline_seconds=5.0)
    assert time.monotonic() - started < 20


@pytest.mark.promise("servers may fail")
def test_a_refusal_whose_text_stalls_is_one_line():
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(30)
    connection = connect(
        parse_address(f"http://127.0.0.1:{server.getsockname()[1]}/m"),
        ServerOptions(retries=0, deadline_seconds=1.0),
    )

    def refuse():
        client, _ = server.accept()
        client.recv(1 << 16)
        client.sendall(http_answer(b"denied", "401 Who")[:-3])
        is_over.wait(30)
        client.close()

    is_over = threading.Event()
    thread = threading.Thread(target=refuse)
    thread.start()
    try:
        with pytest.raises(ServerError, match="access denied"):
            connection.predict("sign", INPUTS, ("y",), 1)
    finally:
        is_over.set()
        thread.join()
        server.close()


def test_waits_between_attempts_grow_to_about_a_minute(monkeypatch):
    waits = []
    monkeypatch.setattr(connections, "FIRST_WAIT_SECONDS", 0.5)
    monkeypatch.setattr(time, "sleep", waits.append)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ServerError, match="no answer in 2001 attempts"):
        ask(f"http://127.0.0.1:{port}/m", version=1, retries=2000)
    assert waits[0] < 1
    assert 30 < waits[-1] < 120
    assert max(waits) < 120


@dataclasses.dataclass
class FakeConnection:
    """A connection to a server that no longer has the version that is asked for."""

    options: ServerOptions
    is_closed: bool = False

    def predict(self, signature, inputs, outputs, version):
        raise ModelGoneError("the server has no such model")

    def close(self):
        self.is_closed = True


def test_a_version_that_is_gone_does_not_end_the_requests_for_others():
    """A scan may be read ahead, and have its voxel size recognised, while another is computed."""
    volume = np.ones((4, 4, 4), np.float32)
    connection = FakeConnection(ServerOptions())
    network = ServedNetwork(connection, 1, 2, "float32", "tile")
    with pytest.raises(ModelGoneError):
        list(network.run_all(volume, plan_tiles(volume, 2, "float32")))
    assert not connection.is_closed


@pytest.mark.parametrize(("address", "better"), [("http", "grpc"), ("https", "grpcs")])
def test_a_scan_too_large_for_text_is_not_sent_unencrypted_instead(monkeypatch, address, better):
    monkeypatch.setattr(remote_model, "MOST_JSON_BYTES", 1000)
    connection = connect(parse_address(f"{address}://host/m"), ServerOptions())
    network = ServedNetwork(connection, 1, 2, "float32", "tile")
    with pytest.raises(InputError, match=f"Use gRPC, by default {better}://host:8500/m"):
        network.plan(np.ones((4, 4, 4), np.float32))
