"""Figures of training: losses and times of mini-batches come in, points of the curves leave.

TensorBoard summaries of an evaluation: figures come in, events leave by the default writer."""

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


def write_evaluation(evaluation: Evaluation) -> None:
    """Writes Dice of every class, and precision-recall curves, at the default writer's step."""
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
    # TensorFlow 2 writes a tensor with its plugin's name; the message is TensorFlow 1's.
    metadata = tf.compat.v1.SummaryMetadata.FromString(value.metadata.SerializeToString())
    tf.summary.write(tag, tf.make_ndarray(value.tensor), metadata=metadata)
