"""The files in the folder of a training run, and how they are read and written.

config.json               the configuration
diverged.json             where the run became not finite, until its next checkpoint
label_space.json          tasks and classes, so that the task files are not needed again
training_data.json        what the records were made from that the run is trained on
checkpoints/              what is needed to resume: weights, optimiser, step
last.weights.h5           weights after the latest evaluation
unevaluated.json          instead: last.weights.h5 was written where none takes place, by JAX
splits.json               who is in which split, and which scans the learning curves are of
best.weights.h5           weights with the highest mean Dice on the scans of the learning curves
learning_curve.json       Dice of every evaluation on these scans
evaluation.json           the latest evaluation in full, with operating points
best_evaluation.json      the evaluation of the best weights
validation.json           the latest evaluation on validation scans, if there are any
labels/                   label maps of the test scans, after a complete evaluation
tensorboard/              event files
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.evaluation.results import Evaluation
from mtseg.provenance.software import describe_software
from mtseg.runs.config import TrainConfig
from mtseg.runs.manifest import CONFIG
from mtseg.system.atomic_files import atomic_write, parse_json, write_json
from mtseg.system.checksums import file_checksum
from mtseg.system.hardware import describe_machine
from mtseg.tasks.label_space import LabelSpace

if TYPE_CHECKING:
    import keras

DIVERGED = "diverged.json"
LABEL_SPACE = "label_space.json"
LEARNING_CURVE = "learning_curve.json"
EVALUATION = "evaluation.json"
BEST_EVALUATION = "best_evaluation.json"
VALIDATION = "validation.json"
SPLITS = "splits.json"
LABELS = "labels"

_EVALUATION_OF = {"last": EVALUATION, "best": BEST_EVALUATION}
"""Which weights of a run -> the file with their evaluation."""


def weights_path(workdir: Path, which: str) -> Path:
    """The file of the `last` or `best` weights."""
    return workdir / f"{which}.weights.h5"


def labels_path(workdir: Path, task: str, subject: str) -> Path:
    """The file of a test scan's label map."""
    return workdir / LABELS / task / f"{subject}.npz"


def write_labels(workdir: Path, task: str, subject: str, labels: npt.NDArray[np.uint8]) -> None:
    """Writes the label map of a test scan, uint8 (I, J, K), on the grid of its task."""
    path = labels_path(workdir, task, subject)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        np.savez_compressed(temporary, labels=labels)


def read_labels(workdir: Path, task: str, subject: str) -> npt.NDArray[np.uint8]:
    """Reads the label map that `write_labels` wrote.

    Raises:
        InputError: if it is missing or unreadable.
    """
    path = labels_path(workdir, task, subject)
    try:
        with np.load(path) as file:
            labels: npt.NDArray[np.uint8] = file["labels"]
            return labels
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: is missing or unreadable. Remove {workdir / EVALUATION} and rerun the "
            "command that made the run: it evaluates again."
        ) from error


def read_json(path: Path) -> Any:
    """Reads a JSON file of a run or of experiments.

    Raises:
        InputError: if it is missing or unreadable.
    """
    try:
        return parse_json(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: is missing or unreadable. Rerun the command that made the folder: it resumes."
        ) from error


def read_evaluation(workdir: Path, which: str = "last") -> dict[str, Any] | None:
    """The contents of the evaluation of the `last` or `best` weights; None if there is none.

    Raises:
        InputError: if the file cannot be read.
    """
    path = workdir / _EVALUATION_OF[which]
    try:
        evaluation: dict[str, Any] = parse_json(path.read_text())
        return evaluation
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read. Remove it and rerun the command that made the run: it "
            "evaluates again."
        ) from error


def have_matching_weights(workdir: Path, which: str) -> bool:
    """Whether the `last` or `best` weights belong to their evaluation.

    They do not if one of the files is damaged, or the run was killed between writing the two.
    """
    try:
        text = (workdir / _EVALUATION_OF[which]).read_text()
        checksum = parse_json(text).get("weights_sha256")
    except FileNotFoundError:
        checksum = None
    except (OSError, ValueError, AttributeError):
        return False
    # None: no evaluation yet, or one without a checksum.
    weights = weights_path(workdir, which)
    return weights.is_file() and checksum in (None, file_checksum(weights))


def read_curve(workdir: Path) -> list[dict[str, Any]]:
    """The contents of `learning_curve.json`: a list of points; empty if there is none.

    Raises:
        InputError: if the file cannot be read.
    """
    path = workdir / LEARNING_CURVE
    return read_json(path) if path.is_file() else []


def write_config(workdir: Path, config: TrainConfig, label_space: LabelSpace) -> str:
    """Writes the configuration into a new folder, or compares it with that of the run there.

    A run that diverged and has no checkpoint since may be resumed with another learning rate, and
    with another warm-up if it has no checkpoint at all. A run may become longer if its learning
    rate is constant, since the mini-batches that are done are then those of the longer run. What
    readers see of a task, such as titles and colours, may change, and is written again.

    Returns:
        A line that says which settings were changed; empty if none.

    Raises:
        InputError: if the folder holds a run of another configuration, or its tasks were others.
        OSError: if the folder cannot be written.
    """
    changed = ""
    if (workdir / CONFIG).is_file():
        stored, stored_space = read_config(workdir)
        differences = stored.differences(config)
        texts = config.task_differences(stored_space, label_space)
        if stored.tasks == config.tasks and texts:
            raise InputError(
                f"{workdir}: the task files have changed since this run began (there / now: "
                f"{'; '.join(texts)}). Take them as they were to resume it, or use another folder."
            )
        if not differences:
            write_json(workdir / LABEL_SPACE, label_space.to_json())
            return ""
        if line := _describe_lengthening(stored, config):
            _write_config(workdir, config, label_space)
            return line
        diverged = read_json(workdir / DIVERGED) if (workdir / DIVERGED).is_file() else {}
        may_change = _MAY_CHANGE_AFTER[diverged["checkpoint"] > 0] if diverged else ()
        kept = dataclasses.replace(stored, **{name: getattr(config, name) for name in may_change})
        if kept.differences(config):
            remedy = f" {' and '.join(may_change)} may differ." if may_change else ""
            if _is_longer(stored, config):
                remedy = (
                    " Its learning rate has already fallen for the shorter run, so it cannot be "
                    f"lengthened. To train on from its weights: --init-from {workdir}"
                )
            raise InputError(
                f"{workdir}: holds a run of another configuration (there / now: "
                f"{'; '.join(differences)}). Give the same flags to resume it, or use "
                f"another folder.{remedy}"
            )
        changed = (
            f"The run diverged at mini-batch {diverged['minibatch']}. It is resumed with other "
            f"settings (before / now: {'; '.join(differences)})."
        )
    _write_config(workdir, config, label_space)
    return changed


def _write_config(workdir: Path, config: TrainConfig, label_space: LabelSpace) -> None:
    write_json(workdir / LABEL_SPACE, label_space.to_json())
    with atomic_write(workdir / CONFIG) as temporary:
        temporary.write_text(config.to_json())


def _is_longer(stored: TrainConfig, config: TrainConfig) -> bool:
    """Whether a configuration asks for the same run with more mini-batches."""
    lengthened = dataclasses.replace(stored, minibatches_per_task=config.minibatches_per_task)
    is_longer = config.minibatches_per_task > stored.minibatches_per_task
    return is_longer and not lengthened.differences(config)


def _describe_lengthening(stored: TrainConfig, config: TrainConfig) -> str:
    """A line that says that a run becomes longer; empty if it does not, or must not."""
    if stored.schedule != "constant" or not _is_longer(stored, config):
        return ""
    before, now = stored.minibatches_per_task, config.minibatches_per_task
    return f"The run becomes longer: {now} mini-batches per task in place of {before}."


_MAY_CHANGE_AFTER = {
    # With a checkpoint, the schedule must keep its kind: an optimiser without one stores its rate.
    True: ("learning_rate",),
    False: ("learning_rate", "warmup_minibatches"),
}
"""Settings that may change after a run diverged, by whether it has a checkpoint."""


def write_diverged(workdir: Path, minibatch: int, checkpoint: int) -> None:
    """Notes that a run diverged, so that it may be resumed with another learning rate.

    Args:
        workdir: folder of the run.
        minibatch: the mini-batch at which that was found.
        checkpoint: mini-batches done at the last good checkpoint; 0 if there is none.
    """
    write_json(workdir / DIVERGED, {"minibatch": minibatch, "checkpoint": checkpoint})


def remove_diverged(workdir: Path) -> None:
    """Removes the note of `write_diverged`, if there is one, before the next good checkpoint.

    Settings that may change after a divergence must not change any more then: checkpoints would not
    fit them, or the configuration would name settings that the run was not trained with.
    """
    (workdir / DIVERGED).unlink(missing_ok=True)


def read_config(workdir: Path) -> tuple[TrainConfig, LabelSpace]:
    """The configuration and label space of a run.

    Raises:
        InputError: if the folder is not a run of this version.
    """
    try:
        config = TrainConfig.from_json((workdir / CONFIG).read_text())
        label_space = LabelSpace.from_json(parse_json((workdir / LABEL_SPACE).read_text()))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(
            f"{workdir}: is not the folder of a training run ({CONFIG} or {LABEL_SPACE} is missing "
            "or unreadable). Give the --workdir of mtseg-train."
        ) from error
    except InputError as error:
        raise InputError(f"{workdir / CONFIG}: {error}") from error
    return config, label_space


def write_evaluation(
    workdir: Path,
    evaluation: Evaluation,
    model: keras.Model | None,
    minibatch: int,
    seconds: float,
    command: str,
    device: str,
    scored_sha256: str,
) -> None:
    """Writes the weights that were evaluated, the figures, and a point of the learning curve.

    Weights are compared by figures of the same scans. Those of training scans are no point of it.

    Args:
        workdir: folder of the run.
        evaluation: the figures.
        model: the evaluated network; None if the folder has its weights already.
        minibatch: number of mini-batches done.
        seconds: time spent in training up to here.
        command: the command line, stored with the figures.
        device: what computed, from `mtseg.system.devices.describe_devices`.
        scored_sha256: from `mtseg.provenance.training_data.scored_checksum`.

    Raises:
        OSError: if the folder cannot be written.
    """
    score = evaluation.overall_dice()
    # A run that resumes from an earlier checkpoint comes here again.
    curve = [point for point in read_curve(workdir) if point["minibatch"] < minibatch]
    of_these = [p for p in curve if p.get("scored_sha256", scored_sha256) == scored_sha256]
    is_best = all(score > point["mean_dice"] for point in of_these)
    curve.append(
        {
            "minibatch": minibatch,
            "training_seconds": seconds,
            "split": evaluation.split,
            "mean_dice": score,
            "dice": evaluation.mean_dice(),
            "scored_sha256": scored_sha256,
        }
    )
    last = weights_path(workdir, "last")
    if model is not None:
        with atomic_write(last) as temporary:
            model.save_weights(temporary)
    if evaluation.split == "train":
        write_final_evaluation(workdir, evaluation, minibatch, command, device, scored_sha256)
        return
    if is_best:
        with atomic_write(weights_path(workdir, "best")) as temporary:
            shutil.copyfile(last, temporary)
    result = _describe_evaluation(workdir, evaluation, minibatch, command, device, scored_sha256)
    if is_best:
        write_json(workdir / BEST_EVALUATION, result)
    if evaluation.split == "validation":
        write_json(workdir / VALIDATION, result)
    write_json(workdir / EVALUATION, result)
    write_json(workdir / LEARNING_CURVE, curve)


def write_final_evaluation(
    workdir: Path,
    evaluation: Evaluation,
    minibatch: int,
    command: str,
    device: str,
    scored_sha256: str,
) -> None:
    """Writes an evaluation of the last weights that is not a point of the learning curve.

    Args:
        workdir: folder of the run.
        evaluation: the figures.
        minibatch: number of mini-batches done.
        command: the command line, stored with the figures.
        device: what computed, from `mtseg.system.devices.describe_devices`.
        scored_sha256: from `mtseg.provenance.training_data.scored_checksum`.

    Raises:
        OSError: if the folder cannot be written.
    """
    result = _describe_evaluation(workdir, evaluation, minibatch, command, device, scored_sha256)
    write_json(workdir / EVALUATION, result)


def _describe_evaluation(
    workdir: Path,
    evaluation: Evaluation,
    minibatch: int,
    command: str,
    device: str,
    scored_sha256: str,
) -> dict[str, Any]:
    """The contents of a file with an evaluation of the last weights."""
    result = evaluation.to_json(model=str(workdir), command=command)
    checksum = file_checksum(weights_path(workdir, "last"))
    result |= {"minibatch": minibatch, "weights_sha256": checksum, "scored_sha256": scored_sha256}
    return result | {"machine": describe_machine(device), "software": describe_software()}


def read_finished_evaluation(
    workdir: Path, minibatch: int, split: str, scored_sha256: str
) -> Evaluation | None:
    """The evaluation after a mini-batch on the scans of a split.

    Args:
        workdir: folder of the run.
        minibatch: number of mini-batches done.
        split: the split that is wanted.
        scored_sha256: of the scans as they are, as for `write_evaluation`.

    Returns:
        None if it was not completed, its weights are lost, or it is of other scans. Files of
        earlier versions do not say of which scans they are, and are taken as they are.
    """
    stored = read_evaluation(workdir)
    if stored is None or (stored["minibatch"], stored.get("split", "test")) != (minibatch, split):
        return None
    if stored.get("scored_sha256", scored_sha256) != scored_sha256:
        return None
    # The point of the curve is written last. Figures of training scans are none.
    if split != "train" and all(point["minibatch"] != minibatch for point in read_curve(workdir)):
        return None
    return Evaluation.from_json(stored) if have_matching_weights(workdir, "last") else None
