"""Export: a trained network comes in, a versioned SavedModel with its manifest leaves.

    OUT/1/saved_model.pb      what TensorFlow Serving loads
    OUT/1/variables/
    OUT/1/manifest.json       classes, operating points, and the rules that prepare a scan

`serving_default` takes `volume`, float32 (I, J, K): an isotropic RAS+ scan after the intensity
rule, 0 outside the foreground. It returns `labels`, uint8 (I, J, K), combined class index at the
operating points, and `probabilities`, float32 (I, J, K, classes). `tile_float32` and
`tile_bfloat16` compute a tile of a volume, as `mtseg.tile_graph.make_tile_function` says: with them
`mtseg-predict` chooses precision and memory.

Or, without TensorFlow's graphs, the weights alone, a tenth of the size, for `mtseg-predict` and
`mtseg-evaluate`:

    OUT/model.weights.h5
    OUT/manifest.json
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from mtseg.dense import PRECISIONS
from mtseg.errors import InputError
from mtseg.evaluate import Evaluation
from mtseg.manifest import MANIFEST, MANIFEST_SCHEMA, WEIGHTS
from mtseg.model import HALO
from mtseg.tile_graph import make_tile_function, make_volume_function
from mtseg.verdict import calibrate
from mtseg.workdir import (
    BEST_EVALUATION,
    EVALUATION,
    TrainedModel,
    load_trained,
    write_aside,
    write_json,
)

INTENSITY_RULE = (
    "A scan whose minimum is below -500 is CT: 1024 is added and values below 0 become 0. Voxels "
    "> 0 are foreground, decided on the scan's own grid. After resampling (cubic spline inside "
    "the foreground, 0 outside) intensities are divided by the 99th percentile of the foreground."
)
SPACING_RULE = "Isotropic at the scan's finest voxel size, axes flipped to RAS+."


def export_model(workdir: str | Path, out: str | Path, which: str = "last") -> Path:
    """Writes the next version of a SavedModel.

    Args:
        workdir: folder of a training run that has been evaluated.
        out: the model's folder; versions 1, 2, 3 … are folders in it.
        which: `last` or `best` weights.

    Returns:
        The new version's folder. It appears whole, by one rename.

    Raises:
        InputError: if the run has no such weights or no evaluation yet, or `out` is a file or holds
            a model's weights alone.
    """
    workdir, out = Path(workdir), Path(out)
    trained = load_trained(workdir, which)
    evaluation = _read_evaluation(workdir, which)
    _make_folder(out)
    if (out / WEIGHTS).exists():
        raise InputError(f"{out}: holds a model's weights alone. Give another folder.")
    aside = out / f".writing-{os.getpid()}"
    try:
        _write_saved_model(trained, evaluation.operating_points, aside)
        manifest = _manifest(trained, evaluation, which)
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        final = out / str(max(versions(out), default=0) + 1)
        aside.rename(final)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return final


def export_weights(workdir: str | Path, out: str | Path, which: str = "last") -> Path:
    """Writes a network's weights and manifest, without TensorFlow's graphs.

    Args:
        workdir: folder of a training run that has been evaluated.
        out: the model's folder; missing, empty, or of such a model, which is replaced.
        which: `last` or `best` weights.

    Returns:
        The folder.

    Raises:
        InputError: if the run has no such weights or no evaluation yet, or `out` holds other files.
    """
    workdir, out = Path(workdir), Path(out)
    trained = load_trained(workdir, which)
    manifest = _manifest(trained, _read_evaluation(workdir, which), which)
    _make_folder(out)
    others = [path for path in out.iterdir() if not path.name.startswith(".")]
    if others and not (out / WEIGHTS).is_file():
        raise InputError(f"{out}: holds other files. Give an empty folder for the weights.")
    # The manifest goes first and comes last: without one there is no model.
    (out / MANIFEST).unlink(missing_ok=True)
    write_aside(out / WEIGHTS, trained.model.save_weights)
    write_json(out / MANIFEST, manifest)
    return out


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{out}: is a file. Give a folder for the model.") from error


def versions(out: Path) -> list[int]:
    """The versions in a model's folder, in ascending order."""
    return sorted(int(p.name) for p in out.iterdir() if p.is_dir() and p.name.isdecimal())


def _read_evaluation(workdir: Path, which: str) -> Evaluation:
    """The evaluation of those weights."""
    name = {"last": EVALUATION, "best": BEST_EVALUATION}[which]
    try:
        return Evaluation.from_json(json.loads((workdir / name).read_text()))
    except (OSError, json.JSONDecodeError, KeyError) as error:
        raise InputError(
            f"{workdir}: has no readable {name}, which holds the operating points. Let "
            "mtseg-train finish an evaluation."
        ) from error


def _write_saved_model(
    trained: TrainedModel, operating_points: dict[str, float], path: Path
) -> None:
    thresholds = [operating_points.get(name) for name in trained.label_space.class_names]
    dense = make_volume_function(trained.model, "float32")

    def segment(volume: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities = dense(volume)
        return {"labels": decide(probabilities, thresholds), "probabilities": probabilities}

    archive = keras.export.ExportArchive()
    archive.track(trained.model)
    archive.add_endpoint(
        "segment",
        segment,
        input_signature=[tf.TensorSpec([None, None, None], tf.float32, name="volume")],
    )
    for precision in PRECISIONS:
        compute = make_tile_function(trained.model, precision)
        archive.add_endpoint(
            tile_signature(precision), _named(compute), input_signature=compute.input_signature
        )
    archive.write_out(str(path), verbose=False)


def _named(compute: Callable[..., tf.Tensor]) -> Callable[..., dict[str, tf.Tensor]]:
    def compute_tile(tile: tf.Tensor, chunk_positions: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": compute(tile, chunk_positions)}

    return compute_tile


def tile_signature(precision: str) -> str:
    """The name of the SavedModel's signature that computes a tile in a precision."""
    return f"tile_{precision}"


def decide(probabilities: tf.Tensor, thresholds: list[float | None]) -> tf.Tensor:
    """The rule of `mtseg.metrics.decide`, inside a graph.

    Args:
        probabilities: float32 (..., classes).
        thresholds: for each class its operating point, or None.

    Returns:
        uint8 (...), combined class index.
    """
    at_argmax = [c for c, t in enumerate(thresholds) if t is None and c > 0]
    at_threshold = [c for c, t in enumerate(thresholds) if t is not None]
    others = tf.gather(probabilities, [0, *at_threshold], axis=-1)
    labels = tf.zeros(tf.shape(probabilities)[:-1], tf.uint8)
    if at_threshold:
        points = tf.constant([thresholds[c] for c in at_threshold], probabilities.dtype)
        candidates = others[..., 1:]
        factors = tf.where(candidates >= points, candidates / tf.maximum(points, 1e-6), 0.0)
        best = tf.gather(tf.constant(at_threshold, tf.uint8), tf.argmax(factors, axis=-1))
        labels = tf.where(tf.reduce_max(factors, axis=-1) > 0, best, labels)
    if at_argmax:
        candidates = tf.gather(probabilities, at_argmax, axis=-1)
        best = tf.gather(tf.constant(at_argmax, tf.uint8), tf.argmax(candidates, axis=-1))
        is_higher = tf.reduce_max(candidates, axis=-1) > tf.reduce_max(others, axis=-1)
        labels = tf.where(is_higher, best, labels)
    return labels


def _manifest(trained: TrainedModel, evaluation: Evaluation, which: str) -> dict[str, Any]:
    label_space = trained.label_space
    scans = {task: list(of_task.values()) for task, of_task in evaluation.statistics.items()}
    resemblance = calibrate(scans, label_space.class_task)
    return {
        "schema": MANIFEST_SCHEMA,
        "mtseg_version": importlib.metadata.version("mtseg"),
        "weights": which,
        "label_space": label_space.to_json(),
        "classes": list(label_space.class_names),
        "operating_points": evaluation.operating_points,
        "spacing_rule": SPACING_RULE,
        "intensity_rule": INTENSITY_RULE,
        "halo_voxels": HALO,
        "mean_dice_on_test_scans": evaluation.mean_dice(),
        "resemblance": None if resemblance is None else resemblance.to_json(),
        "training": json.loads(trained.config.to_json()),
    }
