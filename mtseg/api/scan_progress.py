"""The progress of scans that are segmented: bars of the command, and what `mtseg.segment` shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mtseg.system.progress import Progress

if TYPE_CHECKING:
    from mtseg.prediction.pipeline import Work


class ScanBars:
    """One progress bar per scan, by the operations done, and lines between them.

    Args:
        num_scans: number of scans.
        precision: of the convolutions.
    """

    def __init__(self, num_scans: int, precision: str) -> None:
        self._num_scans, self._precision = num_scans, precision
        self._number, self._path = 0, Path()
        self._bar: Progress | None = None
        self._left = 0.0

    def start(self, path: Path, work: Work) -> None:
        """Starts the bar of a scan and prints how much work it is."""
        num_tiles = len(work.plan.tiles)
        self.say(
            f"{path}: {work.plan.flop / 1e12:.2f} TFLOP in {self._precision}, {num_tiles} "
            f"tile{'s' * (num_tiles != 1)}, at most {work.peak_bytes / 1e9:.2f} GB."
        )
        self._number += path != self._path  # a scan may be started again
        self._path = path
        title = f"{path.name} ({self._number} of {self._num_scans})"
        self._bar = Progress(title, round(work.plan.flop / 1e9), "GFLOP")
        self._left = 0.0

    def advance(self, flop: int) -> None:
        """Counts operations as done."""
        assert self._bar is not None
        self._left += flop / 1e9
        self._bar.advance(int(self._left))
        self._left -= int(self._left)

    def say(self, line: str) -> None:
        """Prints a line without breaking the bar."""
        if self._bar is None:
            print(line, flush=True)
        else:
            self._bar.say(line)


class ScanProgress:
    """Shows the progress of some scans, or hands it to a function.

    Args:
        num_scans: number of scans.
        progress: as for `mtseg.segment`.
    """

    def __init__(self, num_scans: int, progress: bool | Callable[[float], None]) -> None:
        self._num_scans, self._progress = num_scans, progress
        self._number = self._flop = self._total = 0
        self._bar: Progress | None = None

    def start(self, path: Path, work: Work) -> None:
        """Begins with a scan, or once more with the same."""
        self._number += self._flop >= self._total  # else the same scan begins once more
        self._flop, self._total = 0, max(work.plan.flop, 1)
        if self._progress is True:
            title = f"{path.name} ({self._number} of {self._num_scans})"
            self._close()
            self._bar = Progress(title, 100, "%")

    def advance(self, flop: int) -> None:
        """Counts operations as done."""
        before, self._flop = self._flop, self._flop + flop
        if self._bar is not None:
            self._bar.advance(100 * self._flop // self._total - 100 * before // self._total)
        if callable(self._progress):
            self._progress((self._number - 1 + self._flop / self._total) / self._num_scans)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)

    def __enter__(self) -> ScanProgress:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()
