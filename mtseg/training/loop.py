"""Training: a configuration and a folder come in, weights, checkpoints and curves leave.

`train_and_evaluate(config, workdir)` is the whole interface. The same call again goes on from the
latest checkpoint. On several machines each of them makes the same call; only the first writes.

Reference: Moeskops et al., MICCAI 2016, sections 3.2 and 4.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mtseg.batches.logit_adjustment import logit_adjustment
from mtseg.batches.pipeline import make_dataset, open_balanced_samples
from mtseg.errors import InputError, WorkerLostError
from mtseg.evaluation.results import Evaluation
from mtseg.evaluation.scoring import evaluate_model
from mtseg.evaluation.stored_scan import StoredScan
from mtseg.inference.dense import make_dense_network
from mtseg.records.reading import count_test_scans
from mtseg.system import atomic_files
from mtseg.system.atomic_files import atomic_write, lock_folder, writing_to
from mtseg.system.checksums import file_checksum
from mtseg.system.hardware import describe_machine
from mtseg.system.progress import Progress, format_duration
from mtseg.system.signals import Stopped, StopRequest, catch_sigterm
from mtseg.tasks.label_space import LabelSpace, parse_tasks
from mtseg.training import network
from mtseg.training import workdir as folder
from mtseg.training.checkpoints import Checkpoints
from mtseg.training.config import TrainConfig
from mtseg.training.logging import TrainingFigures, write_evaluation
from mtseg.training.strategies import Replicas, configure_devices, make_replicas
from mtseg.training.tensorflow_step import TrainingStep

_STEPS_BETWEEN_FIGURES = 10
"""Mini-batches between two points of the loss curve."""


_PROFILED_CALLS = range(5, 10)
"""The calls, counted from where a run begins, that `is_profiling` records."""


_LOST_WORKER = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)
"""What TensorFlow raises in the workers that are left when one dies."""


def train_and_evaluate(
    config: TrainConfig,
    workdir: str | Path,
    command: str = "",
    *,
    is_profiling: bool = False,
    is_complete: bool = False,
    on_step: Callable[[int], None] = lambda step: None,
) -> Evaluation | None:
    """Trains a network and evaluates it on the test scans of its tasks.

    Args:
        config: what to train.
        workdir: the run's folder; made if missing. A folder that already holds the same
            configuration is gone on with.
        command: the command line, kept with the figures.
        is_profiling: whether to record a few mini-batches for TensorBoard's profiler.
        is_complete: whether the last evaluation measures surfaces and volumes as well, and keeps
            the label maps.
        on_step: called with the number of mini-batches seen, where the run begins or goes on, and
            after each call.

    Returns:
        The evaluation after the last mini-batch; None where a SIGTERM has ended the run before
        (it is saved), and in every worker but the first.

    Raises:
        InputError: if data is not prepared, the folder holds another configuration or cannot be
            written, or the loss is no longer finite.
        WorkerLostError: if another worker has died.
    """
    workdir = Path(workdir)
    configure_devices(config.is_deterministic, config.num_threads)
    replicas = make_replicas(config.strategy)
    replicas.share(config.global_batch_size)  # Refuses one that cannot be divided.
    with contextlib.ExitStack() as held, catch_sigterm() as stop:
        run = _Run(config, workdir, replicas, command, is_complete, on_step, held)
        try:
            return run.go_on(stop, is_profiling)
        except Stopped:
            run.say("Stopped; the same command again goes on from here.")
            return None
        except _LOST_WORKER as error:
            if config.strategy != "multiworker":
                raise
            raise WorkerLostError(
                f"{workdir}: another worker was lost ({type(error).__name__}). The same command "
                "on every worker goes on from the last checkpoint."
            ) from error


def plan_calls(start: int, total: int, steps_per_call: int, *every: int) -> list[tuple[int, int]]:
    """Divides mini-batches into calls that end wherever something is due.

    Args:
        start: mini-batches that have been seen.
        total: mini-batches of the run.
        steps_per_call: most mini-batches in a call.
        *every: something is due after each so many mini-batches.

    Example:
        >>> plan_calls(2, 11, 4, 5)
        [(2, 5), (5, 9), (9, 10), (10, 11)]
    """
    calls = []
    while start < total:
        due = [(start // n + 1) * n for n in every]
        stop = min(start + steps_per_call, total, *due)
        calls.append((start, stop))
        start = stop
    return calls


class _Run:
    """A run's folder and state."""

    def __init__(
        self,
        config: TrainConfig,
        workdir: Path,
        replicas: Replicas,
        command: str,
        is_complete: bool,
        on_step: Callable[[int], None],
        held: contextlib.ExitStack,
    ) -> None:
        self._config, self._workdir, self._command = config, workdir, command
        self._is_complete, self._on_step = is_complete, on_step
        self._replicas = replicas
        self._label_space = label_space = parse_tasks(config.tasks)
        self._num_test_scans = count_test_scans(config.data_dir, label_space)
        self._samples = open_balanced_samples(
            config.data_dir,
            label_space,
            config.seed,
            kind=config.input,
            augmentations=config.augmentations,
            backgrounds=config.backgrounds,
        )
        num_tasks = len(label_space.selections)
        self._total = config.minibatches_per_task * num_tasks
        self._evaluate_every = config.evaluate_every * num_tasks
        if replicas.is_chief:
            with _writing(workdir):
                workdir.mkdir(parents=True, exist_ok=True)
                held.enter_context(
                    lock_folder(
                        workdir, f"{workdir}: another command is training here. Wait for it."
                    )
                )
                _claim_workdir(workdir, config, label_space)
        else:
            print("The first worker reports on the run and writes its folder.", flush=True)
        self._step = TrainingStep(config, label_space, replicas)
        self._seconds = tf.Variable(0.0, dtype=tf.float64)
        self._checkpoints = Checkpoints(
            workdir / "checkpoints", config.keep, seconds=self._seconds, **self._step.state()
        )
        # Evaluated as it will be used: with float32 weights, whatever the precision of training.
        self._evaluated = network.build_model(config, label_space)
        self._dense = make_dense_network(self._evaluated)
        self._score_shift = np.zeros(1, np.float32)
        self._writer = tf.summary.create_noop_writer()
        if replicas.is_chief:
            with _writing(workdir):
                self._writer = tf.summary.create_file_writer(str(workdir / "tensorboard"))
            if config.class_priors == "natural":
                self._score_shift = logit_adjustment(
                    config.data_dir, label_space, config.backgrounds
                )

    def say(self, line: str) -> None:
        """Prints a line, in the first worker alone."""
        if self._replicas.is_chief:
            print(line, flush=True)

    def go_on(self, stop: StopRequest, is_profiling: bool) -> Evaluation | None:
        """Trains from the latest checkpoint to the end, and evaluates where it is due."""
        start = self._checkpoints.restore_latest()
        self._on_step(start)
        if self._replicas.is_chief:
            self._checkpoints.clean(start)
        if start == 0:
            with self._writer.as_default(step=0):
                tf.summary.text("configuration", f"```\n{self._config.to_json()}```")
        else:
            self.say(f"Going on after mini-batch {start} of {self._total}.")
        evaluation = self._stored_evaluation(start)
        if evaluation is None and start and self._is_evaluation(start):
            # The run was stopped between the checkpoint and the end of its evaluation.
            evaluation = self._evaluate(start, stop)
        calls = plan_calls(
            start,
            self._total,
            self._config.steps_per_call,
            self._config.checkpoint_every,
            self._evaluate_every,
            _STEPS_BETWEEN_FIGURES,
        )
        # A run that ends sooner is recorded to its end.
        profiled = _PROFILED_CALLS[: max(len(calls) - _PROFILED_CALLS.start, 0)]
        is_profiling = is_profiling and self._replicas.is_chief and len(profiled) > 0
        batches = self._replicas.deal_out(
            lambda shares: make_dataset(
                self._samples, self._config.global_batch_size, calls, shares=shares
            ),
            self._config.global_batch_size,
        )
        with Progress(
            "Training", self._total, "mini-batches", start, is_quiet=not self._replicas.is_chief
        ) as progress:
            figures = TrainingFigures(self._config, self._total, progress)
            for number, (_, step) in enumerate(calls):
                if is_profiling and number == profiled.start:
                    tf.profiler.experimental.start(str(self._workdir / "tensorboard"))
                with figures.waiting():
                    patches, score_index = self._next(batches)
                losses, is_stopping = self._step(patches, score_index, stop.is_made)
                figures.add(losses.numpy())
                self._on_step(step)
                if is_profiling and number == profiled.stop - 1:
                    tf.profiler.experimental.stop()
                is_evaluation = self._is_evaluation(step)
                is_checkpoint = is_evaluation or step % self._config.checkpoint_every == 0
                if is_checkpoint or is_stopping or step % _STEPS_BETWEEN_FIGURES == 0:
                    self._summarise(step, figures.take(step))
                    self._seconds.assign_add(figures.seconds)
                if is_checkpoint or is_stopping:
                    # Before the evaluation, so that one that is cut short costs no training.
                    self._save(step)
                    figures.pause()
                if is_stopping:
                    raise Stopped
                if is_evaluation:
                    evaluation = self._evaluate(step, stop, progress)
                    figures.pause()
        return evaluation if self._replicas.is_chief else None

    def _is_evaluation(self, step: int) -> bool:
        return step == self._total or step % self._evaluate_every == 0

    def _next(self, batches: Iterator[Any]) -> Any:
        try:
            return next(batches)
        except tf.errors.OpError:
            if self._samples.refusal is not None:
                raise self._samples.refusal from None
            raise

    def _save(self, step: int) -> None:
        if self._replicas.is_chief:
            with _writing(self._workdir):
                self._checkpoints.save(step)

    def _summarise(self, step: int, figures: dict[str, float]) -> None:
        with _writing(self._workdir), self._writer.as_default(step=step):
            for name, value in figures.items():
                tf.summary.scalar(name, value)
            rate = float(tf.convert_to_tensor(self._step.optimizer.learning_rate))
            tf.summary.scalar("learning_rate", rate)
            self._writer.flush()

    def _evaluate(
        self, step: int, stop: StopRequest, progress: Progress | None = None
    ) -> Evaluation | None:
        """Scores the test scans, and writes figures, pictures and weights."""
        if not self._replicas.is_chief:
            return None
        stop.raise_if_made()
        started = time.monotonic()
        self._evaluated.set_weights(self._step.model.get_weights())
        self._evaluated.get_layer("logits").bias.assign_add(self._score_shift)
        with Progress("Evaluating", self._num_test_scans, "scans") as scans:

            def advance(name: str) -> None:
                stop.raise_if_made()
                scans.advance(note=name)

            def keep_labels(task: str, scan: StoredScan, labels: np.ndarray) -> None:
                stop.raise_if_made()
                with _writing(self._workdir):
                    folder.write_labels(self._workdir, task, scan.name, labels)

            evaluation = evaluate_model(
                self._dense,
                self._label_space,
                self._config.data_dir,
                is_complete=self._is_complete and step == self._total,
                on_picture=lambda task, image: self._write_picture(step, task, image),
                on_scan=advance,
                on_labels=keep_labels,
            )
        mean_dice = evaluation.mean_dice()
        with _writing(self._workdir):
            with self._writer.as_default(step=step):
                write_evaluation(evaluation)
            self._writer.flush()
            self._keep_weights(step, evaluation)
        line = (
            f"After mini-batch {step}: mean Dice {_mean(mean_dice):.3f} over {len(mean_dice)} "
            f"classes (evaluated in {format_duration(time.monotonic() - started)})."
        )
        (progress.say if progress else self.say)(line)
        return evaluation

    def _write_picture(self, step: int, task: str, picture: np.ndarray) -> None:
        with self._writer.as_default(step=step):
            tf.summary.image(f"{task}: scan, reference, prediction", picture[np.newaxis])

    def _keep_weights(self, step: int, evaluation: Evaluation) -> None:
        score = _mean(evaluation.mean_dice())
        # A run that went on from an earlier checkpoint comes here a second time.
        curve = [p for p in folder.read_curve(self._workdir) if p["minibatch"] < step]
        is_best = all(score > point["mean_dice"] for point in curve)
        seconds = float(self._seconds.numpy())
        curve.append(
            {
                "minibatch": step,
                "training_seconds": seconds,
                "mean_dice": score,
                "dice": evaluation.mean_dice(),
            }
        )
        last = folder.weights_path(self._workdir, "last")
        with atomic_write(last) as temporary:
            self._evaluated.save_weights(temporary)
        if is_best:
            with atomic_write(folder.weights_path(self._workdir, "best")) as temporary:
                shutil.copyfile(last, temporary)
        result = evaluation.to_json(model=str(self._workdir), command=self._command)
        result |= {"minibatch": step, "weights_sha256": file_checksum(last)}
        result["machine"] = describe_machine()
        if is_best:
            atomic_files.write_json(self._workdir / folder.BEST_EVALUATION, result)
        atomic_files.write_json(self._workdir / folder.EVALUATION, result)
        atomic_files.write_json(self._workdir / folder.LEARNING_CURVE, curve)

    def _stored_evaluation(self, step: int) -> Evaluation | None:
        """The evaluation after that mini-batch, if it was finished."""
        stored = folder.read_evaluation(self._workdir)
        curve = folder.read_curve(self._workdir)
        is_finished = any(point["minibatch"] == step for point in curve)
        if stored is None or not is_finished or stored["minibatch"] != step:
            return None
        if not folder.have_matching_weights(self._workdir, "last"):
            return None
        evaluation = Evaluation.from_json(stored)
        is_wanted = evaluation.is_complete or not self._is_complete or step < self._total
        return evaluation if is_wanted else None


def _claim_workdir(workdir: Path, config: TrainConfig, label_space: LabelSpace) -> None:
    """Writes the configuration into a new folder, or checks that an old one has the same."""
    if (workdir / folder.CONFIG).is_file():
        stored, _ = folder.read_config(workdir)
        if differences := stored.differences(config):
            raise InputError(
                f"{workdir}: holds a run of another configuration (there / now: "
                f"{'; '.join(differences)}). Give the same flags to go on with it, or another "
                "--workdir."
            )
        return
    atomic_files.write_json(workdir / folder.LABEL_SPACE, label_space.to_json())
    with atomic_write(workdir / folder.CONFIG) as temporary:
        temporary.write_text(config.to_json())


def _writing(workdir: Path) -> contextlib.AbstractContextManager[None]:
    remedy = (
        "Make room or give another --workdir, and rerun the command to resume from the last "
        "checkpoint."
    )
    return writing_to(workdir, remedy, also=(tf.errors.OpError,))


def _mean(dice: dict[str, float | None]) -> float:
    """Mean over the classes that the test scans have; 0 if they have none."""
    known = [value for value in dice.values() if value is not None]
    return float(np.mean(known)) if known else 0.0
