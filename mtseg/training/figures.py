"""The points of the loss curve, and how long a run takes: loss, speed, and waiting for input."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from mtseg.runs.config import TrainConfig
from mtseg.system.devices import describe_devices
from mtseg.system.progress import Progress, format_duration
from mtseg.training.failures import DivergedError

_SECONDS_TO_ESTIMATE = 3.0
"""How long mini-batches are timed before the time of the run is estimated from them."""


class TrainingFigures:
    """Loss, speed and time spent waiting for input since the last point of the curve.

    Also says how long the run takes: when a few mini-batches have been timed on this device, and
    with evaluations when the first of these has been timed.

    Args:
        config: configuration of the run.
        total: number of mini-batches of the run.
        progress: where the figures are shown.
        scans_after: number of mini-batches -> how many scans are scored after these. Empty if none
            are scored during the run.

    Attributes:
        seconds: time spent in training between the last two points.
    """

    def __init__(
        self,
        config: TrainConfig,
        total: int,
        progress: Progress,
        scans_after: Mapping[int, int],
    ) -> None:
        self._config, self._total, self._progress = config, total, progress
        self._batch_size, self._scans_after = config.global_batch_size, scans_after
        self._is_estimated = self._is_evaluation_timed = False
        self._num_timed, self._paused, self._waited_in_all = 0, 0.0, 0.0
        self._losses: list[float] = []
        self._is_first, self._num_shown = True, 0
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
        waited = time.monotonic() - started
        self._waited += waited
        self._waited_in_all += waited

    @contextlib.contextmanager
    def evaluating(self, step: int) -> Iterator[None]:
        """Measures the time in the block as an evaluation after so many mini-batches."""
        started = time.monotonic()
        yield
        seconds = time.monotonic() - started
        self._paused += seconds
        self.restart_clock()
        if step in self._scans_after and not self._is_evaluation_timed and self._num_timed:
            self._is_evaluation_timed = True
            num_left = sum(count for at, count in self._scans_after.items() if at > step)
            if num_left:
                left = (self._total - step) * self._seconds_each()
                left += num_left * seconds / self._scans_after[step]
                self._progress.say(f"About {format_duration(left)} left, with evaluations.")

    def _seconds_each(self) -> float:
        """Seconds of a mini-batch, with checkpoints and without evaluations."""
        return (time.monotonic() - self._timed_since - self._paused) / self._num_timed

    def add(self, losses: npt.NDArray[np.float32]) -> None:
        """Counts the mini-batches of a call, whose losses are float32 (mini-batches,)."""
        self._losses += losses.tolist()
        self._timed += len(losses)
        if self._is_first:
            # The first call traces the graph, so the speed is measured on the calls after it.
            self._first_seconds = time.monotonic() - self._since
            self._progress.say(f"First step after {self._first_seconds:.0f} s.")
            self._is_first = False
            self._progress.leave_out(len(losses))
            self._num_shown = len(losses)
            self.restart_clock()
            self._timed_since, self._waited_in_all = self._since, 0.0
        else:
            self._num_timed += len(losses)

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
        num_new, self._num_shown = count - self._num_shown, 0
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
            self._progress.advance(num_new, f"loss {loss:.3f}")
            return {"loss": loss}
        speed = self._timed * self._batch_size / elapsed
        waited = self._waited / elapsed
        self._estimate(step)
        self._progress.advance(num_new, f"loss {loss:.3f}, {speed:.0f} samples/s")
        self.restart_clock()
        return {"loss": loss, "samples_per_second": speed, "share_waiting_for_input": waited}

    def _estimate(self, step: int) -> None:
        """Says, once, how long the rest of the run takes, if enough of it has been timed."""
        each = self._seconds_each()
        timed = each * self._num_timed
        if self._is_estimated or timed < _SECONDS_TO_ESTIMATE:
            return
        self._is_estimated = True
        device = describe_devices(are_all=self._config.strategy != "default")
        left = self._total - step
        num_scans = sum(count for at, count in self._scans_after.items() if at >= step)
        self._progress.say(
            f"About {format_duration(left * each)} for {left} mini-batches of {self._batch_size}: "
            f"{self._batch_size / each:.0f} samples/s on {device}, "
            f"{self._waited_in_all / timed:.0%} of the time waiting for input. "
            + (f"Evaluations of {num_scans} scans come on top." if num_scans else "No evaluations.")
        )
