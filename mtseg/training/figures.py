"""The points of the loss curve: loss, speed, and time spent waiting for input."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from mtseg.runs.config import TrainConfig
from mtseg.system.progress import Progress, format_duration
from mtseg.training.failures import DivergedError


class TrainingFigures:
    """Loss, speed and time spent waiting for input since the last point of the curve.

    Args:
        config: configuration of the run.
        total: number of mini-batches of the run.
        progress: where the figures are shown.

    Attributes:
        seconds: time spent in training between the last two points.
    """

    def __init__(self, config: TrainConfig, total: int, progress: Progress) -> None:
        self._batch_size, self._total, self._progress = config.global_batch_size, total, progress
        self._is_estimated = False
        self._losses: list[float] = []
        self._is_first = True
        self.seconds = self._first_seconds = 0.0
        self.restart_clock()

    def restart_clock(self) -> None:
        """Restarts the clock after something that was not training, such as an evaluation."""
        self._since, self._waited, self._timed = time.monotonic(), 0.0, 0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Measures the time in the block as waiting for input."""
        started = time.monotonic()
        yield
        self._waited += time.monotonic() - started

    def add(self, losses: npt.NDArray[np.float32]) -> None:
        """Counts the mini-batches of a call, whose losses are float32 (mini-batches,)."""
        self._losses += losses.tolist()
        self._timed += len(losses)
        if self._is_first:
            # The first call traces the graph, so the speed is measured on the calls after it.
            self._first_seconds = time.monotonic() - self._since
            self._progress.say(f"First step after {self._first_seconds:.0f} s.")
            self._is_first = False
            self.restart_clock()

    def take(self, step: int) -> dict[str, float]:
        """Returns the figures since the last call, by name, and shows them.

        Args:
            step: number of mini-batches done.

        Returns:
            `loss`, and if more than the first call was measured also `samples_per_second` and
            `share_waiting_for_input`.

        Raises:
            DivergedError: if the loss of a mini-batch is not finite.
        """
        loss, count = float(np.mean(self._losses)), len(self._losses)
        (diverged,) = np.nonzero(~np.isfinite(self._losses))
        if diverged.size:
            first = int(diverged[0])
            number = step - count + first + 1
            raise DivergedError(
                f"the loss is {self._losses[first]} at mini-batch {number}.", minibatch=number
            )
        self._losses = []
        elapsed = time.monotonic() - self._since
        self.seconds, self._first_seconds = elapsed + self._first_seconds, 0.0
        if not self._timed:
            self._progress.advance(count, f"loss {loss:.3f}")
            return {"loss": loss}
        speed = self._timed * self._batch_size / elapsed
        waited = self._waited / elapsed
        if not self._is_estimated:
            self._is_estimated = True
            left = (self._total - step) * self._batch_size / speed
            self._progress.say(
                f"{speed:.0f} samples/s, {waited:.0%} of the time waiting for input: "
                f"{self._total} mini-batches of {self._batch_size} take about "
                f"{format_duration(left)} more, without evaluations."
            )
        self._progress.advance(count, f"loss {loss:.3f}, {speed:.0f} samples/s")
        self.restart_clock()
        return {"loss": loss, "samples_per_second": speed, "share_waiting_for_input": waited}
