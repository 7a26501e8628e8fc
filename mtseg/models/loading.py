"""Loading an exported model from its folder.

`load` returns an `ExportedModel`, whatever the format; `mtseg.serving.remote_model` makes the same
from a server.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from mtseg.errors import InputError
from mtseg.inference.dense import DenseNetwork, choose_precision, make_dense_network
from mtseg.inference.engines.averaging import Network
from mtseg.inference.engines.choice import choose_engine
from mtseg.inference.verdict import OutOfDistributionCheck
from mtseg.runs.manifest import (
    CONFIG,
    MAY_USE_INT8,
    PACKAGED,
    WEIGHTS,
    find_model,
    locate_model,
    read_manifest,
)
from mtseg.runs.weights import load_trained, require_finite
from mtseg.runs.weights_file import read_folded
from mtseg.system.checksums import verify_checksums
from mtseg.system.hardware import has_bfloat16_instructions, is_x86
from mtseg.tasks.label_space import LabelSpace
from mtseg.tasks.label_table import LabelEntry, to_labels
from mtseg.tasks.task import Task


@dataclasses.dataclass
class Renewal:
    """How a served model whose version is gone is replaced, for all who hold that version.

    Attributes:
        load: loads the newest version that the server has now.
        newest: the version that has taken the place of the one that is held; None if none has.
    """

    load: Callable[[], ExportedModel]
    newest: ExportedModel | None = None


@dataclasses.dataclass(frozen=True)
class ExportedModel:
    """A trained network with what its manifest says.

    Attributes:
        path: folder of the version, or address on a server.
        class_names: names of the combined classes, background first.
        class_task: for each class the name of its task; None for background.
        thresholds: for each class its operating point; None if it has none.
        label_table: for each class but the background its value in label files, colour and code.
        network: computes tiles in the precision that was asked for.
        kept_alive: owner of the network's variables or connection, which must live as long as the
            network does.
        tasks: the tasks that the network was trained for.
        trained_spacing_mm: name of a task -> median voxel size of its prepared test or validation
            scans; empty for models that do not know it.
        model_id: identifies the weights and operating points; None if the manifest has no such
            field, so that results of different models cannot be told apart.
        out_of_distribution_check: detects scans that are unlike those of training; None if the
            model was evaluated on too few scans for it.
        renewal: of a served model whose version was not given; None for any other.
    """

    path: Path | str
    class_names: tuple[str, ...]
    class_task: tuple[str | None, ...]
    thresholds: tuple[float | None, ...]
    label_table: tuple[LabelEntry, ...]
    network: Network
    kept_alive: Any
    tasks: tuple[Task, ...] = ()
    trained_spacing_mm: Mapping[str, float] = dataclasses.field(default_factory=dict)
    model_id: str | None = None
    out_of_distribution_check: OutOfDistributionCheck | None = None
    renewal: Renewal | None = None

    def identify(self) -> dict[str, Any]:
        """What tells results of this model from those of others, as plain values.

        The identifier covers weights, operating points, label values and post-processing. The rest
        that decides a result is the voxel sizes and the check, which decides warnings as well.
        """
        check = self.out_of_distribution_check
        decides = {
            "tasks": [(task.name, task.is_ct, task.spacing_mm) for task in self.tasks],
            "trained_spacing_mm": dict(self.trained_spacing_mm),
            "check": None if check is None else check.to_json(),
        }
        text = json.dumps(decides, sort_keys=True)
        checksum = hashlib.sha256(text.encode()).hexdigest()[:16]
        return {"model_id": self.model_id, "voxel_sizes_and_check": checksum}


def load(
    path: str | Path | None = None,
    precision: str | None = None,
    engine: str | None = None,
) -> ExportedModel:
    """Loads a model from a folder.

    Args:
        path: folder that `mtseg-export` wrote (its newest version is loaded), one version in it, or
            the folder of a training run, whose last weights are loaded; or the name of a packaged
            model. None is the default one.
        precision: one of `mtseg.inference.engines.choice.PRECISIONS`; None is the fastest on this
            machine, which is `int8` only for a model whose manifest allows it.
        engine: what computes, one of `mtseg.inference.engines.choice.ENGINES`; None is the fastest
            that is installed.

    Raises:
        InputError: if there is no model, it is damaged, it is of another version of mtseg, or the
            engine is not installed or cannot compute it.
    """
    engine = find_engine(path, engine, None, precision)
    folder = find_model(locate_model(path or PACKAGED))
    network: Network
    kept_alive: Any = None
    if engine == "openvino":
        network = _open_openvino(folder, precision)
    elif (folder / WEIGHTS).is_file():
        # `load_trained` verifies the checksums.
        kept_alive = load_trained(folder).model
        network = make_dense_network(kept_alive, precision)
    elif (folder / CONFIG).is_file():
        from mtseg.models.export import make_manifest

        trained = load_trained(folder)
        network = make_dense_network(trained.model, precision)
        return make_exported(folder, make_manifest(trained, folder, "last"), network, trained.model)
    else:
        kept_alive = _load_saved_model(folder)
        require_finite([v.numpy() for v in kept_alive.variables if v.dtype.is_floating], folder)
        network = _network_of(kept_alive, folder, precision or choose_precision())
    return make_exported(folder, read_manifest(folder), network, kept_alive)


def find_engine(
    path: str | Path | None = None,
    engine: str | None = None,
    devices: str | None = None,
    precision: str | None = None,
) -> str:
    """The engine that will compute a model, found without starting it.

    Args:
        path: as for `load`.
        engine: as for `load`.
        devices: the value of `--devices`, if it was given; a GPU asks for TensorFlow.
        precision: as for `load`; `int8` asks for OpenVINO.

    Raises:
        InputError: if there is no such folder, or the engine is not installed or cannot compute the
            model in that precision.
    """
    folder = find_model(locate_model(path or PACKAGED))
    is_run = (folder / CONFIG).is_file()
    form = "weights" if (folder / WEIGHTS).is_file() else "run" if is_run else "SavedModel"
    return choose_engine(engine, form, devices, precision)


def make_exported(
    path: Path | str, manifest: dict[str, Any], network: Network, kept_alive: Any
) -> ExportedModel:
    """Joins a network with what its manifest says.

    Args:
        path: folder of the version, or address on a server.
        manifest: from `mtseg.runs.manifest.read_manifest` or `check_manifest`.
        network: computes tiles.
        kept_alive: as for `ExportedModel`.

    Raises:
        InputError: if the manifest contradicts itself, or has values of other types.
    """
    label_space = LabelSpace.from_json(manifest["label_space"])
    class_names, stored_check = label_space.class_names, manifest.get("resemblance")
    points, spacings = manifest["operating_points"], manifest.get("trained_spacing_mm", {})
    label_table = label_space.label_table
    labels = to_labels(label_table).tolist()
    if (
        manifest["classes"] != list(class_names)
        or not _are_numbers(points, class_names)
        or not _are_numbers(spacings, [s.task.name for s in label_space.selections])
        or not all(spacing_mm > 0 for spacing_mm in spacings.values())
        # Models of earlier versions do not list the labels: those are 1, 2, … in their order.
        or manifest.get("labels", labels) != labels
    ):
        raise InputError(f"{path}: its manifest contradicts itself. Export the model again.")
    check = None if stored_check is None else OutOfDistributionCheck.from_json(stored_check, path)
    return ExportedModel(
        path=path,
        class_names=class_names,
        class_task=label_space.class_task,
        thresholds=tuple(points.get(name) for name in class_names),
        label_table=label_table,
        network=network,
        kept_alive=kept_alive,
        tasks=tuple(selection.task for selection in label_space.selections),
        trained_spacing_mm=spacings,
        model_id=manifest.get("model_id"),
        out_of_distribution_check=check,
    )


def _are_numbers(found: Any, names: Collection[str]) -> bool:
    """Whether a value from JSON has finite numbers for some of these names, and nothing else."""
    return isinstance(found, dict) and all(
        name in names and type(number) in (int, float) and abs(number) < 1e6
        for name, number in found.items()
    )


def _open_openvino(folder: Path, precision: str | None) -> DenseNetwork:
    from mtseg.inference.engines.openvino_engine import open_folded

    _, network = read_folded(folder)
    fastest = "bfloat16" if has_bfloat16_instructions() else "float32"
    if read_manifest(folder).get(MAY_USE_INT8) is True and is_x86():
        fastest = "int8"
    return open_folded(network, precision or fastest)


def _load_saved_model(folder: Path) -> Any:
    import tensorflow as tf

    read_manifest(folder)  # before the long work, for its errors
    verify_checksums(folder)
    try:
        return tf.saved_model.load(str(folder))
    except (OSError, KeyError, ValueError, tf.errors.OpError) as error:
        raise _not_loaded(folder, error) from error


def _network_of(saved_model: Any, folder: Path, precision: str) -> DenseNetwork:
    """A network that computes tiles by the signature of a SavedModel."""
    import tensorflow as tf

    from mtseg.inference.engines.tensorflow_engine import open_function
    from mtseg.models.signature_names import tile_signature

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

    def compute(tile: Any, chunk_positions: Any) -> Any:
        result = signature(
            tile=tile[tf.newaxis],
            intensity_scale=tf.constant([1.0]),  # a prepared scan is divided by its scale already
            chunk_positions=chunk_positions[tf.newaxis],
        )
        return result["probabilities"][0]

    return open_function(compute, num_classes, precision)


def _not_loaded(folder: Path, error: Exception) -> InputError:
    return InputError(
        f"{folder}: the SavedModel cannot be loaded ({type(error).__name__}). Export it again."
    )
