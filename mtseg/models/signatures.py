"""The signatures of a SavedModel: what a server or another program can ask it to compute.

    segment             a volume with the scan's own intensities, to labels and probabilities; the
                        serving default
    segment_int16       the same for int16 intensities, half the size
    segment_bfloat16    the same with convolutions in bfloat16
    segment_tile        a part of a volume, so that a volume of any size fits any message limit
    segment_tile_bfloat16
    classify_patches    the voxel in the middle of three patches
    describe            the manifest

All inputs and outputs have a leading axis, as TensorFlow Serving requires. It has length 1, except
for `classify_patches`.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from mtseg.inference.decision import decide_in_graph
from mtseg.inference.tile_cost import chunk_positions_for
from mtseg.inference.tile_graph import make_tile_function, make_volume_function
from mtseg.network.model import HALO, PATCH_SIZE, PLANE_NORMALS
from mtseg.scans.intensities import AIR_HU, CT_BELOW_HU, CT_SHARE
from mtseg.scans.preprocessing import NORMALISING_PERCENTILE

DESCRIBE, CLASSIFY = "describe", "classify_patches"


def segment_signature(precision: str) -> str:
    """The name of the signature that segments a whole volume, of float32 intensities."""
    return "segment" if precision == "float32" else f"segment_{precision}"


def tile_signature(precision: str) -> str:
    """The name of the signature that segments a tile."""
    return "segment_tile" if precision == "float32" else f"segment_tile_{precision}"


def add_signatures(
    archive: keras.export.ExportArchive,
    patch_model: keras.Model,
    thresholds: list[float | None],
    manifest: str,
) -> None:
    """Adds all signatures to an archive that tracks the patch model.

    Args:
        archive: of the SavedModel.
        patch_model: from `mtseg.network.model.build_patch_model`.
        thresholds: for each class its operating point, or None.
        manifest: as JSON.
    """

    def add(name: str, compute: Any, **inputs: tuple[list[int | None], tf.DType]) -> None:
        specs = [tf.TensorSpec(*spec, name=name) for name, spec in inputs.items()]
        archive.add_endpoint(name, compute, input_signature=specs)

    for precision in ("float32", "bfloat16"):
        segment = _volume_function(patch_model, precision, thresholds)
        volume = [1, None, None, None]
        add(segment_signature(precision), segment, volume=(volume, tf.float32))
        if precision == "float32":
            add("segment_int16", segment, volume=(volume, tf.int16))
    for precision in ("float32", "bfloat16"):
        add(
            tile_signature(precision),
            _tile_function(patch_model, precision, thresholds),
            tile=([1, None, None, None], tf.float32),
            intensity_scale=([1], tf.float32),
            chunk_positions=([1], tf.int32),
        )

    def classify(axial: tf.Tensor, coronal: tf.Tensor, sagittal: tf.Tensor) -> dict[str, tf.Tensor]:
        planes = {"axial": axial, "coronal": coronal, "sagittal": sagittal}
        return {"probabilities": patch_model(planes, training=False)[:, 0, 0]}

    patch = ([None, PATCH_SIZE, PATCH_SIZE, 1], tf.float32)
    add(CLASSIFY, classify, **{name: patch for name in PLANE_NORMALS})

    def describe(schema: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"manifest": tf.fill(tf.shape(schema), manifest)}

    add(DESCRIBE, describe, schema=([1], tf.int32))


def _volume_function(
    patch_model: keras.Model, precision: str, thresholds: list[float | None]
) -> Any:
    def finish(rows: tf.Tensor) -> dict[str, tf.Tensor]:
        return {
            "labels": decide_in_graph(rows, thresholds),
            "labels_argmax": tf.cast(tf.argmax(rows, axis=-1), tf.uint8),
            "probabilities": tf.cast(rows, tf.float16),
        }

    compute = make_volume_function(patch_model, precision, finish)

    def segment(volume: tf.Tensor) -> dict[str, tf.Tensor]:
        result = compute(apply_intensity_rule(tf.cast(volume[0], tf.float32)))
        return {name: value[tf.newaxis] for name, value in result.items()}

    return segment


def _tile_function(patch_model: keras.Model, precision: str, thresholds: list[float | None]) -> Any:
    compute = make_tile_function(patch_model, precision)

    def segment_tile(
        tile: tf.Tensor, intensity_scale: tf.Tensor, chunk_positions: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        scaled = tile[0] / intensity_scale[0]
        at_once = tf.where(
            chunk_positions[0] > 0, chunk_positions[0], chunk_positions_for(precision)
        )
        rows = compute(scaled, at_once)
        interior = scaled[HALO:-HALO, HALO:-HALO, HALO:-HALO]
        labels = tf.scatter_nd(
            tf.where(interior != 0), decide_in_graph(rows, thresholds), tf.shape(interior, tf.int64)
        )
        return {"labels": labels[tf.newaxis], "probabilities": rows[tf.newaxis]}

    return segment_tile


def apply_intensity_rule(volume: tf.Tensor) -> tf.Tensor:
    """What `mtseg.scans.preprocessing.prepare_scan` does to intensities, inside a graph.

    Args:
        volume: float32 (I, J, K), isotropic and RAS+, intensities as in the scan.

    Returns:
        float32 (I, J, K): divided by the foreground's percentile, 0 outside the foreground.
    """
    is_air = tf.cast(volume < CT_BELOW_HU, tf.float32)
    is_ct = tf.reduce_mean(is_air) > CT_SHARE
    volume = tf.maximum(tf.where(is_ct, volume - AIR_HU, volume), 0)
    ordered = tf.sort(tf.boolean_mask(volume, volume > 0))
    count = tf.size(ordered)

    def percentile() -> tf.Tensor:
        # Between two neighbours, as NumPy's percentile is.
        place = tf.cast(count - 1, tf.float64) * (NORMALISING_PERCENTILE / 100)
        below = tf.cast(tf.floor(place), tf.int32)
        low = tf.cast(ordered[below], tf.float64)
        high = tf.cast(ordered[tf.minimum(below + 1, count - 1)], tf.float64)
        return tf.cast(low + (high - low) * (place - tf.floor(place)), tf.float32)

    return volume / tf.cond(count > 0, percentile, lambda: 1.0)
