"""Loading an exported model from its folder.

`load` returns an `ExportedModel`, whatever the format; `mtseg.serving.remote_model` makes the same
from a server.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from mtseg.errors import InputError
from mtseg.inference.dense import (
    DenseNetwork,
    device_chunk_positions,
    fastest_precision,
    make_dense_network,
)
from mtseg.inference.tiling import Plan, Tile
from mtseg.inference.verdict import OutOfDistributionCheck
from mtseg.models.export import versions
from mtseg.models.manifest import MANIFEST, PACKAGED, WEIGHTS, read_manifest
from mtseg.models.signatures import tile_signature
from mtseg.models.weights import load_trained, require_finite
from mtseg.system.checksums import verify_checksums
from mtseg.tasks.label_space import LabelSpace


class Network(Protocol):
    """What computes the tiles of a volume, here or on a server.

    The methods are those of `mtseg.inference.dense.DenseNetwork`.
    """

    @property
    def num_classes(self) -> int:
        """Its classes."""

    @property
    def precision(self) -> str:
        """In which its convolutions run."""

    def plan(self, volume: np.ndarray, memory_bytes: float | None = None, **how: Any) -> Plan:
        """Divides a volume into tiles."""

    def run_all(self, volume: np.ndarray, plan: Plan) -> Iterator[tuple[Tile, np.ndarray]]:
        """Computes them."""


@dataclasses.dataclass(frozen=True)
class ExportedModel:
    """A trained network and its manifest.

    Attributes:
        path: the version's folder, or a server's address.
        class_names: combined classes, background first.
        class_task: the name of the task of each of them; None for the background.
        thresholds: for each class its operating point, or None.
        network: what computes tiles, in the precision asked for.
        kept_alive: what holds the network's variables.
        model_id: what tells it from models that label otherwise; None if it has none.
        resemblance: how scans like those of training look to it; None if that was not measured.
        renew: of a served model, gives its newest version.
    """

    path: Path | str
    class_names: tuple[str, ...]
    class_task: tuple[str | None, ...]
    thresholds: tuple[float | None, ...]
    network: Network
    kept_alive: Any
    model_id: str | None = None
    resemblance: OutOfDistributionCheck | None = None
    renew: Callable[[], ExportedModel] | None = None


def load(path: str | Path | None = None, precision: str | None = None) -> ExportedModel:
    """Loads a model.

    Args:
        path: a folder that `mtseg-export` wrote (its newest version is taken), or one version.
            None is the model that comes with the package.
        precision: `float32` or `bfloat16`; None is the faster one on this machine.

    Raises:
        InputError: if there is no model, or it is of another version of mtseg.
    """
    folder, precision = Path(path or PACKAGED), precision or fastest_precision()
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder. Make a model with: mtseg-export WORKDIR {folder}"
        )
    if (folder / WEIGHTS).is_file():
        # Its files are checked where they are read.
        kept_alive = load_trained(folder).model
        network = make_dense_network(kept_alive, precision)
    else:
        folder = _newest_version(folder)
        kept_alive = _load_saved_model(folder)
        require_finite([v.numpy() for v in kept_alive.variables if v.dtype.is_floating], folder)
        network = _network_of(kept_alive, folder, precision)
    return make_exported(folder, read_manifest(folder), network, kept_alive)


def make_exported(
    path: Path | str, manifest: dict[str, Any], network: Network, kept_alive: Any
) -> ExportedModel:
    """Joins a network with what its manifest says; see `ExportedModel`.

    Raises:
        InputError: if the manifest contradicts itself.
    """
    class_names = tuple(manifest["classes"])
    label_space = LabelSpace.from_json(manifest["label_space"])
    points, stored = manifest["operating_points"], manifest.get("resemblance")
    if class_names != label_space.class_names or not set(points) <= set(class_names):
        raise InputError(f"{path}: its manifest contradicts itself. Export the model again.")
    return ExportedModel(
        path=path,
        class_names=class_names,
        class_task=label_space.class_task,
        thresholds=tuple(points.get(name) for name in class_names),
        network=network,
        kept_alive=kept_alive,
        model_id=manifest.get("model_id"),
        resemblance=None if stored is None else OutOfDistributionCheck.from_json(stored),
    )


def _newest_version(folder: Path) -> Path:
    if (folder / MANIFEST).is_file():
        return folder
    numbers = versions(folder)
    if not numbers:
        raise InputError(
            f"{folder}: has no exported model. Make one with: mtseg-export WORKDIR {folder}"
        )
    return folder / str(numbers[-1])


def _load_saved_model(folder: Path) -> Any:
    read_manifest(folder)  # before the long work
    verify_checksums(folder)
    try:
        return tf.saved_model.load(str(folder))
    except (OSError, KeyError, ValueError, tf.errors.OpError) as error:
        raise _not_loaded(folder, error) from error


def _network_of(saved_model: Any, folder: Path, precision: str) -> DenseNetwork:
    try:
        signature = saved_model.signatures[tile_signature(precision)]
    except KeyError as error:
        raise _not_loaded(folder, error) from error

    num_classes = len(read_manifest(folder)["classes"])
    if signature.structured_outputs["probabilities"].shape[-1] != num_classes:
        raise InputError(
            f"{folder}: its manifest names {num_classes} classes, its network has others. Export "
            "the model again."
        )

    def compute(tile: tf.Tensor, chunk_positions: tf.Tensor) -> tf.Tensor:
        result = signature(
            tile=tile[tf.newaxis],
            intensity_scale=tf.constant([1.0]),
            chunk_positions=chunk_positions[tf.newaxis],
        )
        return result["probabilities"][0]

    return DenseNetwork(
        compute,
        num_classes,
        precision,
        device_chunk_positions(precision),
    )


def _not_loaded(folder: Path, error: Exception) -> InputError:
    return InputError(
        f"{folder}: the SavedModel cannot be loaded ({type(error).__name__}). Export it again."
    )
