"""The training loop: `train_and_evaluate(config, workdir)` is its whole interface.

Call it again with the same arguments to resume from the latest checkpoint. With several machines,
each one makes the same call, and only the first writes to the folder of the run.

Reference: Moeskops et al., MICCAI 2016, sections 3.2 and 4.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mtseg.batches.logit_adjustment import logit_adjustment
from mtseg.batches.pipeline import make_dataset, open_balanced_samples
from mtseg.errors import WorkerLostError
from mtseg.evaluation.results import Evaluation
from mtseg.evaluation.scoring import evaluate_model
from mtseg.evaluation.stored_scan import StoredScan
from mtseg.inference.dense import make_dense_network
from mtseg.records.reading import count_test_scans
from mtseg.system.atomic_files import lock_folder, writing_to
from mtseg.system.progress import Progress, format_duration
from mtseg.system.signals import Stopped, StopRequest, catch_sigterm
from mtseg.tasks.label_space import parse_tasks
from mtseg.training import workdir as workdir_files
from mtseg.training.checkpoints import Checkpoints
from mtseg.training.config import TrainConfig
from mtseg.training.logging import TrainingFigures, log_evaluation
from mtseg.training.network import build_model
from mtseg.training.strategies import Replicas, configure_devices, make_replicas
from mtseg.training.tensorflow_step import TrainingStep

_STEPS_BETWEEN_FIGURES = 10
"""Mini-batches between two points of the loss curve."""

_PROFILED_CALLS = range(5, 10)
"""The calls of the training step that `is_profiling` records, counted from the start or resume."""

_LOST_WORKER = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)
"""What TensorFlow raises in the remaining workers when one dies."""


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
        workdir: folder of the run, made if missing. If it holds a run of the same configuration,
            that run is resumed.
        command: the command line, stored with the figures.
        is_profiling: whether to record a few mini-batches for TensorBoard's profiler.
        is_complete: whether the last evaluation also measures surfaces and volumes, and keeps the
            label maps.
        on_step: called with the number of mini-batches done, at the start and after each call of
            the training step.

    Returns:
        The evaluation after the last mini-batch. None if SIGTERM ended the run earlier (the run is
        saved), and in every worker but the first.

    Raises:
        InputError: if data is not prepared, the folder holds a run of another configuration or
            cannot be written, or the loss is not finite.
        WorkerLostError: if another worker has died.
    """
    workdir = Path(workdir)
    configure_devices(config.is_deterministic, config.num_threads)
    replicas = make_replicas(config.strategy)
    replicas.share(config.global_batch_size)  # refuses a size that cannot be divided
    with contextlib.ExitStack() as held, catch_sigterm() as stop:
        run = _Run(config, workdir, replicas, command, is_complete, on_step, held)
        try:
            return run.train(stop, is_profiling)
        except Stopped:
            run.say("Stopped. Rerun the command to resume.")
            return None
        except _LOST_WORKER as error:
            if config.strategy != "multiworker":
                raise
            raise WorkerLostError(
                f"{workdir}: another worker was lost ({type(error).__name__}). Rerun the command "
                "on every worker to resume from the last checkpoint."
            ) from error


def plan_calls(start: int, total: int, steps_per_call: int, *every: int) -> list[tuple[int, int]]:
    """Divides mini-batches into calls of the training step that end wherever something is due.

    Args:
        start: mini-batches that are done.
        total: mini-batches of the run.
        steps_per_call: the most mini-batches in a call.
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
    """A run: its folder, its state, and the loop."""

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
                workdir_files.write_config(workdir, config, label_space)
        else:
            print("The first worker reports on the run and writes to its folder.", flush=True)
        self._step = TrainingStep(config, label_space, replicas)
        self._seconds = tf.Variable(0.0, dtype=tf.float64)
        self._checkpoints = Checkpoints(
            workdir / "checkpoints", config.keep, seconds=self._seconds, **self._step.state()
        )
        # Evaluated as it will be used: in float32, whatever the precision of training.
        self._evaluated = build_model(config, label_space)
        self._dense = make_dense_network(self._evaluated)
        self._logit_adjustment = np.zeros(1, np.float32)
        self._writer = tf.summary.create_noop_writer()
        if replicas.is_chief:
            with _writing(workdir):
                self._writer = tf.summary.create_file_writer(str(workdir / "tensorboard"))
            if config.class_priors == "natural":
                self._logit_adjustment = logit_adjustment(
                    config.data_dir, label_space, config.backgrounds
                )

    def say(self, line: str) -> None:
        """Prints a line, in the first worker only."""
        if self._replicas.is_chief:
            print(line, flush=True)

    def train(self, stop: StopRequest, is_profiling: bool) -> Evaluation | None:
        """Trains from the latest checkpoint to the end, and evaluates where an evaluation is due."""
        start = self._checkpoints.restore_latest()
        self._on_step(start)
        if self._replicas.is_chief:
            self._checkpoints.clean(start)
        if start == 0:
            with self._writer.as_default(step=0):
                tf.summary.text("configuration", f"```\n{self._config.to_json()}```")
        else:
            self.say(f"Resuming after mini-batch {start} of {self._total}.")
        evaluation = self._stored_evaluation(start)
        if evaluation is None and start and self._is_evaluation(start):
            # The run was stopped after the checkpoint and before the end of the evaluation.
            evaluation = self._evaluate(start, stop)
        calls = plan_calls(
            start,
            self._total,
            self._config.steps_per_call,
            self._config.checkpoint_every,
            self._evaluate_every,
            _STEPS_BETWEEN_FIGURES,
        )
        # A run that ends earlier is recorded to its end.
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
                    # Before the evaluation, so that stopping during it costs no training.
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
        """Scores the test scans; writes figures, pictures and weights."""
        if not self._replicas.is_chief:
            return None
        stop.raise_if_made()
        started = time.monotonic()
        self._evaluated.set_weights(self._step.model.get_weights())
        self._evaluated.get_layer("logits").bias.assign_add(self._logit_adjustment)
        with Progress("Evaluating", self._num_test_scans, "scans") as scans:

            def advance(name: str) -> None:
                stop.raise_if_made()
                scans.advance(note=name)

            def keep_labels(task: str, scan: StoredScan, labels: np.ndarray) -> None:
                stop.raise_if_made()
                with _writing(self._workdir):
                    workdir_files.write_labels(self._workdir, task, scan.name, labels)

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
                log_evaluation(evaluation)
            self._writer.flush()
            workdir_files.write_evaluation(
                self._workdir,
                evaluation,
                self._evaluated,
                step,
                float(self._seconds.numpy()),
                self._command,
            )
        line = (
            f"After mini-batch {step}: mean Dice {evaluation.overall_dice():.3f} over {len(mean_dice)} "
            f"classes (evaluated in {format_duration(time.monotonic() - started)})."
        )
        (progress.say if progress else self.say)(line)
        return evaluation

    def _write_picture(self, step: int, task: str, picture: np.ndarray) -> None:
        with self._writer.as_default(step=step):
            tf.summary.image(f"{task}: scan, reference, prediction", picture[np.newaxis])

    def _stored_evaluation(self, step: int) -> Evaluation | None:
        """The evaluation after that mini-batch, if it was completed and has what is wanted."""
        evaluation = workdir_files.read_finished_evaluation(self._workdir, step)
        if evaluation is None:
            return None
        is_wanted = evaluation.is_complete or not self._is_complete or step < self._total
        return evaluation if is_wanted else None


def _writing(workdir: Path) -> contextlib.AbstractContextManager[None]:
    remedy = (
        "Make room or use another folder, and rerun the command to resume from the last checkpoint."
    )
    return writing_to(workdir, remedy, also=(tf.errors.OpError,))
