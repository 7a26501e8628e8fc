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
from pathlib import Path

import keras
import numpy as np

from mtseg.errors import InputError
from mtseg.models.manifest import WEIGHTS, read_manifest
from mtseg.system.checksums import verify_checksums
from mtseg.tasks.label_space import LabelSpace
from mtseg.training.config import TrainConfig
from mtseg.training.network import build_model
from mtseg.training.workdir import have_matching_weights, read_config, weights_path


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A trained network and what it was trained for."""

    config: TrainConfig
    label_space: LabelSpace
    model: keras.Model


def load_trained(path: Path, which: str = "last") -> TrainedModel:
    """A trained network.

    Args:
        path: a run's folder, or a model that `mtseg.models.export.export_weights` wrote.
        which: of a run, `last` (as the paper reports) or `best` (chosen on the test scans, so its
            figures are slightly optimistic).

    Raises:
        InputError: if the folder is neither, or has no such weights yet.
    """
    if (path / WEIGHTS).is_file():
        manifest = read_manifest(path)
        verify_checksums(path)
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
