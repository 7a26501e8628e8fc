"""SIGTERM as a flag that long work checks between its steps.

A cluster sends SIGTERM before it takes a machine away. Work that sees the flag finishes its step,
saves, and ends without an error.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Iterator


class Stopped(Exception):
    """Raised where unfinished work cannot be saved; the next run repeats it."""


@dataclasses.dataclass
class StopRequest:
    """Whether SIGTERM has been received."""

    is_made: bool = False

    def raise_if_made(self) -> None:
        """Raises `Stopped` if the signal has been received."""
        if self.is_made:
            raise Stopped


@contextlib.contextmanager
def catch_sigterm() -> Iterator[StopRequest]:
    """Catches SIGTERM in the main thread; in other threads, where Python cannot, does nothing."""
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
        before(signal.SIGTERM, None)  # tell an enclosing `catch_sigterm` as well
