"""Progress of long work with an estimate of the time left, on a terminal or in a log file."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 30.0
"""How often a line is printed without a terminal."""


class Progress:
    """A progress bar on a terminal; otherwise a line every 30 seconds.

    Args:
        title: what is being done, such as `Training`.
        total: number of steps.
        unit: name of the steps, in the plural.
        done: steps that an earlier run did.
        is_quiet: whether to show nothing; of several workers only one shows progress.
    """

    def __init__(
        self, title: str, total: int, unit: str, done: int = 0, *, is_quiet: bool = False
    ) -> None:
        self._is_quiet = is_quiet
        self._title, self._total, self._unit = title, total, unit
        self._out = sys.stdout
        self._initial = self._done = done
        self._start = self._last_line = time.monotonic()
        # A closed standard error is None or raises; both mean that there is no terminal.
        is_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=title,
            unit=f" {unit}",
            disable=is_quiet or not is_terminal,
            dynamic_ncols=True,
        )

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Counts steps as done; `note` is a short text beside the count."""
        self._done += steps
        if not self._bar.disable:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(steps)
            return
        now = time.monotonic()
        if now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            speed = (self._done - self._initial) / (now - self._start)
            left = format_duration((self._total - self._done) / speed) if speed else "unknown"
            text = f"{self._title}: {self._done}/{self._total} {self._unit}, {left} left"
            self.say(f"{text}, {note}" if note else text)

    def skip(self, steps: int) -> None:
        """Counts steps as done by an earlier run, so they do not enter the speed of this one."""
        self._initial += steps
        self._done += steps
        if not self._bar.disable:
            self._bar.initial += steps
            self._bar.update(steps)

    def leave_out(self, steps: int) -> None:
        """Counts steps as done, and leaves them and all time until now out of the speed.

        For the first steps of work, if they take longer than the others.
        """
        self.skip(steps)
        self._start = time.monotonic()
        self._bar.unpause()

    def say(self, line: str) -> None:
        """Prints a line without breaking the bar."""
        if self._is_quiet or self._out is None:  # None: standard output is closed
            return
        tqdm.write(line, file=self._out)
        self._out.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()


def format_duration(seconds: float) -> str:
    """A duration for readers: `45 s`, `12 min`, `3.5 h` or `4.1 days`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"
