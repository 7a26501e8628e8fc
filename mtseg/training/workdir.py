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

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from mtseg.errors import InputError
from mtseg.system.atomic_files import atomic_write
from mtseg.system.checksums import file_checksum
from mtseg.tasks.label_space import LabelSpace
from mtseg.training.config import TrainConfig

CONFIG = "config.json"


LABEL_SPACE = "label_space.json"


LEARNING_CURVE = "learning_curve.json"


EVALUATION = "evaluation.json"


BEST_EVALUATION = "best_evaluation.json"


LABELS = "labels"


def weights_path(workdir: Path, which: str) -> Path:
    """The file of the `last` or `best` weights."""
    return workdir / f"{which}.weights.h5"


def labels_path(workdir: Path, task: str, subject: str) -> Path:
    """The file of a test scan's label map."""
    return workdir / LABELS / task / f"{subject}.npz"


def write_labels(workdir: Path, task: str, subject: str, labels: np.ndarray) -> None:
    """Keeps the label map of a test scan, uint8 (I, J, K), on its task's grid."""
    path = labels_path(workdir, task, subject)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        np.savez_compressed(temporary, labels=labels)


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
    return weights.is_file() and digest in (None, file_checksum(weights))


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
