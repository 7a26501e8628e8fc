"""Requests to TensorFlow Serving over gRPC, its `PredictionService`.

gRPC sends arrays as bytes, so it is the faster way; `mtseg.serving.rest` is for networks that pass
HTTP only. It needs the packages of `pip install 'mtseg[client]'`, which are imported when a
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
from mtseg.serving.messages import decode_response, encode_request

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
            import google.protobuf.message  # noqa: F401, for its error
            import grpc
        except ImportError as error:
            raise InputError(
                f"{address}: a server over gRPC needs packages that are not installed: "
                "pip install 'mtseg[client]'"
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
        if self.address.is_loopback:
            # A proxy of the environment would get the scan, and the token unencrypted.
            options.append(("grpc.enable_http_proxy", 0))
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
        return encode_request(
            self.address.model, request.version, request.signature, inputs, request.outputs
        )

    def _send(self, request: Request, body: bytes, seconds: float) -> Response:
        import grpc

        call = self._open_channel().unary_unary(_PREDICT)  # of bytes
        try:
            answer = call(body, timeout=seconds, metadata=tuple(self._headers.items()))
        except grpc.RpcError as error:
            raise self._explain(error, seconds) from error
        try:
            return Response(*decode_response(answer))
        except ValueError as error:
            raise ServerError(f"{self.address}: its answer has no arrays ({error}).") from error

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
