"""The server of the page: HTTP on this machine alone.

Other pages in the same browser, and other users of this machine, can reach a port of the loopback
interface. So every path begins with a secret token, the Host header must name this server (against
DNS rebinding), and a request that changes something must have the page's own Origin. The browser is
started with an address that works once, because other users can read the arguments of programs.
"""

from __future__ import annotations

import http.server
import secrets
import sys
import threading
from typing import Any

from mtseg.errors import InputError
from mtseg.viewer.scan_list import ScanList
from mtseg.viewer.web.connections import Connections
from mtseg.viewer.web.handler import Handler


class Server(http.server.ThreadingHTTPServer):
    """Answers the browser of one person.

    Args:
        scans: what the page shows.
        port: 0 takes one that is free.

    Raises:
        InputError: if the port cannot be had.
    """

    daemon_threads = True
    # A port that another program listens on is refused, not shared.
    allow_reuse_address = True

    def __init__(self, scans: ScanList, port: int = 0) -> None:
        self.scans, self.connections = scans, Connections()
        self.token = secrets.token_urlsafe(24)
        self._ticket: str | None = secrets.token_urlsafe(24)
        self._ticket_lock = threading.Lock()
        try:
            super().__init__(("127.0.0.1", port), Handler)
        except (OSError, OverflowError) as error:
            raise InputError(
                f"--port {port}: cannot be used ({error}). Give another one, or leave it out."
            ) from error
        self.hosts = list_hosts(self.server_port)

    @property
    def url(self) -> str:
        """The address of the page, with its token."""
        return f"http://127.0.0.1:{self.server_port}/{self.token}/"

    @property
    def url_for_once(self) -> str:
        """An address that leads to the page once, for the arguments of a program."""
        return f"http://127.0.0.1:{self.server_port}/open/{self._ticket}"

    def redeem(self, path: str) -> bool:
        """Whether a path is that of `url_for_once`, the first time that it is asked for."""
        with self._ticket_lock:
            ticket = self._ticket
            if ticket is None or not secrets.compare_digest(
                path.encode(errors="replace"), f"/open/{ticket}".encode()
            ):
                return False
            self._ticket = None
            return True

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answers a connection in a thread of its own, unless there are too many."""
        if self.connections.add(request):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        """Closes a connection."""
        self.connections.remove(request)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Is called twice a second."""
        self.connections.end_late()
        self.scans.remove_abandoned()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of connections that a browser closed."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def list_hosts(port: int) -> tuple[str, ...]:
    """What browsers may send as the Host of a server; they leave out the port of the scheme."""
    suffixes = ("", ":80") if port == 80 else (f":{port}",)
    return tuple(f"{name}{suffix}" for name in ("127.0.0.1", "localhost") for suffix in suffixes)
