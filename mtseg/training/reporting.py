"""What a run reports: loss and speed while it trains; scores, pictures and weights at evaluations.

`TrainingFigures` measures the points of the loss curve. `Evaluator` scores scans that are held out
and writes what belongs to an evaluation, in TensorBoard and in the folder of the run.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorboard.plugins.pr_curve import summary as pr_curve

from mtseg.evaluation.held_out import HeldOut
from mtseg.evaluation.metrics import THRESHOLDS, precision_recall
from mtseg.evaluation.results import Evaluation
from mtseg.evaluation.scoring import evaluate_model
from mtseg.evaluation.stored_scan import StoredScan
from mtseg.inference.dense import make_dense_network
from mtseg.runs.building import build_model
from mtseg.runs.config import TrainConfig
from mtseg.runs.workdir import (
    read_finished_evaluation,
    write_evaluation,
    write_final_evaluation,
    write_labels,
)
from mtseg.system.atomic_files import writing_to
from mtseg.system.devices import describe_devices
from mtseg.system.progress import Progress, format_duration
from mtseg.system.signals import StopRequest
from mtseg.tasks.label_space import LabelSpace
from mtseg.training.failures import DivergedError


def writing_run(workdir: Path) -> contextlib.AbstractContextManager[None]:
    """Turns an error of the disk, also TensorFlow's, into one line that says how to resume.

    Args:
        workdir: folder of the run.

    Raises:
        InputError: when the block raises such an error.
    """
    remedy = (
        "Make room or use another folder, and rerun the command to resume from the last checkpoint."
    )
    return writing_to(workdir, remedy, also=(tf.errors.OpError,))


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


class Evaluator:
    """Scores scans during training, and writes what belongs to an evaluation.

    The network is evaluated as it will be used: in float32, whatever the precision of training.

    Args:
        config: configuration of the run.
        label_space: its tasks and classes.
        workdir: its folder.
        command: the command line, stored with the figures.
        held_out: which scans to score.
        logit_adjustment: float32 (logits,), or of length 1 for all; added to the logits' bias.
        is_complete: whether the last evaluation also measures surfaces and volumes, and keeps the
            label maps.
        writer: for TensorBoard.
    """

    def __init__(
        self,
        config: TrainConfig,
        label_space: LabelSpace,
        workdir: Path,
        *,
        command: str,
        held_out: HeldOut,
        logit_adjustment: npt.NDArray[np.float32],
        is_complete: bool,
        writer: tf.summary.SummaryWriter,
    ) -> None:
        self._config, self._label_space, self._workdir = config, label_space, workdir
        self._command, self._held_out, self._writer = command, held_out, writer
        self._logit_adjustment, self._is_complete = logit_adjustment, is_complete
        self._model = build_model(config, label_space)
        self._dense = make_dense_network(self._model)

    def evaluate(
        self,
        model: keras.Model,
        step: int,
        seconds: float,
        stop: StopRequest,
        *,
        is_last: bool,
        say: Callable[[str], None],
    ) -> Evaluation:
        """Scores the scans that are due; writes figures, pictures, weights and label maps.

        Every evaluation scores the scans of the learning curves. With validation scans, the test
        scans follow at the end of the run, at the operating points of the validation scans.

        Args:
            model: the network in training.
            step: number of mini-batches done.
            seconds: time spent in training up to here.
            stop: checked after every scan.
            is_last: whether this is the evaluation at the end of the run.
            say: prints a line.

        Returns:
            The figures; at the end, those of the test scans if there are any.

        Raises:
            InputError: if the folder of the run cannot be written.
            mtseg.system.signals.Stopped: if the run was asked to stop; nothing of the evaluation is
                kept.
        """
        stop.raise_if_made()
        started = time.monotonic()
        self._model.set_weights(model.get_weights())
        self._model.get_layer("logits").bias.assign_add(self._logit_adjustment)
        device = describe_devices(are_all=self._config.strategy != "default")
        held_out = self._held_out
        evaluation = self._score(
            held_out.curves,
            held_out.num_curves,
            step,
            stop,
            is_final=is_last and not held_out.num_test,
        )
        with writing_run(self._workdir):
            write_evaluation(
                self._workdir, evaluation, self._model, step, seconds, self._command, device
            )
        say(self._summarise(evaluation, step, started))
        if is_last and held_out.num_test:
            started, points = time.monotonic(), evaluation.operating_points
            evaluation = self._score(
                "test", held_out.num_test, step, stop, is_final=True, points=points
            )
            with writing_run(self._workdir):
                write_final_evaluation(self._workdir, evaluation, step, self._command, device)
            say(self._summarise(evaluation, step, started))
        if is_last and (line := describe_missed(evaluation)):
            say(line)
        return evaluation

    def _score(
        self,
        split: str,
        num_scans: int,
        step: int,
        stop: StopRequest,
        *,
        is_final: bool,
        points: Mapping[str, float] | None = None,
    ) -> Evaluation:
        """Scores the scans of a split; writes pictures, points of curves and label maps.

        Args:
            split: which scans.
            num_scans: how many these are, for the progress bar.
            step: number of mini-batches done.
            stop: checked after every scan.
            is_final: whether these are the figures that remain of the run.
            points: operating points that were chosen on validation scans; None chooses them here.
        """
        of_split = f", {split}" * (self._held_out.curves != "test")

        def advance(name: str) -> None:
            stop.raise_if_made()
            progress.advance(note=name)

        def keep_labels(task: str, scan: StoredScan, labels: npt.NDArray[np.uint8]) -> None:
            stop.raise_if_made()
            with writing_run(self._workdir):
                write_labels(self._workdir, task, scan.name, labels)

        def write_picture(task: str, picture: npt.NDArray[Any]) -> None:
            with self._writer.as_default(step=step):
                name = f"{task}{of_split}: scan, reference, prediction"
                tf.summary.image(name, picture[np.newaxis])

        with Progress(f"Evaluating{of_split}", num_scans, "scans") as progress:
            evaluation = evaluate_model(
                self._dense,
                self._label_space,
                self._config.data_dir,
                split=split,
                operating_points=points,
                points_from="validation",
                is_complete=self._is_complete and is_final,
                on_picture=write_picture,
                on_scan=advance,
                on_labels=keep_labels,
            )
        with writing_run(self._workdir):
            with self._writer.as_default(step=step):
                log_evaluation(evaluation, "" if self._held_out.curves == "test" else f"{split}/")
            self._writer.flush()
        return evaluation

    @staticmethod
    def _summarise(evaluation: Evaluation, step: int, started: float) -> str:
        return (
            f"After mini-batch {step}: mean Dice {evaluation.overall_dice():.3f} over "
            f"{len(evaluation.mean_dice())} classes of the {evaluation.split} scans (evaluated in "
            f"{format_duration(time.monotonic() - started)})."
        )

    def stored(self, step: int, *, is_last: bool) -> Evaluation | None:
        """The evaluation after so many mini-batches, if the folder has all that is wanted of it."""
        split = self._held_out.final if is_last else self._held_out.curves
        evaluation = read_finished_evaluation(self._workdir, step, split)
        is_short = evaluation is not None and self._is_complete and not evaluation.is_complete
        return None if is_short and is_last else evaluation


_MISSED_DICE = 0.0005
"""A mean Dice below this is shown as 0.000."""


def describe_missed(evaluation: Evaluation) -> str:
    """A warning that names the classes that a network does not find; empty if it finds all."""
    missed = [
        name
        for name, dice in evaluation.mean_dice().items()
        if dice is not None and dice < _MISSED_DICE
    ]
    if not missed:
        return ""
    return (
        f"warning: Dice is 0 for {', '.join(missed)}: the network does not find "
        f"{'it' if len(missed) == 1 else 'them'}. Compare scan, reference and prediction in "
        "TensorBoard. Then look at the reference labels (mtseg-check), at the loss, which a "
        "longer run or a lower --learning-rate may still bring down, and for a rare class at "
        "--class-priors drawn."
    )


def log_evaluation(evaluation: Evaluation, prefix: str = "") -> None:
    """Writes Dice of each class and precision-recall curves to the default summary writer.

    Args:
        evaluation: the figures.
        prefix: begins the name of each figure, such as `validation/`; empty for test scans that
            are scored throughout the run, as in the paper.
    """
    for name, value in evaluation.mean_dice().items():
        if value is not None:
            tf.summary.scalar(f"dice/{prefix}{name}", value)
    tasks = dict((class_name, task) for task, class_name in evaluation.classes)
    for class_name, curve in evaluation.curves.items():
        if curve["num_reference"]:
            task = tasks[class_name]
            num_voxels = int(np.sum(evaluation.confusion[task]))
            _write_curve(f"precision_recall/{prefix}{task}/{class_name}", num_voxels, curve)


def _write_curve(tag: str, num_voxels: int, curve: Mapping[str, Any]) -> None:
    """Writes a curve for TensorBoard's plugin of precision-recall curves."""
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
