"""Trained weights, read from the folder of a run or from an exported weights folder."""

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
    """A trained network with its configuration and classes."""

    config: TrainConfig
    label_space: LabelSpace
    model: keras.Model


def load_trained(path: Path, which: str = "last") -> TrainedModel:
    """Loads a trained network.

    Args:
        path: folder of a run, or one that `mtseg.models.export.export_weights` wrote.
        which: for a run, `last` (as the paper reports) or `best` (chosen on the test scans, so its
            figures are slightly optimistic).

    Raises:
        InputError: if the folder is neither, has no such weights yet, or they are damaged.
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
        remedy = "Rerun the mtseg-train command: it writes them at its next evaluation."
        if not weights.is_file():
            raise InputError(
                f"{path}: has no {which} weights yet; they are written at every evaluation. "
                "Rerun the mtseg-train command until it reaches one."
            )
        if not have_matching_weights(path, which):
            raise InputError(
                f"{weights}: is damaged, or belongs to another evaluation. "
                + (
                    "Rerun the mtseg-train command: it evaluates again and writes both."
                    if which == "last"
                    else "Use the last weights, or train again in another folder."
                )
            )
    model = build_model(config, label_space)
    try:
        with warnings.catch_warnings():
            # Keras only warns of weights that the file lacks, and leaves them random.
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
    """Refuses weights that are not finite, because their results would be meaningless.

    Raises:
        InputError: if one is NaN or infinite.
    """
    if not all(np.isfinite(array).all() for array in weights):
        raise InputError(f"{path}: has weights that are not finite. Train the network again.")
