"""Figures of training: losses and times of mini-batches come in, points of the curves leave."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import numpy as np

from mtseg.config import TrainConfig
from mtseg.errors import InputError
from mtseg.progress import Progress, format_duration


class TrainingFigures:
    """Loss, speed and waiting since the last point of the curve.

    Args:
        config: of the run.
        total: mini-batches of the run.
        progress: where they are shown.

    Attributes:
        seconds: spent in training between the last two points.
    """

    def __init__(self, config: TrainConfig, total: int, progress: Progress) -> None:
        self._batch_size, self._total, self._progress = config.global_batch_size, total, progress
        self._is_estimated = False
        self._losses: list[float] = []
        self._is_first = True
        self.seconds = self._first_seconds = 0.0
        self.pause()

    def pause(self) -> None:
        """Begins to measure time anew, after something that was no training."""
        self._since, self._waited, self._timed = time.monotonic(), 0.0, 0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Time in here is spent waiting for input."""
        started = time.monotonic()
        yield
        self._waited += time.monotonic() - started

    def add(self, losses: np.ndarray) -> None:
        """Counts the mini-batches of a call."""
        self._losses += losses.tolist()
        self._timed += len(losses)
        if self._is_first:
            # The first call traces the graph; the speed is that of the calls after it.
            self._first_seconds = time.monotonic() - self._since
            self._progress.say(f"First step after {self._first_seconds:.0f} s.")
            self._is_first = False
            self.pause()

    def take(self, step: int) -> dict[str, float]:
        """The figures since the last time, by name.

        Raises:
            InputError: if the loss is not finite.
        """
        loss, count = float(np.mean(self._losses)), len(self._losses)
        if not np.isfinite(loss):
            raise InputError(
                f"the loss is {loss} within the {count} mini-batches before number {step}; "
                "training has stopped, and the weights of the checkpoint before are kept. Lower "
                "--learning-rate, or raise --warmup-minibatches."
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
                f"{format_duration(left)} more, evaluations not counted."
            )
        self._progress.advance(count, f"loss {loss:.3f}, {speed:.0f} samples/s")
        self.pause()
        return {"loss": loss, "samples_per_second": speed, "share_waiting_for_input": waited}
