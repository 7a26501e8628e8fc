"""The training loop: `train_and_evaluate(config, workdir)` is its whole interface.

Call it again with the same arguments to resume from the latest checkpoint. With several machines,
each one makes the same call, and only the first writes to the folder of the run.

Reference: Moeskops et al., MICCAI 2016, sections 3.2 and 4.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mtseg.batches.draws import read_task_weights
from mtseg.batches.logit_adjustment import compute_logit_adjustment
from mtseg.batches.pipeline import open_balanced_samples
from mtseg.evaluation.held_out import choose_held_out
from mtseg.evaluation.results import Evaluation
from mtseg.provenance.fingerprint import Fingerprint
from mtseg.provenance.training_data import check_earlier_data, write_training_data
from mtseg.records.reading import check_training_records, read_members, require_unchanged
from mtseg.runs.config import TrainConfig
from mtseg.runs.growing import load_initial, read_initial_data, start_from
from mtseg.runs.optimizers import MUON_RULE
from mtseg.runs.weights import TrainedModel
from mtseg.runs.workdir import SPLITS, remove_diverged, write_config, write_diverged
from mtseg.sources.subject import describe_members
from mtseg.system.atomic_files import lock_folder, write_json
from mtseg.system.progress import Progress
from mtseg.system.signals import Stopped, StopRequest, catch_sigterm
from mtseg.tasks.label_space import LabelSpace, parse_tasks
from mtseg.training.callbacks import Callback, Callbacks, RunStart
from mtseg.training.checkpoints import Checkpoints
from mtseg.training.engines.engine import Engine, Report, open_engine
from mtseg.training.failures import DivergedError, explain_divergence, writing_run
from mtseg.training.figures import TrainingFigures
from mtseg.training.holding import hold_volumes
from mtseg.training.profiling import Profiler
from mtseg.training.tensorboard import TensorBoard

_STEPS_BETWEEN_FIGURES = 10
"""Mini-batches between two points of the loss curve, or a few more or less: whole calls."""


def train_and_evaluate(
    config: TrainConfig,
    workdir: str | Path,
    command: str = "",
    *,
    is_profiling: bool = False,
    is_complete: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Evaluation | None:
    """Trains a network and evaluates it on the scans of its tasks that are held out.

    Args:
        config: what to train.
        workdir: folder of the run, made if missing. If it holds a run of the same configuration,
            that run is resumed.
        command: the command line, stored with the figures.
        is_profiling: whether to record a few mini-batches for TensorBoard's profiler.
        is_complete: whether the last evaluation also measures surfaces and volumes, and keeps the
            label maps.
        callbacks: called while the run trains, after TensorBoard: see `mtseg.training.callbacks`.
            What one of them raises ends the run.

    Returns:
        The evaluation after the last mini-batch. None if SIGTERM ended the run earlier (the run is
        saved), and in every worker but the first.

    Raises:
        InputError: if data is not prepared or cannot be used, the folder holds a run of another
            configuration or data or cannot be written, or a mini-batch does not fit into memory.
        DivergedError: if the loss or the weights are not finite. The last good checkpoint stays,
            and the run may be resumed with another learning rate.
        WorkerLostError: if another worker has died.
        RuntimeError: if a device of this worker has failed.
    """
    workdir = Path(workdir)
    engine = open_engine(config)
    with contextlib.ExitStack() as stack, catch_sigterm() as stop:
        run = None
        try:
            run = _Run(config, workdir, engine, command, is_complete, callbacks, stack)
            return run.train(stop, is_profiling=is_profiling)
        except engine.errors as error:
            explained = engine.explain(error, workdir)
            if explained is None or (run is not None and error is run.callbacks.error):
                raise
            raise explained from error


def plan_calls(start: int, total: int, steps_per_call: int, *every: int) -> list[tuple[int, int]]:
    """Divides mini-batches into calls of the training step that end wherever something is due.

    Args:
        start: mini-batches that are done.
        total: mini-batches of the run.
        steps_per_call: the most mini-batches in a call.
        *every: something is due after each so many mini-batches.

    Returns:
        For each call the mini-batches done before and after it.

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
    """A run with its data, network and checkpoints; `train` is the loop.

    Args:
        config: what to train.
        workdir: folder of the run.
        engine: what computes.
        command: the command line, stored with the figures.
        is_complete: whether the last evaluation is a complete one.
        callbacks: called in the first process, after TensorBoard.
        stack: the folder stays locked until it is closed.
    """

    def __init__(
        self,
        config: TrainConfig,
        workdir: Path,
        engine: Engine,
        command: str,
        is_complete: bool,
        callbacks: Sequence[Callback],
        stack: contextlib.ExitStack,
    ) -> None:
        label_space = parse_tasks(config.tasks)
        # First, so that data that is not prepared leaves no folder, and a change of the records
        # while they are read is noticed.
        trained, self._scored, lines = check_training_records(
            config.data_dir, label_space, config.records
        )
        self._held_out = choose_held_out(config.data_dir, label_space, config.curves_on)
        config = dataclasses.replace(config, curves_on=self._held_out.curves_on)
        self._config, self._workdir, self._engine = config, workdir, engine
        self._label_space = label_space
        self._checkpoints = Checkpoints(
            workdir / "checkpoints", config.keep, engine, rules={"muon": MUON_RULE}
        )
        # A run that is resumed does not need the network that it started from.
        self._initial = None if self._checkpoints.steps() else load_initial(config)
        # A run that is resumed keeps what it knows of it, if it does.
        earlier = self._check_initial(lines) if self._initial else None if config.init_from else []
        self._samples = open_balanced_samples(
            config.data_dir,
            label_space,
            config.seed,
            kind=config.records,
            augmentations=config.augmentations,
            backgrounds=config.backgrounds,
            source_weights=config.source_weights,
            task_weights=config.task_weights,
        )
        require_unchanged(config.data_dir, label_space, [*trained, *self._scored])
        self._total = config.minibatches_per_task * (num_tasks := len(label_space.selections))
        size, kind = config.global_batch_size, config.records
        lines += self._samples.describe_draws(self._total, size, kind)
        self.say(*lines)
        self._evaluate_every = config.evaluate_every * num_tasks
        if engine.is_chief:
            with self._writing():
                workdir.mkdir(parents=True, exist_ok=True)
                stack.enter_context(
                    lock_folder(
                        workdir, f"{workdir}: another command is training here. Wait for its end."
                    )
                )
                if changed := write_config(workdir, config, label_space):
                    self.say(changed)
                is_new = not self._checkpoints.steps()
                write_training_data(workdir, trained, earlier, is_new=is_new)
                self._write_splits(label_space)
        else:
            print("The first worker reports on the run and writes to its folder.", flush=True)
        engine.build(label_space)
        hold_volumes(config, engine, self._samples, workdir, self.say)
        self._num_saved = 0
        self._report: Report | None = None
        self.callbacks = Callbacks([])
        if engine.is_chief:
            self.callbacks = Callbacks([TensorBoard(config, workdir), *callbacks])
            is_adjusted = config.class_priors == "natural"
            self._report = engine.open_report(
                label_space,
                workdir,
                command=command,
                held_out=self._held_out,
                scored=self._scored,
                logit_adjustment=self._adjustment if is_adjusted else np.zeros(1, np.float32),
                is_complete=is_complete,
                callbacks=self.callbacks,
            )

    def _check_initial(self, lines: list[str]) -> list[Fingerprint] | None:
        """What the network that is started from was trained on; adds a line if that is scored."""
        name, held_out = self._config.init_from, self._held_out
        earlier = None if self._initial is None else read_initial_data(name, self._initial.config)
        splits = sorted({held_out.curves, held_out.final} - {"train"})
        lines += check_earlier_data(name, earlier, self._scored, splits)
        return earlier

    @functools.cached_property
    def _adjustment(self) -> npt.NDArray[np.float32]:
        """What gives the classes their natural frequencies; reads all training scans once."""
        config, label_space = self._config, self._label_space
        weights = read_task_weights(config.task_weights, label_space)
        return compute_logit_adjustment(config.data_dir, label_space, config.backgrounds, weights)

    def _start(self, trained: TrainedModel) -> str:
        """Gives the network the weights of a trained one; returns a line that says what is new.

        Training is balanced. A trained network with natural frequencies has them in its bias, and
        would otherwise get them a second time at the end.
        """
        has_natural = trained.config.class_priors == "natural"
        adjustment = self._adjustment if has_natural else 0.0
        return start_from(trained, self._engine.model, self._label_space, self._config, adjustment)

    def _write_splits(self, label_space: LabelSpace) -> None:
        """Prints and stores who is in which split, and which scans the run scores."""
        members = read_members(self._config.data_dir, label_space)
        for spec, of_source in members.items():
            if of_source is not None:
                self.say(f"{spec}: {describe_members(of_source)}")
        self.say(self._held_out.describe())
        write_json(self._workdir / SPLITS, {"curves_on": self._held_out.curves, "sources": members})

    def say(self, *lines: str) -> None:
        """Prints lines, in the first worker only."""
        if self._engine.is_chief:
            print(*lines, sep="\n", end="\n" if lines else "", flush=True)

    def train(self, stop: StopRequest, *, is_profiling: bool) -> Evaluation | None:
        """Trains from the latest checkpoint to the end, and evaluates where an evaluation is due.

        Args:
            stop: checked at every call of the training step.
            is_profiling: whether to record a few mini-batches for TensorBoard's profiler.

        Returns:
            The last evaluation; None in every worker but the first, or if the run was asked to
            stop; it is saved then.

        Raises:
            DivergedError: if the loss or the weights are not finite.
        """
        evaluation = None
        try:
            evaluation = self._train(stop, is_profiling=is_profiling)
        except Stopped:
            self.say("Stopped. Rerun the command to resume.")
        except DivergedError as error:
            if self._engine.is_chief:
                with self._writing():
                    write_diverged(self._workdir, error.minibatch, self._num_saved)
            raise explain_divergence(error, self._workdir, self._config, self._num_saved) from None
        self.callbacks.on_end(self._num_saved)
        return evaluation

    def _train(self, stop: StopRequest, *, is_profiling: bool) -> Evaluation | None:
        start, evaluation = self._resume(stop)
        config, engine = self._config, self._engine
        # Whole calls, so that these points cut none of them short.
        figures_every = config.steps_per_call * max(
            1, _STEPS_BETWEEN_FIGURES // config.steps_per_call
        )
        due_every = (config.checkpoint_every, self._evaluate_every, figures_every)
        calls = plan_calls(start, self._total, config.steps_per_call, *due_every)
        batches = engine.read_ahead(self._samples, calls)
        progress = Progress(
            "Training", self._total, "mini-batches", start, is_quiet=not engine.is_chief
        )
        profiler = Profiler(engine, self._workdir, len(calls), is_profiling, progress.say)
        with progress, profiler:
            figures = TrainingFigures(config, self._total, progress, self._scans_after(calls))
            for number, (_, step) in enumerate(calls):
                profiler.before(number)
                with figures.waiting():
                    batch = next(batches)
                losses, is_stopping = engine.train(batch, stop.is_made)
                figures.add(losses)
                profiler.after(number)
                is_evaluation = self._is_evaluation(step)
                is_saved = is_stopping or is_evaluation or step % config.checkpoint_every == 0
                if is_saved or step % figures_every == 0:
                    self._log(step, figures.take(step))
                    engine.seconds += figures.seconds
                if is_saved:
                    # Before the evaluation, so that stopping during it costs no training.
                    self._save(step)
                    figures.restart_clock()
                if is_stopping:
                    raise Stopped
                if is_evaluation:
                    with figures.evaluating(step):
                        evaluation = self._evaluate(step, stop, progress.say)
        return evaluation

    def _resume(self, stop: StopRequest) -> tuple[int, Evaluation | None]:
        """Restores the latest checkpoint, and the evaluation there if one was due.

        Returns:
            The number of mini-batches done, and the evaluation after them.
        """
        engine = self._engine
        start = self._num_saved = self._checkpoints.restore_latest(engine.is_finite)
        engine.set_learning_rate()
        if engine.is_chief:
            self._checkpoints.clean(start)
        self.callbacks.on_start(
            RunStart(self._config, self._label_space, self._workdir, start, self._total)
        )
        if start == 0:
            if self._initial is not None:
                self.say(self._start(self._initial))
        else:
            self.say(f"Resuming after mini-batch {start} of {self._total}.")
            rule = self._checkpoints.stored_rule(start, "muon")
            if self._config.optimizer == "muon" and rule != MUON_RULE:
                self.say(
                    f"Its first {start} mini-batches were trained by an earlier version, in which "
                    "Muon had almost no momentum. The rest is trained with momentum: figures of "
                    "this run are of neither. For comparisons, start over in another folder."
                )
        evaluation = None
        if self._report is not None:
            evaluation = self._report.stored(start, is_last=start == self._total)
        if evaluation is None and start and self._is_evaluation(start):
            # The run was stopped after the checkpoint and before the end of the evaluation.
            evaluation = self._evaluate(start, stop, self.say)
        return start, evaluation

    def _is_evaluation(self, step: int) -> bool:
        has_curves = self._held_out.curves != "train"
        return step == self._total or (has_curves and step % self._evaluate_every == 0)

    def _scans_after(self, calls: Sequence[tuple[int, int]]) -> dict[int, int]:
        """How many scans are scored after which mini-batches of these calls; empty on JAX."""
        if not self._engine.scores_scans:
            return {}
        scored = {step: self._held_out.num_curves for _, step in calls if self._is_evaluation(step)}
        if scored:
            scored[self._total] += self._held_out.num_test
        return scored

    def _save(self, step: int) -> None:
        """Writes a checkpoint, by the first worker.

        Raises:
            DivergedError: if the weights are not finite; nothing is written then.
        """
        if not self._engine.is_finite():
            raise DivergedError(f"the weights are not finite after mini-batch {step}.", step)
        if self._engine.is_chief:
            with self._writing():
                remove_diverged(self._workdir)
                self._checkpoints.save(step)
        self._num_saved = step

    def _log(self, step: int, figures: dict[str, float]) -> None:
        rate = {"learning_rate": self._engine.learning_rate()}
        self.callbacks.on_figures(step, figures | rate)

    def _evaluate(
        self, step: int, stop: StopRequest, say: Callable[[str], None]
    ) -> Evaluation | None:
        """Evaluates the network, in the first worker only."""
        if self._report is None:
            return None
        return self._report.evaluate(
            self._engine.model,
            step,
            self._engine.seconds,
            stop,
            is_last=step == self._total,
            say=say,
        )

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        return writing_run(self._workdir, self._engine.errors)
