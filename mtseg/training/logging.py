"""What a run logs: loss and speed on the terminal, curves of an evaluation in TensorBoard."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.plugins.pr_curve import summary as pr_curve

from mtseg.errors import InputError
from mtseg.evaluation.metrics import THRESHOLDS, precision_recall
from mtseg.evaluation.results import Evaluation
from mtseg.system.progress import Progress, format_duration
from mtseg.training.config import TrainConfig


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
        self.pause()

    def pause(self) -> None:
        """Restarts the clock after something that was not training, such as an evaluation."""
        self._since, self._waited, self._timed = time.monotonic(), 0.0, 0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Measures the time in the block as waiting for input."""
        started = time.monotonic()
        yield
        self._waited += time.monotonic() - started

    def add(self, losses: np.ndarray) -> None:
        """Counts the mini-batches of a call."""
        self._losses += losses.tolist()
        self._timed += len(losses)
        if self._is_first:
            # The first call traces the graph, so the speed is measured on the calls after it.
            self._first_seconds = time.monotonic() - self._since
            self._progress.say(f"First step after {self._first_seconds:.0f} s.")
            self._is_first = False
            self.pause()

    def take(self, step: int) -> dict[str, float]:
        """Returns the figures since the last call, by name.

        Raises:
            InputError: if the loss is not finite.
        """
        loss, count = float(np.mean(self._losses)), len(self._losses)
        if not np.isfinite(loss):
            raise InputError(
                f"the loss is {loss} in the {count} mini-batches before number {step}. Training "
                "has stopped; the last checkpoint is kept. Lower --learning-rate, or raise "
                "--warmup-minibatches."
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
        self.pause()
        return {"loss": loss, "samples_per_second": speed, "share_waiting_for_input": waited}


def log_evaluation(evaluation: Evaluation) -> None:
    """Writes Dice of each class and precision-recall curves to the default summary writer."""
    for name, value in evaluation.mean_dice().items():
        if value is not None:
            tf.summary.scalar(f"dice/{name}", value)
    tasks = dict((class_name, task) for task, class_name in evaluation.classes)
    for class_name, curve in evaluation.curves.items():
        if curve["num_reference"]:
            task = tasks[class_name]
            num_voxels = int(np.sum(evaluation.confusion[task]))
            _write_curve(f"precision_recall/{task}/{class_name}", num_voxels, **curve)


def _write_curve(tag: str, num_voxels: int, **curve: Any) -> None:
    precision, recall = precision_recall(**curve)
    positives, right = np.array(curve["num_predicted"]), np.array(curve["num_overlap"])
    missed = curve["num_reference"] - right
    message = pr_curve.raw_data_pb(
        name=tag,
        true_positive_counts=right,
        false_positive_counts=positives - right,
        true_negative_counts=num_voxels - positives - missed,
        false_negative_counts=missed,
        precision=precision,
        recall=recall,
        num_thresholds=len(THRESHOLDS),
    )
    (value,) = message.value
    # The message is TensorFlow 1's; TensorFlow 2 writes a tensor with the plugin's metadata.
    metadata = tf.compat.v1.SummaryMetadata.FromString(value.metadata.SerializeToString())
    tf.summary.write(tag, tf.make_ndarray(value.tensor), metadata=metadata)
