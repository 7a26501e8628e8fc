"""Requests to TensorFlow Serving over gRPC, its `PredictionService`.

gRPC sends arrays as bytes, so it is the faster way; `mtseg.serving.rest` is for networks that pass
HTTP only. It needs the packages of `pip install 'mtseg[serving]'`, which are imported when a
connection is made.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.serving.address import Address, ServerOptions
from mtseg.serving.connection import (
    Connection,
    Request,
    Response,
    ServerError,
    TemporaryError,
    one_line,
    read_certificates,
)

if TYPE_CHECKING:
    import grpc


_PREDICT = "/tensorflow.serving.PredictionService/Predict"

_CHANNEL = (
    # If the host has several addresses (a headless service of Kubernetes), requests go to each of
    # them in turn. gRPC's own choice is the first one for all.
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
    # Notices a server that is gone without a word while it computes. Servers close connections that
    # ask more often than every five minutes.
    ("grpc.keepalive_time_ms", 310_000),
)


class GrpcConnection(Connection):
    """A connection over gRPC; threads may share it.

    Raises:
        InputError: if a needed package is not installed, or the certificates cannot be read.
    """

    def __init__(self, address: Address, options: ServerOptions) -> None:
        super().__init__(address, options)
        try:
            import grpc
            import tensorflow_serving.apis.predict_pb2  # noqa: F401, for its error
        except ImportError as error:
            raise InputError(
                f"{address}: a server over gRPC needs packages that are not installed: "
                "pip install 'mtseg[serving]'"
            ) from error
        self._credentials: grpc.ChannelCredentials | None = None
        if address.is_encrypted:
            roots = None if options.ca_path is None else read_certificates(options.ca_path)
            self._credentials = grpc.ssl_channel_credentials(root_certificates=roots)
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None

    def _open_channel(self) -> grpc.Channel:
        """The channel of all threads, made with the first request."""
        import grpc

        options = [
            ("grpc.max_send_message_length", self.options.message_bytes),
            ("grpc.max_receive_message_length", self.options.message_bytes),
            *_CHANNEL,
        ]
        with self._lock:
            if self._channel is None:
                self._channel = (
                    grpc.insecure_channel(self.address.netloc, options=options)
                    if self._credentials is None
                    else grpc.secure_channel(
                        self.address.netloc, self._credentials, options=options
                    )
                )
            return self._channel

    def close(self) -> None:
        """Closes the connection, which cancels all requests that wait for an answer."""
        with self._lock:
            channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def _encode(self, request: Request, inputs: Mapping[str, npt.NDArray[Any]]) -> bytes:
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        message = predict_pb2.PredictRequest()
        message.model_spec.name = self.address.model
        message.model_spec.signature_name = request.signature
        if request.version is not None:
            message.model_spec.version.value = request.version
        for name, array in inputs.items():
            _fill(message.inputs[name], array, tf.as_dtype(array.dtype).as_datatype_enum)
        message.output_filter.extend(request.outputs)
        body: bytes = message.SerializeToString()
        return body

    def _send(self, request: Request, body: bytes, seconds: float) -> Response:
        import grpc
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        # The stub of these packages takes a message in place of its bytes, and would keep both.
        call = self._open_channel().unary_unary(
            _PREDICT, response_deserializer=predict_pb2.PredictResponse.FromString
        )
        try:
            answer = call(body, timeout=seconds, metadata=tuple(self._headers.items()))
        except grpc.RpcError as error:
            raise self._explain(error, seconds) from error
        try:
            outputs = {name: tf.make_ndarray(proto) for name, proto in answer.outputs.items()}
        except (TypeError, ValueError) as error:
            raise ServerError(f"{self.address}: its answer has no arrays ({error}).") from error
        has_version = answer.model_spec.HasField("version")
        return Response(outputs, answer.model_spec.version.value if has_version else None)

    def _explain(self, error: grpc.RpcError, seconds: float) -> Exception:
        """The error to raise for a status code of gRPC."""
        import grpc

        code, details = error.code(), error.details() or ""
        # gRPC has one code for a message beyond a limit and for an overloaded server; of these only
        # the second is temporary, and only the text tells which it is.
        if code == grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
            return self._too_large(details)
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
            return TemporaryError(f"{code.name}: {one_line(details, 200)}")
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return self._too_late(seconds)
        if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            return self._not_allowed()
        if code == grpc.StatusCode.NOT_FOUND:
            return self._not_found(f"{code.name}: {details}")
        return self._refused(f"{code.name}: {details}")


def _fill(proto: Any, array: npt.NDArray[Any], dtype: int) -> None:
    """Writes an array into a `TensorProto`, with one copy less than `tf.make_tensor_proto`."""
    proto.dtype = dtype
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    proto.tensor_content = array.tobytes()
