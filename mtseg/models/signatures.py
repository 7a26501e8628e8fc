"""The signatures of an exported SavedModel: what a server or another program can compute with it.

    segment                 labels and probabilities of a volume with the scan's own intensities;
                            the serving default
    segment_int16           the same from int16 intensities, half the size
    segment_bfloat16        the same with convolutions in bfloat16
    segment_tile            the same of a part of a volume, prepared by the client; so volumes of
                            any size fit into messages
    segment_tile_bfloat16   the same with convolutions in bfloat16
    segment_labels          the labels alone of such a volume, as `segment` takes
    segment_labels_bfloat16
    tile_probabilities      the probabilities alone of such a part, as `segment_tile` takes; this
    tile_probabilities_bfloat16    is what mtseg's own client asks for
    classify_patches        probabilities of the centre voxel of three patches
    describe                the manifest

All inputs and outputs have a leading axis, as TensorFlow Serving requires. It has length 1, except
for `classify_patches`. Labels follow the decision rule of `mtseg.inference.decision`; the output
`labels_argmax` is the most probable of all classes.

TensorFlow Serving queues and limits only requests for all outputs of a signature; one for some of
them is computed at once, beside all others. So there are signatures for what is asked for most.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from mtseg.inference.decision import decide_in_graph
from mtseg.inference.tile_cost import CHUNK_BYTES, chunk_positions_for
from mtseg.inference.tile_graph import make_tile_function, make_volume_function
from mtseg.models.signature_names import (
    CLASSIFY,
    DESCRIBE,
    PRECISIONS,
    labels_signature,
    segment_signature,
    tile_probabilities_signature,
    tile_signature,
)
from mtseg.network.architecture import HALO, PLANE_NORMALS
from mtseg.scans.intensities import AIR_HU, CT_BELOW_HU, CT_SHARE
from mtseg.scans.patches import PATCH_SIZE
from mtseg.scans.preprocessing import NORMALISING_PERCENTILE

_Outputs = dict[str, tf.Tensor]
_ComputeTile = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def add_signatures(
    archive: keras.export.ExportArchive,
    patch_model: keras.Model,
    thresholds: Sequence[float | None],
    manifest: str,
    chunk_bytes: int = CHUNK_BYTES,
) -> None:
    """Adds all signatures to an archive that tracks the patch model.

    Args:
        archive: the SavedModel that is being written.
        patch_model: from `mtseg.network.model.build_patch_model`.
        thresholds: for each combined class its operating point, or None.
        manifest: text of the manifest, JSON.
        chunk_bytes: size of one feature map of the slices that pass the convolutions at once,
            unless a request says how many voxels do.
    """

    def add(
        name: str,
        compute: Callable[..., _Outputs],
        **inputs: tuple[list[int | None], tf.DType],
    ) -> None:
        specs = [tf.TensorSpec(*spec, name=name) for name, spec in inputs.items()]
        archive.add_endpoint(name, compute, input_signature=specs)

    num_classes = patch_model.output.shape[-1]
    # Volumes and tiles share one graph of the network, which is traced once.
    compute_tile = {
        precision: make_tile_function(patch_model, precision).get_concrete_function()
        for precision in PRECISIONS
    }
    positions = {precision: chunk_positions_for(precision, chunk_bytes) for precision in PRECISIONS}
    for precision, compute in compute_tile.items():
        segment = _volume_function(compute, num_classes, positions[precision], thresholds)
        volume = [1, None, None, None]
        add(segment_signature(precision), segment, volume=(volume, tf.float32))
        add(labels_signature(precision), _only(segment, "labels"), volume=(volume, tf.float32))
        if precision == "float32":
            add("segment_int16", segment, volume=(volume, tf.int16))
    for precision, compute in compute_tile.items():
        segment_tile = _tile_function(compute, positions[precision], thresholds)
        tile: dict[str, tuple[list[int | None], tf.DType]] = {
            "tile": ([1, None, None, None], tf.float32),
            "intensity_scale": ([1], tf.float32),
            "chunk_positions": ([1], tf.int32),
        }
        add(tile_signature(precision), segment_tile, **tile)
        probabilities = _only(segment_tile, "probabilities")
        add(tile_probabilities_signature(precision), probabilities, **tile)

    def classify(axial: tf.Tensor, coronal: tf.Tensor, sagittal: tf.Tensor) -> _Outputs:
        planes = {"axial": axial, "coronal": coronal, "sagittal": sagittal}
        return {"probabilities": patch_model(planes, training=False)[:, 0, 0]}

    patch = ([None, PATCH_SIZE, PATCH_SIZE, 1], tf.float32)
    add(CLASSIFY, classify, **{name: patch for name in PLANE_NORMALS})

    def describe(schema: tf.Tensor) -> _Outputs:
        return {"manifest": tf.fill(tf.shape(schema), manifest)}

    add(DESCRIBE, describe, schema=([1], tf.int32))


def _only(compute: Callable[..., _Outputs], name: str) -> Callable[..., _Outputs]:
    """The same graph with one of its outputs."""

    @functools.wraps(compute)  # with its parameters, which become the names of the inputs
    def compute_one(*arguments: tf.Tensor) -> _Outputs:
        return {name: compute(*arguments)[name]}

    return compute_one


def _volume_function(
    compute_tile: _ComputeTile,
    num_classes: int,
    chunk_positions: int,
    thresholds: Sequence[float | None],
) -> Callable[[tf.Tensor], _Outputs]:
    """The graph of `segment`: volume (1, I, J, K) of any number type."""

    def finish(rows: tf.Tensor) -> _Outputs:
        return {
            "labels": decide_in_graph(rows, thresholds),
            "labels_argmax": tf.cast(tf.argmax(rows, axis=-1), tf.uint8),
            "probabilities": tf.cast(rows, tf.float16),
        }

    compute = make_volume_function(compute_tile, num_classes, chunk_positions, finish)

    def segment(volume: tf.Tensor) -> _Outputs:
        result = compute(apply_intensity_rule(tf.cast(volume[0], tf.float32)))
        return {name: value[tf.newaxis] for name, value in result.items()}

    return segment


def _tile_function(
    compute_tile: _ComputeTile, default_positions: int, thresholds: Sequence[float | None]
) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], _Outputs]:
    """The graph of `segment_tile`.

    It takes `tile`, float32 (1, I + 50, J + 50, K + 50), intensities after the shift of the
    intensity rule and 0 outside the foreground; `intensity_scale`, (1,), by which they are divided
    (0 gives an empty tile, as that of a scan without any foreground);
    and `chunk_positions`, (1,), voxels that pass the convolutions at once, 0 for
    `default_positions`.
    """

    def segment_tile(
        tile: tf.Tensor, intensity_scale: tf.Tensor, chunk_positions: tf.Tensor
    ) -> _Outputs:
        scaled = tf.math.divide_no_nan(tile[0], intensity_scale[0])
        positions = chunk_positions[0]
        positions = tf.where(positions > 0, positions, default_positions)
        rows = compute_tile(scaled, positions)
        interior = scaled[HALO:-HALO, HALO:-HALO, HALO:-HALO]
        labels = tf.scatter_nd(
            tf.where(interior != 0), decide_in_graph(rows, thresholds), tf.shape(interior, tf.int64)
        )
        return {"labels": labels[tf.newaxis], "probabilities": rows[tf.newaxis]}

    return segment_tile


def apply_intensity_rule(volume: tf.Tensor) -> tf.Tensor:
    """The intensity rule of `mtseg.scans.preprocessing.prepare_scan` inside a graph.

    It is for scans as scanners write them: MR with 0 as background, or CT in Hounsfield units.
    Scales and padding values that `mtseg.scans.intensities.shift_to_positive` recognises besides
    are not recognised here; `mtseg-predict --server` prepares scans before it sends them.

    Args:
        volume: float32 (I, J, K), isotropic and RAS+, the scan's own intensities.

    Returns:
        float32 (I, J, K): divided by the percentile of the foreground, 0 outside the foreground.
        All 0 if there is no foreground.
    """
    is_air = tf.cast(volume < CT_BELOW_HU, tf.float32)
    is_ct = tf.reduce_mean(is_air) > CT_SHARE
    volume = tf.maximum(tf.where(is_ct, volume - AIR_HU, volume), 0)
    ordered = tf.sort(tf.boolean_mask(volume, volume > 0))
    count = tf.size(ordered)

    def percentile() -> tf.Tensor:
        # Interpolated between two values, as NumPy's percentile is.
        place = tf.cast(count - 1, tf.float64) * (NORMALISING_PERCENTILE / 100)
        below = tf.cast(tf.floor(place), tf.int32)
        low = tf.cast(ordered[below], tf.float64)
        high = tf.cast(ordered[tf.minimum(below + 1, count - 1)], tf.float64)
        return tf.cast(low + (high - low) * (place - tf.floor(place)), tf.float32)

    return volume / tf.cond(count > 0, percentile, lambda: 1.0)
