"""A trained network, read from the folder of a run or of an exported weights file.

Use `load_trained` to evaluate or export a network. To segment scans, use `mtseg.models.loading`.
Keras is imported where a network is built, so that `locate_weights` does without.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.runs.config import TrainConfig
from mtseg.runs.manifest import WEIGHTS, read_manifest
from mtseg.runs.unevaluated import read_unevaluated
from mtseg.runs.workdir import (
    have_matching_weights,
    read_config,
    read_evaluation,
    weights_path,
)
from mtseg.system.checksums import file_checksum, verify_checksums
from mtseg.tasks.label_space import LabelSpace

if TYPE_CHECKING:
    import keras

_MOST_WEIGHTS_BYTES = 1 << 30
"""A hundred times what the largest network has."""


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A trained network with its configuration and classes.

    Attributes:
        config: what it was trained with.
        label_space: its tasks and combined classes.
        model: the patch model, from `mtseg.network.model.build_patch_model`, with float32 weights.
        operating_points: class name -> threshold, those of the evaluation of these weights; None if
            there is none yet.
        points_from: the split of those scans.
        figures: the evaluation of these weights as it is stored; without rows if there is none
            yet. Of an exported model, its manifest.
    """

    config: TrainConfig
    label_space: LabelSpace
    model: keras.Model
    operating_points: dict[str, float] | None = None
    points_from: str = "test"
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)


def load_trained(path: Path, which: str = "last") -> TrainedModel:
    """Loads a trained network.

    Args:
        path: folder of a run, or one that `mtseg.models.export.export_weights` wrote.
        which: for a run, `last` (as the paper reports) or `best` (chosen on the scans of the
            learning curve, so their figures are slightly optimistic).

    Raises:
        InputError: if the folder is neither, has no such weights yet, or they are damaged.
    """
    from mtseg.runs.building import build_model

    for _ in range(2):  # a second time if the run evaluated meanwhile, and replaced both files
        config, label_space, weights, remedy = locate_weights(path, which)
        figures = read_manifest(path) if weights.name == WEIGHTS else _read_figures(path, which)
        model = build_model(config, label_space)
        try:
            with warnings.catch_warnings():
                # Keras only warns of weights that the file lacks, and leaves them random.
                warnings.simplefilter("error", UserWarning)
                require_plain(weights)
                model.load_weights(weights)
        except (OSError, ValueError, KeyError, RuntimeError, UserWarning) as error:
            raise InputError(
                f"{weights}: cannot be read as weights of this network ({type(error).__name__}). "
                f"{remedy}"
            ) from error
        if figures.get("weights_sha256") in (None, file_checksum(weights)):
            break
    else:
        raise InputError(
            f"{weights}: belongs to another evaluation, as long as the run there goes on. Wait "
            "until it evaluates no more, and rerun the command."
        )
    require_finite(model.get_weights(), weights)
    points, points_from = figures.get("operating_points"), figures.get("operating_points_from")
    return TrainedModel(config, label_space, model, points, points_from or "test", figures)


class WeightsFile(NamedTuple):
    """Where the weights of a network are, and what it was trained with.

    Attributes:
        config: configuration of the run.
        label_space: its tasks and combined classes.
        path: the file.
        remedy: what to do if it cannot be read.
    """

    config: TrainConfig
    label_space: LabelSpace
    path: Path
    remedy: str


def locate_weights(path: Path, which: str = "last") -> WeightsFile:
    """Finds the weights of a trained network and verifies that they belong to it.

    Args:
        path: as for `load_trained`.
        which: as for `load_trained`.

    Raises:
        InputError: as `load_trained` does, but for what is in the file.
    """
    return _find_exported(path) if (path / WEIGHTS).is_file() else _find_in_run(path, which)


def _find_exported(path: Path) -> WeightsFile:
    """The weights file of an exported model, with checksums verified."""
    manifest = read_manifest(path)
    verify_checksums(path)
    config = TrainConfig.from_json(json.dumps(manifest["training"]))
    label_space = LabelSpace.from_json(manifest["label_space"])
    return WeightsFile(config, label_space, path / WEIGHTS, "Export the model again.")


def _find_in_run(path: Path, which: str) -> WeightsFile:
    """The weights file of a run, which must belong to its evaluation."""
    config, label_space = read_config(path)
    weights = weights_path(path, which)
    if not weights.is_file():
        raise InputError(
            f"{path}: has no {which} weights yet; they are written at every evaluation. "
            "Rerun the mtseg-train command until it reaches one. A run without validation and test "
            "scans has no best weights: use the last."
        )
    is_noted = which == "last" and read_unevaluated(path) is not None
    if not is_noted and not have_matching_weights(path, which):
        remedy = (
            "Rerun the mtseg-train command: it evaluates again and writes both."
            if which == "last"
            else "Use the last weights, or train again in another folder."
        )
        raise InputError(f"{weights}: is damaged, or belongs to another evaluation. {remedy}")
    remedy = "Rerun the mtseg-train command: it writes them at its next evaluation."
    return WeightsFile(config, label_space, weights, remedy)


def _read_figures(path: Path, which: str) -> dict[str, Any]:
    """The evaluation of a run's weights; of weights without one, at most their checksum."""
    if which == "last" and (note := read_unevaluated(path)) is not None:
        return {"weights_sha256": note["weights_sha256"]}
    return read_evaluation(path, which) or {}


def require_plain(weights: Path) -> None:
    """Refuses a weights file that leads to other files, or would fill the memory.

    HDF5 may link to parts of other files, or keep values there, and may say any size for values
    that are not stored.

    Raises:
        ValueError: if it does.
        OSError: if it is not HDF5.
    """
    import h5py

    num_bytes = 0

    def check(name: str, part: Any) -> None:
        nonlocal num_bytes
        if isinstance(part, h5py.Group):
            if any(not isinstance(part.get(n, getlink=True), h5py.HardLink) for n in part):
                raise ValueError(f"{name}: has a link")
            return
        num_bytes += part.size * part.dtype.itemsize
        if part.is_virtual or part.external or num_bytes > _MOST_WEIGHTS_BYTES:
            raise ValueError(f"{name}: is in another file, or too large")

    with h5py.File(weights, "r") as file:
        check("/", file)
        file.visititems(check)


def require_finite(weights: list[npt.NDArray[Any]], path: Path) -> None:
    """Refuses weights that are not finite, because their results would be meaningless.

    Raises:
        InputError: if one is NaN or infinite.
    """
    if not all(np.isfinite(array).all() for array in weights):
        raise InputError(f"{path}: has weights that are not finite. Train the network again.")
