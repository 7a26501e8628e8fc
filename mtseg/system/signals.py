"""Stopping: a SIGTERM comes in, a flag that long work looks at leaves.

A cluster sends SIGTERM before it takes a machine away. Work that sees the flag finishes what it is
at, saves, and ends without an error.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Iterator


class Stopped(Exception):
    """Raised where work in progress cannot be kept and is left for the next run."""


@dataclasses.dataclass
class StopRequest:
    """Whether the signal has come."""

    is_made: bool = False

    def raise_if_made(self) -> None:
        """Raises `Stopped` once the signal has come."""
        if self.is_made:
            raise Stopped


@contextlib.contextmanager
def catch_sigterm() -> Iterator[StopRequest]:
    """Catches SIGTERM in the main thread; in any other, where Python cannot, nothing."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = signal.signal(signal.SIGTERM, lambda *_: setattr(request, "is_made", True))
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)
    if request.is_made and callable(before):
        before(signal.SIGTERM, None)  # whoever waits for it around this has to know as well
