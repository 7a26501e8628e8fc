"""Server connections: arrays go to a signature of TensorFlow Serving, its answers come back.

Over gRPC or, as JSON, over HTTP. What is temporary is tried again, a few times and later and later;
everything else is one clear line.
"""

from __future__ import annotations

import abc
import http.client
import json
import random
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mtseg.errors import InputError
from mtseg.server_address import Address, ServerOptions

FIRST_WAIT_SECONDS = 0.5
"""Before the first further attempt; each next one waits twice as long."""

_CONNECT_SECONDS = 20.0
"""How long the first answer of a server may take, which computes nothing."""


class ServerError(InputError):
    """A server that does not answer as it should; no other scan would fare better."""


class ModelGoneError(ServerError):
    """The version that was asked for is no longer served."""


class Answer(NamedTuple):
    """What a server sent.

    Attributes:
        outputs: arrays by name.
        version: of the model that computed them; None where the server does not say.
    """

    outputs: dict[str, np.ndarray]
    version: int | None


class _Question(NamedTuple):
    """What `Connection.predict` is asked, with the version that it comes down to."""

    signature: str
    inputs: Mapping[str, np.ndarray]
    outputs: tuple[str, ...]
    version: int | None


class _Temporary(Exception):
    """What may be otherwise a moment later."""


class Connection(abc.ABC):
    """A server, asked for one model.

    Args:
        address: where.
        options: how.
    """

    def __init__(self, address: Address, options: ServerOptions) -> None:
        if options.token and not (address.is_encrypted or address.is_loopback):
            raise InputError(
                f"{address}: a token would travel unencrypted. Use grpcs:// or https://, or leave "
                "out the token."
            )
        self.address, self.options = address, options
        self._token = {"authorization": f"Bearer {options.token}"} if options.token else {}

    def predict(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: tuple[str, ...],
        version: int | None = None,
        is_first: bool = False,
    ) -> Answer:
        """Asks the server.

        Args:
            signature: its name.
            inputs: arrays by name.
            outputs: names of those that are wanted.
            version: of the model; None is the address's, or the newest.
            is_first: whether this is only to see who is there: nothing is computed.

        Raises:
            ModelGoneError: if that version is not served.
            ServerError: if there is no answer, or none that can be used.
        """
        wanted = self.address.version if version is None else version
        question = _Question(signature, inputs, outputs, wanted)
        seconds = min(self.options.deadline_seconds, _CONNECT_SECONDS if is_first else float("inf"))
        for attempt in range(self.options.retries + 1):
            if attempt:
                time.sleep(FIRST_WAIT_SECONDS * 2 ** (attempt - 1) * random.uniform(0.75, 1.25))
            try:
                answer = self._ask(question, seconds)
            except _Temporary as error:
                reason = str(error)
                continue
            if missing := [name for name in outputs if name not in answer.outputs]:
                raise ServerError(
                    f"{self.address}: its answer lacks {', '.join(missing)}. {_EXPORTED_BY_MTSEG}"
                )
            return answer
        raise ServerError(
            f"{self.address}: no answer in {self.options.retries + 1} attempts ({reason}). Is the "
            "server running, and is this its address?"
        )

    @abc.abstractmethod
    def _ask(self, question: _Question, seconds: float) -> Answer:
        """One attempt; raises `_Temporary` where another may be worth it."""

    @abc.abstractmethod
    def close(self) -> None:
        """Ends the connection; the next request makes another."""

    def _not_in_time(self, seconds: float) -> ServerError:
        return ServerError(
            f"{self.address}: no answer within {seconds:g} s. Give a longer --deadline-s, or a "
            "smaller --message-mb, which makes requests smaller."
        )

    def _refused(self, reason: str) -> ServerError:
        text = " ".join(reason.split())[:300]
        if "not found" in text.lower() and "signature" not in text.lower():
            return ModelGoneError(f"{self.address}: the server has no such model ({text}).")
        if "signature" in text.lower():
            return ServerError(f"{self.address}: {text}. {_EXPORTED_BY_MTSEG}")
        return ServerError(f"{self.address}: the server refused the request ({text}).")

    def _not_allowed(self) -> ServerError:
        return ServerError(f"{self.address}: access denied. Give a valid --token-file.")

    def _too_large(self, reason: str) -> ServerError:
        text = " ".join(reason.split())[:200]
        return ServerError(
            f"{self.address}: a message is larger than the server takes ({text}). Give a smaller "
            "--message-mb."
        )


_EXPORTED_BY_MTSEG = "Serve a model that mtseg-export of this version wrote."


def connect(address: Address, options: ServerOptions) -> Connection:
    """Makes a connection; nothing is sent yet.

    Raises:
        InputError: if what it needs is not installed, or the certificates cannot be read.
    """
    return (RestConnection if address.is_rest else GrpcConnection)(address, options)


class GrpcConnection(Connection):
    """Over gRPC: `tensorflow.serving.PredictionService`."""

    def __init__(self, address: Address, options: ServerOptions) -> None:
        super().__init__(address, options)
        try:
            import grpc
            import tensorflow_serving.apis.prediction_service_pb2_grpc  # noqa: F401, is it there?
        except ImportError as error:
            raise InputError(
                f"{address}: asking a server over gRPC needs packages that are not installed: "
                "pip install 'mtseg[serving]'"
            ) from error
        self._credentials = None
        if address.is_encrypted:
            roots = None if options.ca_path is None else _read_certificates(options)
            self._credentials = grpc.ssl_channel_credentials(root_certificates=roots)
        self._lock = threading.Lock()
        self._channel: Any = None

    def _stub(self) -> Any:
        import grpc
        from tensorflow_serving.apis import prediction_service_pb2_grpc

        limits = [
            ("grpc.max_send_message_length", self.options.message_bytes),
            ("grpc.max_receive_message_length", self.options.message_bytes),
        ]
        with self._lock:
            if self._channel is None and self._credentials is None:
                self._channel = grpc.insecure_channel(self.address.netloc, options=limits)
            elif self._channel is None:
                self._channel = grpc.secure_channel(
                    self.address.netloc, self._credentials, options=limits
                )
            return prediction_service_pb2_grpc.PredictionServiceStub(self._channel)

    def close(self) -> None:
        """Ends the connection, and with it all requests that are under way."""
        with self._lock:
            channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def _ask(self, question: _Question, seconds: float) -> Answer:
        import grpc
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        request.model_spec.name = self.address.model
        request.model_spec.signature_name = question.signature
        if question.version is not None:
            request.model_spec.version.value = question.version
        for name, array in question.inputs.items():
            _fill(request.inputs[name], array, tf.as_dtype(array.dtype).as_datatype_enum)
        request.output_filter.extend(question.outputs)
        try:
            response = self._stub().Predict(
                request, timeout=seconds, metadata=tuple(self._token.items())
            )
        except grpc.RpcError as error:
            raise self._meaning(error, seconds) from error
        try:
            arrays = {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}
        except (TypeError, ValueError) as error:
            raise ServerError(f"{self.address}: its answer holds no arrays ({error}).") from error
        has_version = response.model_spec.HasField("version")
        return Answer(arrays, response.model_spec.version.value if has_version else None)

    def _meaning(self, error: Any, seconds: float) -> Exception:
        import grpc

        code, details = error.code(), error.details() or ""
        if code == grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
            return self._too_large(details)
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
            return _Temporary(f"{code.name}: {' '.join(details.split())[:200]}")
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return self._not_in_time(seconds)
        if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            return self._not_allowed()
        return self._refused(f"{code.name}: {details}")


class RestConnection(Connection):
    """Over HTTP: TensorFlow Serving's REST interface, in columns."""

    def __init__(self, address: Address, options: ServerOptions) -> None:
        super().__init__(address, options)
        self._context = None
        if address.is_encrypted:
            self._context = ssl.create_default_context()
            if options.ca_path is not None:
                text = _read_certificates(options).decode("ascii", "replace")
                try:
                    self._context.load_verify_locations(cadata=text)
                except (ssl.SSLError, ValueError) as error:
                    raise InputError(
                        f"{options.ca_path}: holds no certificates. Give a PEM file."
                    ) from error

    def _ask(self, question: _Question, seconds: float) -> Answer:
        where = f"/v1/models/{self.address.model}"
        where += "" if question.version is None else f"/versions/{question.version}"
        columns = {name: array.tolist() for name, array in question.inputs.items()}
        body = json.dumps({"signature_name": question.signature, "inputs": columns}).encode()
        if len(body) > self.options.message_bytes:
            raise self._too_large(f"{len(body) / 1e6:.0f} MB of JSON")
        answer = self._read(f"{where}:predict", body, seconds)
        columns = answer.get("outputs")
        if len(question.outputs) == 1 and not isinstance(columns, dict):
            columns = {
                question.outputs[0]: columns
            }  # of a signature with one output the name is left out
        if not isinstance(columns, dict):
            raise ServerError(f"{self.address}: its answer is not that of TensorFlow Serving.")
        try:
            arrays = {
                name: _to_array(columns[name]) for name in question.outputs if name in columns
            }
        except ValueError as error:
            raise ServerError(f"{self.address}: its answer holds no arrays ({error}).") from error
        version = question.version
        return Answer(arrays, self._newest_version(seconds) if version is None else version)

    def close(self) -> None:
        """Does nothing: every request is a connection of its own."""

    def _newest_version(self, seconds: float) -> int | None:
        status = self._read(f"/v1/models/{self.address.model}", None, seconds)
        try:
            of_all = status["model_version_status"]
            return max(int(v["version"]) for v in of_all if v["state"] == "AVAILABLE")
        except (KeyError, TypeError, ValueError):
            return None

    def _read(self, where: str, body: bytes | None, seconds: float) -> dict[str, Any]:
        headers = {"content-type": "application/json", **self._token}
        url = f"{self.address.scheme}://{self.address.netloc}{where}"
        request = urllib.request.Request(url, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=seconds, context=self._context) as reply:
                text = reply.read(self.options.message_bytes + 1)
        except urllib.error.HTTPError as error:
            raise self._meaning(error) from error
        except TimeoutError as error:
            raise self._not_in_time(seconds) from error
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise self._not_in_time(seconds) from error
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise ServerError(
                    f"{self.address}: its certificate is not trusted ({reason.verify_message}). "
                    "Give --ca-certificate."
                ) from error
            raise _Temporary(str(reason) or type(reason).__name__) from error
        if len(text) > self.options.message_bytes:
            raise ServerError(
                f"{self.address}: its answer is larger than {self.options.message_bytes / 1e6:g} "
                "MB. Give a larger --message-mb."
            )
        try:
            answer = json.loads(text)
        except ValueError as error:
            raise ServerError(f"{self.address}: its answer is no JSON.") from error
        if not isinstance(answer, dict):
            raise ServerError(f"{self.address}: its answer is not that of TensorFlow Serving.")
        return answer

    def _meaning(self, error: urllib.error.HTTPError) -> Exception:
        text = error.read(10_000).decode("utf-8", "replace")
        try:
            text = str(json.loads(text)["error"])
        except (ValueError, KeyError, TypeError):
            text = text or error.reason
        if error.code in (429, 503):
            return _Temporary(f"HTTP {error.code}: {' '.join(text.split())[:200]}")
        if error.code in (401, 403):
            return self._not_allowed()
        if error.code == 413:
            return self._too_large(text)
        return self._refused(f"HTTP {error.code}: {text}")


def _fill(proto: Any, array: np.ndarray, dtype: int) -> None:
    """Puts numbers into a tensor's protocol buffer, with one copy less than TensorFlow's way."""
    proto.dtype = dtype
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    proto.tensor_content = array.tobytes()


def _to_array(column: Any) -> np.ndarray:
    array = np.asarray(column)
    if array.dtype == object:
        raise ValueError("rows of different lengths")
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _read_certificates(options: ServerOptions) -> bytes:
    assert options.ca_path is not None
    try:
        return options.ca_path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{options.ca_path}: cannot be read ({error.strerror}). Give a PEM file."
        ) from error
