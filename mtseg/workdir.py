"""A training run's folder: what is in it, and how a trained model comes back out of it.

config.json               the configuration
label_space.json          tasks and classes, so that the task files are not needed again
checkpoints/              what resuming needs: weights, optimiser, step
last.weights.h5           weights after the latest evaluation
best.weights.h5           weights with the highest mean Dice on the test scans
learning_curve.json       Dice of every evaluation
evaluation.json           the latest evaluation in full, with the operating points
best_evaluation.json      the evaluation that the best weights had
labels/                   label maps of the test scans, after a complete evaluation
tensorboard/              event files
"""

from __future__ import annotations

import dataclasses
import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mtseg.aside import written_aside
from mtseg.config import TrainConfig
from mtseg.digests import check_digests, digest_of
from mtseg.errors import InputError
from mtseg.manifest import WEIGHTS, read_manifest
from mtseg.model import build_patch_model
from mtseg.tasks import LabelSpace

CONFIG = "config.json"
LABEL_SPACE = "label_space.json"
LEARNING_CURVE = "learning_curve.json"
EVALUATION = "evaluation.json"
BEST_EVALUATION = "best_evaluation.json"
LABELS = "labels"


def weights_path(workdir: Path, which: str) -> Path:
    """The file of the `last` or `best` weights."""
    return workdir / f"{which}.weights.h5"


def write_json(path: Path, content: Any) -> None:
    """Writes JSON text atomically."""
    with written_aside(path) as aside:
        aside.write_text(json.dumps(content, indent=2) + "\n")


def labels_path(workdir: Path, task: str, subject: str) -> Path:
    """The file of a test scan's label map."""
    return workdir / LABELS / task / f"{subject}.npz"


def write_labels(workdir: Path, task: str, subject: str, labels: np.ndarray) -> None:
    """Keeps the label map of a test scan, uint8 (I, J, K), on its task's grid."""
    path = labels_path(workdir, task, subject)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as aside:
        np.savez_compressed(aside, labels=labels)


def read_labels(workdir: Path, task: str, subject: str) -> np.ndarray:
    """The label map that `write_labels` kept.

    Raises:
        InputError: if there is none.
    """
    path = labels_path(workdir, task, subject)
    try:
        with np.load(path) as file:
            return file["labels"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: is missing or unreadable. Remove {workdir / EVALUATION} and give the command "
            "that made the run again: it evaluates anew."
        ) from error


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: if it is missing or unreadable.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: is missing or unreadable. Give the command that made the folder again: it "
            "goes on where it was."
        ) from error


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A trained network and what it was trained for."""

    config: TrainConfig
    label_space: LabelSpace
    model: keras.Model


def build_model(
    config: TrainConfig, label_space: LabelSpace, *, precision: str = "float32", replicas: int = 1
) -> keras.Model:
    """The patch model of a configuration, with random weights.

    Its weights are float32 whatever the precision, which is that of the convolutions. Only
    training uses another than float32.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        return build_patch_model(
            label_space.num_classes,
            num_backgrounds=label_space.num_backgrounds(config.backgrounds),
            dropout_rate=config.dropout_rate,
            batch_norm_momentum=config.batch_norm_momentum,
            is_synchronized=replicas > 1,
        )
    finally:
        keras.config.set_dtype_policy(before)


def read_evaluation(workdir: Path) -> dict[str, Any] | None:
    """The latest evaluation of a run, as `evaluation.json` has it; None if there is none.

    Raises:
        InputError: if the file cannot be read.
    """
    path = workdir / EVALUATION
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read. Remove it, and give the command that made the run again: it "
            "evaluates anew."
        ) from error


def have_matching_weights(workdir: Path, which: str) -> bool:
    """Whether the `last` or `best` weights are those that their evaluation is of.

    They are not where one of the files is damaged, or the run was killed between the two.
    """
    try:
        text = (workdir / {"last": EVALUATION, "best": BEST_EVALUATION}[which]).read_text()
        digest = json.loads(text).get("weights_sha256")
    except FileNotFoundError:
        digest = None
    except (OSError, ValueError, AttributeError):
        return False
    # None: no evaluation yet, or one that did not note it.
    weights = weights_path(workdir, which)
    return weights.is_file() and digest in (None, digest_of(weights))


def read_curve(workdir: Path) -> list[dict[str, Any]]:
    """The points of a run's learning curve, as `learning_curve.json` has them; [] without one.

    Raises:
        InputError: if the file cannot be read.
    """
    path = workdir / LEARNING_CURVE
    return read_json(path) if path.is_file() else []


def read_config(workdir: Path) -> tuple[TrainConfig, LabelSpace]:
    """The configuration and label space of a run.

    Raises:
        InputError: if the folder is no run of this version.
    """
    try:
        config = TrainConfig.from_json((workdir / CONFIG).read_text())
        label_space = LabelSpace.from_json(json.loads((workdir / LABEL_SPACE).read_text()))
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(
            f"{workdir}: is not the folder of a training run ({CONFIG} or {LABEL_SPACE} is missing "
            "or unreadable). Give the --workdir of mtseg-train."
        ) from error
    except InputError as error:
        raise InputError(f"{workdir / CONFIG}: {error}") from error
    return config, label_space


def load_trained(path: Path, which: str = "last") -> TrainedModel:
    """A trained network.

    Args:
        path: a run's folder, or a model that `mtseg.export.export_weights` wrote.
        which: of a run, `last` (as the paper reports) or `best` (chosen on the test scans, so its
            figures are slightly optimistic).

    Raises:
        InputError: if the folder is neither, or has no such weights yet.
    """
    if (path / WEIGHTS).is_file():
        manifest = read_manifest(path)
        check_digests(path)
        label_space = LabelSpace.from_json(manifest["label_space"])
        config = TrainConfig.from_json(json.dumps(manifest["training"]))
        weights, remedy = path / WEIGHTS, "Export the model again."
    else:
        config, label_space = read_config(path)
        weights = weights_path(path, which)
        remedy = "Run the same mtseg-train command again: it writes them at its next evaluation."
        if not weights.is_file():
            raise InputError(
                f"{path}: has no {which} weights yet; they are written at every evaluation. "
                "Let mtseg-train reach one."
            )
        if not have_matching_weights(path, which):
            raise InputError(
                f"{weights}: is damaged, or its evaluation is of other weights. "
                + (
                    "Run the same mtseg-train command again: it evaluates anew and writes both."
                    if which == "last"
                    else "Take the last weights, or train again in another --workdir."
                )
            )
    model = build_model(config, label_space)
    try:
        with warnings.catch_warnings():
            # Keras only warns of weights that are not in the file, and leaves random ones.
            warnings.simplefilter("error", UserWarning)
            model.load_weights(weights)
    except (OSError, ValueError, KeyError, UserWarning) as error:
        raise InputError(
            f"{weights}: cannot be read as weights of this network ({type(error).__name__}). "
            f"{remedy}"
        ) from error
    require_finite(model.get_weights(), weights)
    return TrainedModel(config, label_space, model)


def require_finite(weights: list[np.ndarray], path: Path) -> None:
    """Refuses weights that are not numbers: what they compute means nothing.

    Raises:
        InputError: if one is NaN or infinite.
    """
    if not all(np.isfinite(array).all() for array in weights):
        raise InputError(f"{path}: holds weights that are not finite. Train the network again.")
