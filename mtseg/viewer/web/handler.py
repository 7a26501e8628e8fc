"""One connection of the page's server: who may ask, and what each request is answered with."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import secrets
import shutil
import socket
import time
import traceback
import urllib.parse
import zipfile
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtseg.errors import InputError
from mtseg.system.atomic_files import atomic_write, parse_json, writing_to

if TYPE_CHECKING:
    from mtseg.viewer.web.server import Server

_PAGE = Path(__file__).parents[1] / "page"
_STATIC = {
    "": ("index.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    **{
        name: (name, "text/javascript; charset=utf-8")
        for name in ("page.js", "list.js", "uploading.js", "viewer.js", "details.js")
    },
    "niivue.umd.js": ("niivue/niivue.umd.js", "text/javascript; charset=utf-8"),
}
"""Path below the token -> file of the package and its type. No other file is served."""

_HEADERS = {
    # The browser itself refuses any request to elsewhere.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_LONGEST_ORDER = 10_000
"""Bytes of the JSON of a request."""

_IDLE_SECONDS = 60
"""A connection on which nothing arrives for so long is closed."""

_LINGER_SECONDS = 5
"""How long the rest of a refused request is read before its connection is closed."""

_PIECE_BYTES = 1 << 20

_ALL_RESULTS = "results.zip"


class _Refusal(Exception):
    """A request that is not answered as it asks."""

    def __init__(self, status: HTTPStatus, message: str = "") -> None:
        super().__init__(message or status.phrase)
        self.status = status


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "mtseg", ""
    timeout = _IDLE_SECONDS
    disable_nagle_algorithm = True
    _num_unread, _must_close = 0, False

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def log_message(self, *_: Any) -> None:
        """Keeps requests, which contain the token, off the terminal."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answers what is not a request; nothing of it is repeated, since it may have the token."""
        self._must_close = True
        self._send_json({"error": HTTPStatus(code).phrase}, HTTPStatus(code))

    def handle_one_request(self) -> None:
        """Waits for a request and answers it."""
        self.server.connections.wait(self.connection)
        super().handle_one_request()

    def _answer(self, method: str) -> None:
        self.server.connections.serve(self.connection)
        self._num_unread, self._must_close = 0, False
        try:
            self._num_unread = self._body_bytes()
            self._check_sender(method)
            if self.command == "GET" and self.server.redeem(self.path):
                self._send_redirect(f"/{self.server.token}/")
                return
            parts = self._check_token()
            if method == "GET":
                self._get(parts)
            elif method == "PUT":
                self._put(parts)
            elif method == "POST":
                self._post(parts)
            else:
                self._delete(parts)
        except _Refusal as refusal:
            self._send_json({"error": str(refusal)}, refusal.status)
        except InputError as error:
            self._send_json({"error": str(error)}, HTTPStatus.UNPROCESSABLE_ENTITY)
        except (KeyError, ValueError):
            self._send_json({"error": "There is no such thing."}, HTTPStatus.NOT_FOUND)
        except OSError:
            raise  # the browser closed the connection
        except Exception:
            traceback.print_exc()
            self._must_close = True
            self._send_json({"error": "a defect of mtseg"}, HTTPStatus.INTERNAL_SERVER_ERROR)
        if self._num_unread:
            self._linger()

    def _linger(self) -> None:
        """Reads on for a moment before the connection is closed.

        Closing while the browser still sends resets the connection, and the answer that says why
        its upload is refused would be lost.
        """
        deadline = time.monotonic() + _LINGER_SECONDS
        self.connection.settimeout(_LINGER_SECONDS)
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            while self._num_unread and time.monotonic() < deadline and self.read(_PIECE_BYTES):
                pass

    def _check_sender(self, method: str) -> None:
        """Checks who asks.

        Raises:
            _Refusal: if the request is not from the page.
        """
        if self.headers.get_all("Host", []) not in [[host] for host in self.server.hosts]:
            raise _Refusal(HTTPStatus.FORBIDDEN, "This name is not the server's.")
        origins = self.headers.get_all("Origin", [])
        own = [f"http://{self.headers['Host']}"]
        if (origins or method != "GET") and origins != own:
            raise _Refusal(HTTPStatus.FORBIDDEN, "This request is not from the page.")
        if self.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            raise _Refusal(HTTPStatus.FORBIDDEN, "This request is not from the page.")

    def _check_token(self) -> list[str]:
        """Checks the token of the path; returns the parts of the path below it.

        Raises:
            _Refusal: if it is not that of the server.
        """
        path = urllib.parse.urlsplit(self.path).path
        _, token, *parts = [urllib.parse.unquote(part) for part in path.split("/")] + [""]
        if not secrets.compare_digest(token.encode(), self.server.token.encode()):
            raise _Refusal(HTTPStatus.NOT_FOUND, "Open the address that mtseg-view printed.")
        return parts[:-1]

    def _get(self, parts: list[str]) -> None:
        if len(parts) == 1 and parts[0] in _STATIC:
            name, kind = _STATIC[parts[0]]
            self._send_file(_PAGE / name, kind)
        elif parts == ["state"]:
            self._send_json(self.server.scans.to_json())
        elif len(parts) == 3 and parts[0] == "scans":
            scan = self.server.scans.scan(_whole(parts[1]))
            path = scan.file(parts[2], self._step())
            if parts[2] == _ALL_RESULTS and scan.result is not None:
                path = _pack(scan.out, scan.result["files"])
            if path is None:
                raise _Refusal(HTTPStatus.NOT_FOUND)
            name = parts[2]
            if name == _ALL_RESULTS and scan.result is not None:
                name = scan.result["labels"].removesuffix(".nii.gz") + ".zip"
            self._send_file(path, "application/octet-stream", name)
        else:
            raise _Refusal(HTTPStatus.NOT_FOUND)

    def _step(self) -> int:
        """Every how many voxels the browser wants."""
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        return int(query.get("step", ["1"])[0])

    def _put(self, parts: list[str]) -> None:
        """Receives a file of an upload."""
        folder, number = parts
        if folder != "uploads" or "Content-Length" not in self.headers:
            raise _Refusal(HTTPStatus.LENGTH_REQUIRED)
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        upload = self.server.scans.upload(_whole(number))
        (name,) = query["name"]
        upload.receive(name, self, self._num_unread)
        self._send_json({})

    def _post(self, parts: list[str]) -> None:
        scans, order = self.server.scans, self._read_json()
        match parts:
            case ["uploads"]:
                self._send_json({"id": scans.begin_upload(str(order["name"]))})
            case ["uploads", number]:
                self._send_json({"scans": scans.finish_upload(_whole(number))})
            case ["scans", number, "cancel"]:
                scans.cancel(_whole(number))
                self._send_json({})
            case ["scans", number, "again"]:
                scans.try_again(_whole(number))
                self._send_json({})
            case ["scans", number, "reference"]:
                scans.compare(_whole(number), _whole(order["upload"]))
                self._send_json({})
            case _:
                raise _Refusal(HTTPStatus.NOT_FOUND)

    def _delete(self, parts: list[str]) -> None:
        match parts:
            case ["uploads", number]:
                self.server.scans.remove_upload(_whole(number))
            case ["scans", number]:
                self.server.scans.remove(_whole(number))
            case _:
                raise _Refusal(HTTPStatus.NOT_FOUND)
        self._send_json({})

    def read(self, size: int) -> bytes:
        """Reads up to `size` bytes of the request's body; the source of an upload."""
        piece = self.rfile.read1(min(size, self._num_unread))
        self._num_unread -= len(piece)
        return bytes(piece)

    def _body_bytes(self) -> int:
        """The length of the request's body.

        Raises:
            _Refusal: if it is not certain: what follows could be taken for another request.
        """
        lengths = self.headers.get_all("Content-Length", ["0"])
        is_plain = len(lengths) == 1 and re.fullmatch("[0-9]{1,18}", lengths[0].strip())
        has_odd_name = any(name != name.strip() for name in self.headers)
        self._must_close = bool(not is_plain or has_odd_name or self.headers.defects)
        if self._must_close:
            raise _Refusal(HTTPStatus.BAD_REQUEST)
        if self.headers.get_all("Transfer-Encoding"):
            self._must_close = True
            raise _Refusal(HTTPStatus.LENGTH_REQUIRED)
        return int(lengths[0])

    def _read_json(self) -> dict[str, Any]:
        if self._num_unread > _LONGEST_ORDER:
            raise _Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        body = b""
        while self._num_unread and (piece := self.read(self._num_unread)):
            body += piece
        order = parse_json(body or b"{}")
        if not isinstance(order, dict):
            raise ValueError
        return order

    def _send_json(self, content: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        body = json.dumps(content).encode()
        self._send_head(status, "application/json", len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_redirect(self, place: str) -> None:
        self.send_response(HTTPStatus.SEE_OTHER)
        for key, value in {**_HEADERS, "Location": place, "Content-Length": "0"}.items():
            self.send_header(key, value)
        self.end_headers()

    def _send_file(self, path: Path, kind: str, name: str | None = None) -> None:
        try:
            file = path.open("rb")
        except OSError as error:  # its scan was removed meanwhile
            raise _Refusal(HTTPStatus.NOT_FOUND) from error
        with file:
            self._send_head(HTTPStatus.OK, kind, os.fstat(file.fileno()).st_size, name)
            if self.command != "HEAD":
                shutil.copyfileobj(file, self.wfile, 1 << 20)

    def _send_head(
        self, status: HTTPStatus, kind: str, num_bytes: int, name: str | None = None
    ) -> None:
        self.send_response(status)
        for key, value in _HEADERS.items():
            self.send_header(key, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(num_bytes))
        if name is not None:
            quoted = urllib.parse.quote(name, errors="replace")
            self.send_header("Content-Disposition", f"attachment; filename*=UTF-8''{quoted}")
        # What is left of the body would be taken for the next request.
        if self._num_unread or self._must_close:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()


def _whole(value: Any) -> int:
    """The number of a scan or upload, as the page sends it.

    Raises:
        ValueError: if it is none.
    """
    try:
        return int(value)
    except (TypeError, OverflowError) as error:
        raise ValueError from error


def _pack(out: Path, names: list[str]) -> Path:
    """A zip with all results of a scan, made when it is first asked for."""
    path = out / _ALL_RESULTS
    if not path.is_file():
        with (
            writing_to(path, "Make room."),
            atomic_write(path) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
        ):
            for name in names:
                archive.write(out / "results" / name, name)
    return path
