"""Requests to TensorFlow Serving over HTTP, its REST interface.

Arrays are JSON text in the interface's columnar format, five times the size of gRPC's bytes. Use it
for networks that pass HTTP only; `mtseg.serving.grpc` is faster. It needs no further packages.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.serving.address import Address, ServerOptions
from mtseg.serving.connection import (
    Connection,
    Request,
    RequestError,
    Response,
    ServerError,
    TemporaryError,
    one_line,
    read_certificates,
)
from mtseg.system.atomic_files import parse_json

_PIECE_BYTES = 1 << 20

_REFUSAL_BYTES = 10_000
"""Most bytes that are read of the text of a refusal; one line of it is shown."""


class RestConnection(Connection):
    """Requests over HTTP or HTTPS; threads may share it.

    Raises:
        InputError: if the certificates cannot be read.
    """

    def __init__(self, address: Address, options: ServerOptions) -> None:
        super().__init__(address, options)
        self._tls: ssl.SSLContext | None = None
        if address.is_encrypted:
            self._tls = ssl.create_default_context()
            if options.ca_path is not None:
                text = read_certificates(options.ca_path).decode("ascii", "replace")
                try:
                    self._tls.load_verify_locations(cadata=text)
                except (ssl.SSLError, ValueError) as error:
                    raise InputError(
                        f"{options.ca_path}: has no certificates. Give a PEM file."
                    ) from error
        handlers = [_HTTPHandler(), _HTTPSHandler(context=self._tls), _NoRedirects()]
        if address.is_loopback:
            # A proxy of the environment would get the scan, and the token unencrypted.
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)
        # A model may have any name.
        self._path = f"/v1/models/{urllib.parse.quote(address.model, safe='')}"

    def close(self) -> None:
        """Does nothing: every request opens a connection for itself."""

    def _encode(self, request: Request, inputs: Mapping[str, npt.NDArray[Any]]) -> bytes:
        lists = {name: array.tolist() for name, array in inputs.items()}
        body = json.dumps({"signature_name": request.signature, "inputs": lists}).encode()
        if len(body) > self.options.message_bytes:
            raise self._too_large(f"{len(body) / 1e6:.0f} MB of JSON")
        return body

    def _send(self, request: Request, body: bytes, seconds: float) -> Response:
        version = request.version
        if version is None:  # asked for first: a newer one may be ready after the answer
            version = self._newest_version(seconds)
        path = self._path if version is None else f"{self._path}/versions/{version}"
        columns = self._read_json(f"{path}:predict", body, seconds).get("outputs")
        if len(request.outputs) == 1 and not isinstance(columns, dict):
            # For a signature with one output, TensorFlow Serving leaves out its name.
            columns = {request.outputs[0]: columns}
        if not isinstance(columns, dict):
            raise self._not_tensorflow_serving()
        try:
            outputs = {
                name: _to_array(columns[name]) for name in request.outputs if name in columns
            }
        except (ValueError, MemoryError) as error:  # texts in an array are as long as the longest
            raise ServerError(f"{self.address}: its answer has no arrays ({error}).") from error
        return Response(outputs, version)

    def _newest_version(self, seconds: float) -> int | None:
        """The newest version that is served: an answer over REST does not say which computed it."""
        status = self._read_json(self._path, None, seconds)
        try:
            versions = status["model_version_status"]
            return max(int(v["version"]) for v in versions if v["state"] == "AVAILABLE")
        except (KeyError, TypeError, ValueError, OverflowError):
            return None

    def _read_json(self, path: str, body: bytes | None, seconds: float) -> dict[str, Any]:
        """Posts a body, or gets a path if there is none; returns the JSON object of the answer."""
        url = f"{self.address.scheme}://{self.address.netloc}{path}"
        headers = {"content-type": "application/json", **self._headers}
        request = urllib.request.Request(url, body, headers)
        try:
            with self._opener.open(request, timeout=seconds) as answer:
                most_bytes = self.options.message_bytes
                text = self._read_text(answer, time.monotonic() + seconds, most_bytes)
        except urllib.error.HTTPError as error:
            with contextlib.closing(error):
                raise self._explain(error, seconds) from error
        except (http.client.HTTPException, OSError) as error:  # URLError and timeouts are OSErrors
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise self._too_late(seconds) from error
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise ServerError(
                    f"{self.address}: its certificate is not trusted ({reason.verify_message}). "
                    "Give --ca-certificate."
                ) from error
            raise TemporaryError(str(reason) or type(reason).__name__) from error
        if len(text) > most_bytes:
            raise RequestError(
                f"{self.address}: its answer is larger than {most_bytes / 1e6:g} "
                "MB. Give a larger --message-mb."
            )
        try:
            content = parse_json(text)
        except ValueError as error:
            raise ServerError(f"{self.address}: its answer is not JSON.") from error
        if not isinstance(content, dict):
            raise self._not_tensorflow_serving()
        return content

    def _read_text(self, answer: Any, deadline_s: float, most_bytes: int) -> bytes:
        """Reads an answer, and hardly more than is accepted of it.

        Raises:
            TimeoutError: if it is not complete in time, though a little of it keeps coming.
        """
        text = bytearray()
        while piece := answer.read1(_PIECE_BYTES):
            text += piece
            if len(text) > most_bytes:
                break
            if time.monotonic() > deadline_s:
                raise TimeoutError
        if not piece and answer.length:
            raise http.client.IncompleteRead(bytes(text), answer.length)
        return bytes(text)

    def _explain(self, error: urllib.error.HTTPError, seconds: float) -> Exception:
        """The error to raise for a status code of HTTP."""
        text = ""
        try:
            body = self._read_text(error.fp, time.monotonic() + seconds, _REFUSAL_BYTES)
            text = body.decode("utf-8", "replace")
            text = str(parse_json(text)["error"])
        except (http.client.HTTPException, OSError, ValueError, KeyError, TypeError):
            text = text or error.reason
        if 300 <= error.code < 400:
            return ServerError(
                f"{self.address}: sends the request on to "
                f"{one_line(error.headers.get('Location', 'elsewhere'))}, where it is not sent "
                "unasked. Give the address of the server itself."
            )
        if error.code in (429, 502, 503):  # 502: a proxy cannot reach the server
            return TemporaryError(f"HTTP {error.code}: {one_line(text, 200)}")
        if error.code == 504:  # also TensorFlow Serving's own code for a deadline
            return self._too_late(seconds)
        if error.code in (401, 403):
            return self._not_allowed()
        if error.code == 404:
            return self._not_found(f"HTTP {error.code}: {text}")
        if error.code == 413:
            return self._too_large(text)
        return self._refused(f"HTTP {error.code}: {text}")

    def _not_tensorflow_serving(self) -> ServerError:
        return ServerError(f"{self.address}: its answer is not that of TensorFlow Serving.")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Sends neither a scan nor a token to another address than the user gave."""

    def redirect_request(self, *_: Any) -> None:
        return None


class _ReadingRefusals(http.client.HTTPConnection):
    """Reads the answer of a server that has closed the connection before the whole request came.

    Servers and proxies do so with requests that are too large; their answer says it. The head of an
    answer is waited for as long as its first byte: it may come letter by letter, too.
    """

    def getresponse(self) -> http.client.HTTPResponse:
        is_late = threading.Event()

        def end() -> None:
            is_late.set()
            if self.sock is not None:
                with contextlib.suppress(OSError):
                    self.sock.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(self.timeout or 0.0, end)
        timer.daemon = True
        timer.start()
        try:
            return super().getresponse()
        except (http.client.HTTPException, OSError) as error:
            if is_late.is_set():
                raise TimeoutError from error
            raise
        finally:
            timer.cancel()

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()  # its errors count
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            super().send(data)


class _HTTPSReadingRefusals(_ReadingRefusals, http.client.HTTPSConnection):
    pass


class _HTTPHandler(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_ReadingRefusals, request)


class _HTTPSHandler(urllib.request.HTTPSHandler):
    def __init__(self, context: ssl.SSLContext | None) -> None:
        super().__init__(context=context)
        self._given = context

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_HTTPSReadingRefusals, request, context=self._given)


def _to_array(column: Any) -> npt.NDArray[Any]:
    """An output as an array: numbers as float32 or integers, texts as they are.

    Raises:
        ValueError: if rows have different lengths.
    """
    array = np.asarray(column)
    if array.dtype == object:
        raise ValueError("rows have different lengths")
    with np.errstate(over="ignore"):  # infinite values are refused where they are used
        return array.astype(np.float32) if array.dtype == np.float64 else array
