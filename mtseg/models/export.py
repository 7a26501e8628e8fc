"""Export of a trained network to a versioned SavedModel, or to its weights only.

    OUT/1/saved_model.pb      what TensorFlow Serving loads
    OUT/1/variables/
    OUT/1/manifest.json       classes and their labels, operating points, and the rules that
                              prepare a scan
    OUT/1/SHA256SUMS          checksums, so that damage is found

`mtseg.models.signatures` lists the signatures. `mtseg-predict` computes tiles (by `segment_tile`
here, by `tile_probabilities` on a server), so that it can choose precision and memory.

Weights only, without TensorFlow's graphs, take about a quarter of the space and serve
`mtseg-predict` and `mtseg-evaluate`:

    OUT/model.weights.h5
    OUT/manifest.json
    OUT/SHA256SUMS
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtseg.errors import InputError
from mtseg.evaluation.results import Evaluation
from mtseg.inference.postprocessing import class_rules
from mtseg.inference.tile_cost import CHUNK_BYTES
from mtseg.inference.verdict import calibrate
from mtseg.models.signature_names import list_signatures
from mtseg.models.signatures import add_signatures
from mtseg.network.architecture import HALO
from mtseg.runs.manifest import MANIFEST, MANIFEST_SCHEMA, MAY_USE_INT8, WEIGHTS, versions
from mtseg.runs.unevaluated import read_unevaluated
from mtseg.runs.weights import TrainedModel, load_trained
from mtseg.runs.workdir import BEST_EVALUATION, EVALUATION, VALIDATION, read_json
from mtseg.system.atomic_files import atomic_write, lock_folder, write_json, writing_to
from mtseg.system.checksums import CHECKSUMS, list_checksums
from mtseg.tasks.label_table import to_labels

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

INTENSITY_RULE = (
    "A scan is CT if its header or the user says so, otherwise by its values (many below -500). "
    "CT, in Hounsfield units: 1024 is added and values below 0 become 0. MR: background becomes 0. "
    "Voxels > 0 are foreground, decided on the scan's own grid. After resampling (averaged where "
    "the new voxels are larger, then by cubic spline; 0 outside the foreground) intensities are "
    "divided by the 99th percentile of the foreground."
)
"""How a scan's intensities are prepared, for people who read a manifest."""

SPACING_RULE = (
    "Isotropic, at the voxel size of the task that the scan is recognised as (see label_space and "
    "trained_spacing_mm), axes flipped to RAS+."
)
"""How a scan's voxels are prepared, for people who read a manifest."""


def export_model(
    workdir: str | Path,
    out: str | Path,
    which: str = "last",
    finish: Callable[[Path], None] = lambda temporary: None,
    *,
    chunk_bytes: int = CHUNK_BYTES,
) -> Path:
    """Writes the next version of a SavedModel.

    Args:
        workdir: folder of a training run that has been evaluated.
        out: folder of the model; versions 1, 2, 3 … are folders in it.
        which: `last` or `best` weights.
        finish: called with the version's temporary folder, to add files to it.
        chunk_bytes: size of one feature map of the slices that pass the convolutions at once;
            `mtseg.inference.tile_cost.chunk_bytes_of_gpu` for a server with a GPU.

    Returns:
        The new version's folder. It appears complete, by a single rename.

    Raises:
        InputError: if the run has no such weights or no evaluation yet, or `out` is a file, cannot
            be written, or has the weights of a model only.
    """
    workdir, out = Path(workdir), Path(out)
    trained = load_trained(workdir, which)
    manifest = make_manifest(trained, workdir, which) | {"signatures": list_signatures()}
    with exporting_to(out):
        if (out / WEIGHTS).exists():
            raise InputError(f"{out}: has the weights of a model only. Give another folder.")
        final = out / str(max(versions(out), default=0) + 1)
        with atomic_write(final) as temporary:
            _write_saved_model(trained, manifest, temporary, chunk_bytes)
            (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
            finish(temporary)
            (temporary / CHECKSUMS).write_text(list_checksums(temporary))
    return final


def export_weights(
    workdir: str | Path, out: str | Path, which: str = "last", *, may_use_int8: bool = False
) -> Path:
    """Writes the weights and manifest of a network, without TensorFlow's graphs.

    Args:
        workdir: as for `export_file`.
        out: likewise.
        which: likewise.
        may_use_int8: whether a precision that is chosen automatically may be int8.

    Returns:
        The folder.

    Raises:
        InputError: as `export_file` does.
    """
    return export_file(
        workdir,
        out,
        which,
        WEIGHTS,
        lambda trained, path: trained.model.save_weights(path),
        {MAY_USE_INT8: True} if may_use_int8 else {},
    )


def export_file(
    workdir: str | Path,
    out: str | Path,
    which: str,
    name: str,
    write: Callable[[TrainedModel, Path], None],
    more: Mapping[str, Any] = MappingProxyType({}),
) -> Path:
    """Writes a model that is a single file, and its manifest.

    Args:
        workdir: folder of a training run that has been evaluated.
        out: folder of the model: missing, empty, or with a model of the same kind, which is
            replaced.
        which: `last` or `best` weights.
        name: name of the file.
        write: called with the trained network and the path to write the file to.
        more: further fields of the manifest.

    Returns:
        The folder.

    Raises:
        InputError: if the run has no such weights or no evaluation yet, or `out` has other files.
    """
    workdir, out = Path(workdir), Path(out)
    trained = load_trained(workdir, which)
    manifest = {**make_manifest(trained, workdir, which), **more}
    with exporting_to(out):
        others = [path for path in out.iterdir() if not path.name.startswith(".")]
        if others and not (out / name).is_file():
            raise InputError(f"{out}: has other files. Give an empty folder for the model.")
        with atomic_write(out / name) as temporary:
            write(trained, temporary)
            # While the file is replaced there is no manifest, so nobody loads a mixed model.
            for old in (MANIFEST, CHECKSUMS):
                (out / old).unlink(missing_ok=True)
        write_json(out / MANIFEST, manifest)
        with atomic_write(out / CHECKSUMS) as temporary:
            temporary.write_text(list_checksums(out))
    return out


def require_model_name(name: str) -> None:
    """Refuses a name that a model cannot have on a server.

    Raises:
        InputError: if it is such a name.
    """
    if not _NAME.fullmatch(name) or name.isdecimal():
        raise InputError(
            f"--name {name!r}: is not a valid name of a model. Use letters, digits, dots, dashes "
            "and underscores, and not only digits."
        )


@contextlib.contextmanager
def exporting_to(out: Path) -> Iterator[None]:
    """Makes a folder for models and locks it.

    Raises:
        InputError: if it is a file, cannot be written, or another command is exporting to it.
    """
    with writing_to(out, "Make room or give another folder.", also=(tf.errors.OpError,)):
        try:
            out.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise InputError(f"{out}: is a file. Give a folder for the model.") from error
        with lock_folder(out, f"{out}: another command is exporting to here. Wait for it."):
            yield


def _parse_evaluation(figures: dict[str, Any], file: Path) -> Evaluation:
    """The evaluation that one of a run's files has."""
    try:
        return Evaluation.from_json(figures)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file.parent}: has no readable {file.name}, which has the operating points. Let "
            "mtseg-train finish an evaluation."
        ) from error


def _read_validation(workdir: Path, figures: dict[str, Any]) -> Evaluation:
    """The evaluation on validation scans of the weights that `figures` are of."""
    stored = read_json(workdir / VALIDATION)
    evaluation = _parse_evaluation(stored, workdir / VALIDATION)
    if stored.get("weights_sha256") != figures.get("weights_sha256"):
        raise InputError(
            f"{workdir / VALIDATION}: belongs to another evaluation, as long as the run there goes "
            "on. Wait until it evaluates no more, and rerun the command."
        )
    return evaluation


def _write_saved_model(
    trained: TrainedModel, manifest: dict[str, Any], path: Path, chunk_bytes: int
) -> None:
    points = manifest["operating_points"]
    thresholds = [points.get(name) for name in trained.label_space.class_names]
    archive = keras.export.ExportArchive()
    archive.track(trained.model)
    add_signatures(archive, trained.model, thresholds, json.dumps(manifest), chunk_bytes)
    archive.write_out(str(path), verbose=False)


def make_manifest(trained: TrainedModel, workdir: Path, which: str) -> dict[str, Any]:
    """What a model of a training run is, as `mtseg.runs.manifest` reads it.

    Args:
        trained: the network, with the evaluation that it was loaded with.
        workdir: folder of the run.
        which: `last` or `best` weights.

    Raises:
        InputError: if these weights are not evaluated yet.
    """
    label_space = trained.label_space
    if which == "last" and read_unevaluated(workdir) is not None:
        raise InputError(
            f"{workdir}: its last weights are not evaluated yet, so it has no operating points for "
            f"them. Run mtseg-evaluate {workdir} first."
        )
    file = workdir / {"last": EVALUATION, "best": BEST_EVALUATION}[which]
    evaluation = _parse_evaluation(trained.figures, file)
    chosen_on = evaluation
    if evaluation.points_from != evaluation.split:  # test scans calibrate nothing then
        chosen_on = _read_validation(workdir, trained.figures)
    scans = {task: list(of_task.values()) for task, of_task in chosen_on.statistics.items()}
    check = calibrate(scans, label_space.class_task)
    return {
        "schema": MANIFEST_SCHEMA,
        "model_id": _model_id(trained, evaluation.operating_points),
        "mtseg_version": importlib.metadata.version("mtseg"),
        "weights": which,
        "label_space": label_space.to_json(),
        "classes": list(label_space.class_names),
        "labels": to_labels(label_space.label_table).tolist(),
        "operating_points": evaluation.operating_points,
        "operating_points_from": evaluation.points_from,
        "spacing_rule": SPACING_RULE,
        "intensity_rule": INTENSITY_RULE,
        "halo_voxels": HALO,
        f"mean_dice_on_{evaluation.split}_scans": evaluation.mean_dice(),
        "trained_spacing_mm": {
            task: float(np.median(known))
            for task, of_task in scans.items()
            if (known := [each.spacing_mm for each in of_task if each.spacing_mm is not None])
        },
        "resemblance": None if check is None else check.to_json(),
        "training": json.loads(trained.config.to_json()),
    }


def _model_id(trained: TrainedModel, operating_points: dict[str, float]) -> str:
    """A checksum of everything that decides a label, so that it identifies the model."""
    checksum = hashlib.sha256(json.dumps(operating_points, sort_keys=True).encode())
    labels = to_labels(trained.label_space.label_table).tolist()
    if labels != list(range(len(labels))):  # a model of earlier versions had no others
        checksum.update(bytes(labels))
    for array in trained.model.get_weights():
        checksum.update(array.tobytes())
    rules = class_rules([selection.task for selection in trained.label_space.selections])
    if rules:  # a model without keeps the identifier that earlier versions gave it
        checksum.update(json.dumps([dataclasses.astuple(rule) for rule in rules]).encode())
    return checksum.hexdigest()[:16]
