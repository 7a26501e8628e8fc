"""Prediction: a scan file and an exported model come in, a label file on the scan's grid leaves."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mtseg import volumes
from mtseg.dense import dense_probabilities
from mtseg.errors import InputError
from mtseg.export import MANIFEST, MANIFEST_SCHEMA, versions
from mtseg.metrics import decide


@dataclasses.dataclass(frozen=True)
class ExportedModel:
    """A SavedModel and its manifest.

    Attributes:
        path: the version's folder.
        class_names: combined classes, background first.
        thresholds: for each class its operating point, or None.
        signature: volume (I, J, K) -> `labels` and `probabilities`.
        saved_model: keeps the signature's variables alive.
    """

    path: Path
    class_names: tuple[str, ...]
    thresholds: tuple[float | None, ...]
    signature: Callable[..., dict[str, tf.Tensor]]
    saved_model: Any

    def probabilities(self, image: np.ndarray) -> np.ndarray:
        """Class probabilities of a prepared scan, float32 (I, J, K, classes)."""

        def run(volume: np.ndarray) -> np.ndarray:
            return self.signature(volume=tf.constant(volume))["probabilities"].numpy()

        return dense_probabilities(run, image)


def load(path: str | Path) -> ExportedModel:
    """Loads an exported model.

    Args:
        path: a folder that `mtseg-export` wrote (its newest version is taken), or one version.

    Raises:
        InputError: if there is no model, or it is of another version of mtseg.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder. Make a model with: mtseg-export WORKDIR {folder}"
        )
    if not (folder / MANIFEST).is_file():
        numbers = versions(folder)
        if not numbers:
            raise InputError(
                f"{folder}: holds no exported model. Make one with: mtseg-export WORKDIR {folder}"
            )
        folder = folder / str(numbers[-1])
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        schema = manifest["schema"]
        class_names = tuple(manifest["classes"])
        points = manifest["operating_points"]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder / MANIFEST}: missing or unreadable. Export the model again."
        ) from error
    if schema != MANIFEST_SCHEMA:
        raise InputError(
            f"{folder / MANIFEST}: has schema {schema}, this version of mtseg reads "
            f"{MANIFEST_SCHEMA}. Export the model again."
        )
    try:
        saved_model = tf.saved_model.load(str(folder))
        signature = saved_model.signatures["serving_default"]
    except (OSError, KeyError, ValueError, tf.errors.OpError) as error:
        raise InputError(
            f"{folder}: the SavedModel cannot be loaded ({type(error).__name__}). Export it again."
        ) from error
    return ExportedModel(
        path=folder,
        class_names=class_names,
        thresholds=tuple(points.get(name) for name in class_names),
        signature=signature,
        saved_model=saved_model,
    )


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """What was written for a scan.

    Attributes:
        label_path: the label file.
        volumes_ml: class name -> volume, for the classes that were found.
    """

    label_path: Path
    volumes_ml: dict[str, float]


def scan_stem(path: Path) -> str:
    """A scan's name without `.nii` or `.nii.gz`."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def segment_file(
    model: ExportedModel,
    scan_path: Path,
    out_dir: Path,
    *,
    spacing_mm: float | None = None,
    is_ct: bool | None = None,
    use_probabilities: bool = False,
) -> Segmentation:
    """Segments a scan file.

    Args:
        model: from `load`.
        scan_path: NIfTI file.
        out_dir: `NAME_labels.nii.gz` goes here, and `NAME_probabilities.nii.gz` if asked for.
        spacing_mm: isotropic size to work at; None is the scan's finest voxel size.
        is_ct: whether intensities are Hounsfield units; None lets the scan's minimum decide.
        use_probabilities: also write a volume a class.

    Raises:
        InputError: if the scan cannot be used.
    """
    scan = volumes.read_scan(scan_path)
    try:
        prepared = volumes.prepare_scan(scan, spacing_mm, is_ct)
    except InputError as error:
        raise InputError(f"{scan_path}: {error}") from error
    probabilities = model.probabilities(prepared.volume.array)

    def on_source_grid() -> Iterator[np.ndarray]:
        # One class at a time: all of them on a fine source grid would not fit in memory.
        for class_index in range(probabilities.shape[-1]):
            yield volumes.restore(probabilities[..., class_index], prepared, order=1)

    labels = decide(on_source_grid(), model.thresholds)
    labels[~prepared.source_foreground] = 0
    out_dir.mkdir(parents=True, exist_ok=True)
    label_path = out_dir / f"{scan_stem(scan_path)}_labels.nii.gz"
    volumes.write_label_map(label_path, labels, scan)
    if use_probabilities:
        restored = np.stack(list(on_source_grid()), axis=-1)
        restored[~prepared.source_foreground] = [1.0] + [0.0] * (restored.shape[-1] - 1)
        volumes.write_probabilities(
            out_dir / f"{scan_stem(scan_path)}_probabilities.nii.gz", restored, scan
        )
    voxel_ml = float(np.prod(scan.spacing_mm)) / 1000
    counts = np.bincount(labels.ravel(), minlength=len(model.class_names))
    return Segmentation(
        label_path=label_path,
        volumes_ml={
            name: float(count * voxel_ml)
            for name, count in list(zip(model.class_names, counts, strict=True))[1:]
            if count
        },
    )
