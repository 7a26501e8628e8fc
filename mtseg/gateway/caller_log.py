"""Lines in the log of which callers decide how many there could be.

Whoever reaches the port can cause them, also callers that are rejected. Too many would fill the
disk and hide the lines about series.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

_LOG = logging.getLogger(__name__)

MOST_LINES = 20
"""In a minute, about different callers."""

_SECONDS = 60.0


class CallerLog:
    """Logs a line for each caller and minute, and then how many were left out.

    Args:
        what: what the lines are about, in words.
        now_s: a clock that never goes back, in seconds.
    """

    def __init__(self, what: str, now_s: Callable[[], float] = time.monotonic) -> None:
        self._what, self._now_s = what, now_s
        self._lock = threading.Lock()
        self._begun_s = now_s()
        self._logged: set[str] = set()
        self._num_left_out = 0

    def say(self, caller: str, line: str) -> None:
        """Logs a line, unless there was one in this minute, or `MOST_LINES` about others.

        Args:
            caller: of lines with the same text here, the first of a minute is logged.
            line: the line.
        """
        with self._lock:
            if self._now_s() - self._begun_s >= _SECONDS:
                if self._num_left_out:
                    _LOG.info(f"left out {self._num_left_out} more lines about {self._what}")
                self._begun_s, self._num_left_out = self._now_s(), 0
                self._logged.clear()
            if caller in self._logged or len(self._logged) >= MOST_LINES:
                self._num_left_out += 1
                return
            self._logged.add(caller)
            _LOG.info(line)
