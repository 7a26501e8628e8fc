"""Stopping: a SIGTERM comes in, a flag that long work looks at leaves.

A cluster sends SIGTERM before it takes a machine away. Work that sees the flag finishes what it is
at, saves, and ends without an error.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class Stopped(Exception):
    """Raised where work in progress cannot be kept and is left for the next run."""


class StopRequest:
    """Catches SIGTERM while it is entered; elsewhere than in the main thread it catches nothing.

    Attributes:
        is_made: whether the signal has come.
    """

    def __init__(self) -> None:
        self.is_made = False

    def raise_if_made(self) -> None:
        """Raises `Stopped` once the signal has come."""
        if self.is_made:
            raise Stopped

    def __enter__(self) -> StopRequest:
        self._is_main = threading.current_thread() is threading.main_thread()
        if self._is_main:
            self._before = signal.signal(signal.SIGTERM, self._make)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._is_main:
            signal.signal(signal.SIGTERM, self._before)

    def _make(self, number: int, frame: FrameType | None) -> None:
        self.is_made = True
