"""What an evaluation during a run on TensorFlow reports: scores, pictures and weights.

`Evaluator` scores scans that are held out and writes what belongs to an evaluation in the folder of
the run. Callbacks get the figures and pictures: see `mtseg.training.callbacks`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.evaluation.held_out import HeldOut, choose_held_out
from mtseg.evaluation.results import Evaluation
from mtseg.evaluation.scoring import evaluate_model
from mtseg.evaluation.stored_scan import StoredScan
from mtseg.inference.dense import make_dense_network
from mtseg.provenance.fingerprint import Fingerprint
from mtseg.provenance.training_data import list_record_changes, scored_checksum
from mtseg.records.reading import read_fingerprints
from mtseg.runs.building import build_model
from mtseg.runs.config import TrainConfig
from mtseg.runs.unevaluated import UNEVALUATED, read_unevaluated
from mtseg.runs.weights import TrainedModel
from mtseg.runs.workdir import (
    read_finished_evaluation,
    write_evaluation,
    write_final_evaluation,
    write_labels,
)
from mtseg.system.atomic_files import lock_folder
from mtseg.system.devices import describe_devices
from mtseg.system.progress import Progress, format_duration
from mtseg.system.signals import StopRequest
from mtseg.tasks.label_space import LabelSpace
from mtseg.training.callbacks import Callback
from mtseg.training.failures import writing_run
from mtseg.training.tensorboard import TensorBoard


class Evaluator:
    """Scores scans during training, and writes what belongs to an evaluation.

    The network is evaluated as it will be used: in the fastest precision that has float32's range
    on the device at hand, whatever the precision of training.

    Args:
        config: configuration of the run.
        label_space: its tasks and classes.
        workdir: its folder.
        command: the command line, stored with the figures.
        held_out: which scans to score.
        logit_adjustment: float32 (logits,), or of length 1 for all; added to the logits' bias.
        is_complete: whether the last evaluation also measures surfaces and volumes, and keeps the
            label maps.
        callbacks: called with each evaluation.
    """

    def __init__(
        self,
        config: TrainConfig,
        label_space: LabelSpace,
        workdir: Path,
        *,
        command: str,
        held_out: HeldOut,
        scored: Sequence[Fingerprint],
        logit_adjustment: npt.NDArray[np.float32],
        is_complete: bool,
        callbacks: Callback,
    ) -> None:
        self._config, self._label_space, self._workdir = config, label_space, workdir
        self._command, self._held_out = command, held_out
        self._logit_adjustment, self._is_complete = logit_adjustment, is_complete
        self._callbacks = callbacks
        self._scored = scored
        self._model = build_model(config, label_space)
        self._dense = make_dense_network(self._model)

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        return writing_run(self._workdir)

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

        Arguments and errors are those of `mtseg.training.engines.engine.Report`.

        Returns:
            The figures; at the end, those of the test scans if there are any.
        """
        stop.raise_if_made()
        self._model.set_weights(model.get_weights())
        self._model.get_layer("logits").bias.assign_add(self._logit_adjustment)
        device = describe_devices(are_all=self._config.strategy != "default")
        return self._evaluate(self._model, step, seconds, stop, device, is_last=is_last, say=say)

    def evaluate_stored(self, trained: keras.Model) -> Evaluation:
        """Evaluates the weights that `mtseg.runs.unevaluated.write_unevaluated` wrote.

        Args:
            trained: the network with these weights.

        Returns:
            As `evaluate`.

        Raises:
            InputError: if the folder of the run cannot be written, or the weights are evaluated.
        """
        note = read_unevaluated(self._workdir)
        if note is None:
            raise InputError(f"{self._workdir}: its last weights are evaluated already.")
        self._model.set_weights(trained.get_weights())
        step = note["minibatch"]
        total = self._config.minibatches_per_task * len(self._label_space.selections)
        evaluation = self._evaluate(
            None, step, note["training_seconds"], StopRequest(), note["device"],
            is_last=step == total, say=lambda line: print(line, flush=True),
        )  # fmt: skip
        with self._writing():
            (self._workdir / UNEVALUATED).unlink(missing_ok=True)
        return evaluation

    def _evaluate(
        self,
        model: keras.Model | None,
        step: int,
        seconds: float,
        stop: StopRequest,
        device: str,
        *,
        is_last: bool,
        say: Callable[[str], None],
    ) -> Evaluation:
        """Scores and writes; without a model, the folder has its weights already."""
        started, held_out = time.monotonic(), self._held_out
        evaluation = self._score(
            held_out.curves,
            held_out.num_curves,
            step,
            stop,
            is_final=is_last and not held_out.num_test,
        )
        with self._writing():
            write_evaluation(
                self._workdir, evaluation, model, step, seconds, self._command, device,
                self._checksum(evaluation.split),
            )  # fmt: skip
        say(self._summarise(evaluation, step, started))
        if is_last and held_out.num_test:
            started, points = time.monotonic(), evaluation.operating_points
            evaluation = self._score(
                "test", held_out.num_test, step, stop, is_final=True, points=points
            )
            with self._writing():
                write_final_evaluation(
                    self._workdir, evaluation, step, self._command, device, self._checksum("test")
                )
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
        """Scores the scans of a split, calls the callbacks, and writes label maps.

        Args:
            split: which scans.
            num_scans: how many these are, for the progress bar.
            step: number of mini-batches done.
            stop: checked after every scan.
            is_final: whether these are the figures that remain of the run.
            points: operating points that were chosen on validation scans; None chooses them here.

        Raises:
            InputError: if the scans are not those that were there when the run began.
        """
        of_split = f", {split}" * (self._held_out.curves != "test")
        pictures: dict[str, npt.NDArray[np.uint8]] = {}

        def advance(name: str) -> None:
            stop.raise_if_made()
            progress.advance(note=name)

        def keep_labels(task: str, scan: StoredScan, labels: npt.NDArray[np.uint8]) -> None:
            stop.raise_if_made()
            with self._writing():
                write_labels(self._workdir, task, scan.name, labels)

        self._refuse_other_scans(split)
        with Progress(f"Evaluating{of_split}", num_scans, "scans") as progress:
            evaluation = evaluate_model(
                self._dense,
                self._label_space,
                self._config.data_dir,
                split=split,
                operating_points=points,
                points_from="validation",
                is_complete=self._is_complete and is_final,
                on_picture=pictures.__setitem__,
                on_scan=advance,
                on_labels=keep_labels,
            )
        self._refuse_other_scans(split)  # another command may have prepared them meanwhile
        self._callbacks.on_evaluation(step, evaluation, pictures)
        return evaluation

    def _refuse_other_scans(self, split: str) -> None:
        """Refuses scans that were prepared since the run began: it may have trained on them."""
        data_dir = self._config.data_dir
        now, _ = read_fingerprints(data_dir, self._label_space, "volumes")
        if texts := list_record_changes(self._scored, now, [split]):
            raise InputError(
                f"{data_dir}: the {split} scans were prepared again while this command ran: "
                f"{'; '.join(texts)}. Rerun the command: it goes on with them if the run was not "
                "trained on them."
            )

    def _checksum(self, split: str) -> str:
        """The checksum of a split's scans, and of those that operating points are chosen on."""
        return scored_checksum(self._scored, [self._held_out.curves, split])

    @staticmethod
    def _summarise(evaluation: Evaluation, step: int, started: float) -> str:
        return (
            f"After mini-batch {step}: mean Dice {evaluation.overall_dice():.3f} over "
            f"{len(evaluation.mean_dice())} classes of the {evaluation.split} scans (evaluated in "
            f"{format_duration(time.monotonic() - started)})."
        )

    def stored(self, step: int, *, is_last: bool) -> Evaluation | None:
        """The evaluation after so many mini-batches, if the folder has all that is wanted of it.

        It is not wanted if other scans are scored now, or their label maps were corrected.
        """
        split = self._held_out.final if is_last else self._held_out.curves
        evaluation = read_finished_evaluation(self._workdir, step, split, self._checksum(split))
        is_short = evaluation is not None and self._is_complete and not evaluation.is_complete
        return None if is_short and is_last else evaluation


def evaluate_run(workdir: Path, trained: TrainedModel, data_dir: str) -> Evaluation:
    """Evaluates the last weights of a run that has not evaluated them itself.

    Figures, operating points, best weights and a point of the learning curve are written as
    training would have, so that the run can be exported.

    Args:
        workdir: folder of the run.
        trained: its last weights.
        data_dir: folder of prepared records.

    Returns:
        The complete figures of the scans of the learning curves; after the whole training, those of
        the test scans if there are any.

    Raises:
        InputError: if the weights are evaluated already, the folder is in use or cannot be written,
            or the records cannot be read.
    """
    config = dataclasses.replace(trained.config, data_dir=data_dir)
    refusal = f"{workdir}: another command is training here. Wait for its end."
    with contextlib.ExitStack() as stack:
        with writing_run(workdir):
            stack.enter_context(lock_folder(workdir, refusal))
        evaluator = Evaluator(
            config,
            trained.label_space,
            workdir,
            command=(read_unevaluated(workdir) or {}).get("command", ""),
            held_out=choose_held_out(data_dir, trained.label_space, config.curves_on),
            scored=read_fingerprints(data_dir, trained.label_space, "volumes")[0],
            logit_adjustment=np.zeros(1, np.float32),  # the weights that are written have it
            is_complete=True,
            callbacks=TensorBoard(config, workdir),
        )
        return evaluator.evaluate_stored(trained.model)


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
