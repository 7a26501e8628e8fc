"""The open connections of the page's server, so that idle ones cannot fill it.

Every program on this machine, and every page in a browser on it, can open connections to the
server, also without its token. Each takes a thread and a file descriptor.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time

MOST = 100
"""Connections at once. A browser opens about six."""

LONGEST_WAIT_S = 60.0
"""A connection whose next request has not come completely for so long is closed."""


class Connections:
    """Knows which connections wait for a request, and closes those that have waited longest.

    Args:
        most: how many may be open at once.
        longest_wait_s: how long each may wait for its request, from the first byte to the last
            header.
    """

    def __init__(self, most: int = MOST, longest_wait_s: float = LONGEST_WAIT_S) -> None:
        self._most, self._longest_wait_s = most, longest_wait_s
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._waiting_since: dict[socket.socket, float] = {}  # the one that waits longest is first

    def add(self, connection: socket.socket) -> bool:
        """Takes up a new connection, in place of the one that waits longest if there are too many.

        Returns:
            False if there are too many and none waits: then the new one must be closed.
        """
        with self._lock:
            if len(self._open) >= self._most:
                if not self._waiting_since:
                    return False
                self._end(next(iter(self._waiting_since)))
            self._open.add(connection)
            self._waiting_since[connection] = time.monotonic()
            return True

    def wait(self, connection: socket.socket) -> None:
        """Notes that a connection waits for its next request."""
        with self._lock:
            if connection in self._open:
                self._waiting_since.setdefault(connection, time.monotonic())

    def serve(self, connection: socket.socket) -> None:
        """Notes that the request of a connection has come."""
        with self._lock:
            self._waiting_since.pop(connection, None)

    def remove(self, connection: socket.socket) -> None:
        """Forgets a connection that is closed."""
        with self._lock:
            self._open.discard(connection)
            self._waiting_since.pop(connection, None)

    def end_late(self) -> None:
        """Ends the connections that have waited too long."""
        with self._lock:
            last_s = time.monotonic() - self._longest_wait_s
            for connection in [c for c, since_s in self._waiting_since.items() if since_s < last_s]:
                self._end(connection)

    def _end(self, connection: socket.socket) -> None:
        """Ends a connection: its thread reads nothing more, and closes it."""
        del self._waiting_since[connection]
        self._open.discard(connection)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
