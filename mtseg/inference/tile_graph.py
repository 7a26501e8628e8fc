"""The TensorFlow graph that computes one tile of a volume, and whole volumes tile by tile.

Batch normalisation is folded into the convolutions. The convolutions run over a few slices of a
plane at a time, each such chunk cut to its foreground; the head runs on foreground voxels only.
The same graph computes in this process and in exported models.

Reference: Moeskops et al., MICCAI 2016, section 3.1: 1×1 convolutions and no subsampling let
images of any size be processed at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from mtseg.inference.engines.rounding import round_weights, split_images
from mtseg.inference.tile_cost import EXTENT_STEP
from mtseg.network.architecture import HALO, NUM_FEATURES, PLANE_NORMALS
from mtseg.network.folding import FoldedNetwork, fold
from mtseg.network.model import sum_backgrounds

VOLUME_TILE_EDGE = 128
"""Voxels along the edges of the tiles in which a SavedModel computes a whole volume."""


def make_tile_function(
    patch_model: keras.Model, precision: str
) -> tf.types.experimental.PolymorphicFunction:
    """Makes the graph that computes a tile.

    The function reads the patch model's own variables. It follows further training, and whoever
    exports it has to track the patch model.

    Args:
        patch_model: from `mtseg.network.model.build_patch_model`.
        precision: `float32` or `bfloat16`, of everything but the logits and the softmax.

    Returns:
        A `tf.function` with one signature. It takes `tile`, float32 (I + 50, J + 50, K + 50), a
        block and the 25 voxels around it, 0 outside the foreground, and `chunk_positions`, int32,
        how many voxels, including their halo, pass the convolutions at once. It returns float32
        (voxels, num_classes): the probabilities of the block's foreground voxels in C order.
    """
    num_classes = patch_model.output.shape[-1]
    dtype = tf.as_dtype(precision)

    def foreground_probabilities(tile: tf.Tensor, chunk_positions: tf.Tensor) -> tf.Tensor:
        network = fold(patch_model)
        if dtype != tf.float32:
            network = round_weights(network, keras.ops, round_to(dtype))

        def compute_plane(
            plane: str, finish: _Finish, num_values: int, value_type: tf.DType
        ) -> tf.Tensor:
            return _compute_plane(
                tile,
                PLANE_NORMALS[plane],
                chunk_positions,
                lambda images: convolve(images, network, dtype),
                finish,
                num_values,
                value_type,
            )

        mask = tile[HALO:-HALO, HALO:-HALO, HALO:-HALO] != 0
        # Features of the axial and the coronal plane are kept until the sagittal ones are computed.
        # Those come in the volume's own order, so they go through the head at once.
        kept: list[tuple[tf.Tensor, tf.Tensor]] = []
        for plane in ("axial", "coronal"):
            # One plane after the other: side by side they would compete for caches and memory.
            with tf.control_dependencies([features for features, _ in kept]):
                features = compute_plane(plane, lambda features, _: features, NUM_FEATURES, dtype)
            kept.append((features, _places_in_slice_order(mask, PLANE_NORMALS[plane])))

        def join_and_classify(sagittal: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
            stop = start + tf.shape(sagittal)[0]
            planes = [tf.gather(features, places[start:stop]) for features, places in kept]
            return classify(tf.concat([*planes, sagittal], axis=-1), network)

        return compute_plane("sagittal", join_and_classify, num_classes, tf.float32)

    return tf.function(
        foreground_probabilities,
        input_signature=[
            tf.TensorSpec([None] * 3, tf.float32, name="tile"),
            tf.TensorSpec([], tf.int32, name="chunk_positions"),
        ],
        autograph=False,  # it has loops of TensorFlow's own, and tracing takes less time
    )


_Finish = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""Takes the features of a chunk's foreground voxels, (voxels, 32), and how many foreground voxels
came before them; returns (voxels, num_values)."""


def _compute_plane(
    tile: tf.Tensor,
    normal: int,
    chunk_positions: tf.Tensor,
    convolve_images: Callable[[tf.Tensor], tf.Tensor],
    finish: _Finish,
    num_values: int,
    value_type: tf.DType,
) -> tf.Tensor:
    """Runs the convolutions of one plane over its slices, a few at a time.

    Args:
        tile: float32 (I + 50, J + 50, K + 50).
        normal: the axis that the plane is perpendicular to.
        chunk_positions: voxels, including their halo, that pass the convolutions at once.
        convolve_images: takes (n, rows + 50, columns + 50, 1), returns (n, rows, columns, 32).
        finish: what is done with the features of a chunk.
        num_values: values per voxel that `finish` returns.
        value_type: their type.

    Returns:
        (voxels, num_values), the results of `finish` for all foreground voxels: slice by slice,
        each slice in C order.
    """
    to_slices = _axes_by_slice(normal)
    num_slices, num_rows, num_columns = tf.unstack(tf.gather(tf.shape(tile), to_slices) - 2 * HALO)
    # As `mtseg.inference.tile_cost.chunk_thickness` divides them.
    slice_positions = (num_rows + 2 * HALO) * (num_columns + 2 * HALO)
    num_chunks = -(-num_slices // tf.maximum(2, chunk_positions // slice_positions))
    thickness = tf.maximum(2, -(-num_slices // num_chunks))

    def cut_chunk(chunk: tf.Tensor) -> tf.Tensor:
        start = chunk * thickness
        stop = tf.minimum(start + thickness, num_slices)
        within: list[Any] = [slice(None)] * 3
        within[normal] = slice(HALO + start, HALO + stop)
        images = tf.transpose(tile[tuple(within)], to_slices)
        # All chunks have the same thickness, so that few shapes are compiled.
        return tf.pad(images, [[0, start + thickness - stop], [0, 0], [0, 0]])

    def compute_chunk(images: tf.Tensor, mask: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
        top, bottom = _extent(tf.reduce_any(mask, axis=[0, 2]), num_rows)
        left, right = _extent(tf.reduce_any(mask, axis=[0, 1]), num_columns)
        cropped = images[:, top : bottom + 2 * HALO, left : right + 2 * HALO]
        features = convolve_images(cropped[..., None])
        return finish(tf.boolean_mask(features, mask[:, top:bottom, left:right]), start)

    def body(chunk: tf.Tensor, start: tf.Tensor, parts: tf.TensorArray) -> tuple[Any, ...]:
        images = cut_chunk(chunk)
        mask = images[:, HALO:-HALO, HALO:-HALO] != 0
        part = tf.cond(
            tf.reduce_any(mask),
            lambda: compute_chunk(images, mask, start),
            lambda: tf.zeros([0, num_values], value_type),
        )
        following = start + tf.math.count_nonzero(mask, dtype=tf.int32)
        return chunk + 1, following, parts.write(chunk, part)

    parts = tf.TensorArray(
        value_type, size=num_chunks, infer_shape=False, element_shape=[None, num_values]
    )
    _, _, parts = tf.while_loop(
        lambda chunk, *_: chunk < num_chunks,
        body,
        (0, 0, parts),
        # Two at a time: one's small steps run while the other's convolutions do.
        parallel_iterations=2,
    )
    return parts.concat()


def _axes_by_slice(normal: int) -> list[int]:
    """The axes of a volume, that of the slices first."""
    return [normal, *(axis for axis in range(3) if axis != normal)]


def _extent(occupied: tf.Tensor, size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Where to cut rows or columns to their foreground.

    Args:
        occupied: booleans (size,), at least one of them true.
        size: number of rows or columns.

    Returns:
        `(start, stop)` around all that are occupied, their distance a multiple of `EXTENT_STEP`
        where the size allows it.
    """
    numbers = tf.cast(tf.where(occupied)[:, 0], tf.int32)
    length = numbers[-1] + 1 - numbers[0]
    length = tf.minimum(-(-length // EXTENT_STEP) * EXTENT_STEP, size)
    start = tf.minimum(numbers[0], size - length)
    return start, start + length


def _places_in_slice_order(mask: tf.Tensor, normal: int) -> tf.Tensor:
    """Where foreground voxels are if they are counted slice by slice.

    Args:
        mask: booleans (I, J, K), the foreground.
        normal: the axis that the slices are perpendicular to.

    Returns:
        int32 (voxels,): for each foreground voxel in C order its place in the order of slices.
    """
    to_slices = _axes_by_slice(normal)
    by_slice = tf.transpose(mask, to_slices)
    counted = tf.cumsum(tf.cast(tf.reshape(by_slice, [-1]), tf.int32)) - 1
    back = [to_slices.index(axis) for axis in range(3)]
    return tf.boolean_mask(tf.transpose(tf.reshape(counted, tf.shape(by_slice)), back), mask)


def round_to(dtype: tf.DType) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function that rounds float32 values to those that a type of fewer digits has."""
    return lambda values: tf.cast(tf.cast(values, dtype), tf.float32)


def convolve(images: tf.Tensor, network: FoldedNetwork, dtype: tf.DType) -> tf.Tensor:
    """The 25 shared convolutions.

    Args:
        images: float32 (n, rows + 50, columns + 50, 1).
        network: float32 weights; for another type those of `mtseg.inference.engines.rounding`.
        dtype: type to compute in.

    Returns:
        `dtype` (n, rows, columns, 32), features.
    """
    x = images
    if dtype != tf.float32:
        x = tf.cast(split_images(images, keras.ops, round_to(dtype)), dtype)
    for kernel, bias in network.stack:
        # Written so that TensorFlow finds the three and runs them as one operation.
        x = tf.nn.conv2d(x, tf.cast(kernel, dtype), 1, "VALID")
        x = tf.nn.elu(tf.nn.bias_add(x, tf.cast(bias, dtype)))
    return x


def classify(features: tf.Tensor, network: FoldedNetwork) -> tf.Tensor:
    """The head.

    Args:
        features: (voxels, 96), those of the axial, coronal and sagittal plane in turn.
        network: float32 weights. The two hidden layers compute in the features' type.

    Returns:
        float32 (voxels, num_classes), probabilities. Backgrounds of several tasks are summed.
    """
    x = features
    for kernel, bias in network.head:
        x = tf.matmul(x, tf.cast(kernel, x.dtype))
        x = tf.nn.elu(tf.nn.bias_add(x, tf.cast(bias, x.dtype)))
    kernel, bias = network.logits
    probabilities = tf.nn.softmax(tf.matmul(tf.cast(x, tf.float32), kernel) + bias)
    if network.num_backgrounds == 1:
        return probabilities
    return sum_backgrounds(probabilities, network.num_backgrounds)


def make_volume_function(
    compute_tile: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    num_classes: int,
    chunk_positions: int,
    finish: Callable[[tf.Tensor], dict[str, tf.Tensor]] = lambda rows: {"probabilities": rows},
) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """Makes whole-volume inference one graph, for a SavedModel.

    It computes a tile of `VOLUME_TILE_EDGE` at a time. Beside its input and its result, the memory
    does not grow with the volume.

    Args:
        compute_tile: from `make_tile_function`.
        num_classes: of the network.
        chunk_positions: voxels, including their halo, that pass the convolutions at once.
        finish: what is computed from the probabilities, float32 (voxels, num_classes): name ->
            tensor with one row per voxel.

    Returns:
        A function to be used in a graph. It takes a volume, float32 (I, J, K) of any size, 0
        outside the foreground, and returns the results of `finish` at every voxel, (I, J, K, …).
        Outside the foreground, background has probability 1.
    """
    outside = finish(tf.one_hot([0], num_classes))
    shapes = {name: value.shape[1:] for name, value in outside.items()}
    types = {name: value.dtype for name, value in outside.items()}

    def compute_volume(volume: tf.Tensor) -> dict[str, tf.Tensor]:
        shape = tf.shape(volume)
        padded = tf.pad(volume, [[HALO, HALO]] * 3)
        tiles_along = -(-shape // VOLUME_TILE_EDGE)
        num_tiles = tf.reduce_prod(tiles_along)

        def body(number: tf.Tensor, places: tf.TensorArray, rows: Any) -> tuple[Any, ...]:
            corner = tf.unravel_index(number, tiles_along) * VOLUME_TILE_EDGE
            size = tf.minimum(VOLUME_TILE_EDGE, shape - corner)
            tile = tf.slice(padded, corner, size + 2 * HALO)
            inside = tf.where(tf.slice(volume, corner, size) != 0)
            place = tf.cast(inside, tf.int32) + corner
            computed = finish(compute_tile(tile, chunk_positions))
            rows = {name: parts.write(number, computed[name]) for name, parts in rows.items()}
            return number + 1, places.write(number, place), rows

        def new_parts(dtype: tf.DType, shape: Any) -> tf.TensorArray:
            return tf.TensorArray(dtype, num_tiles, infer_shape=False, element_shape=[None, *shape])

        _, places, rows = tf.while_loop(
            lambda number, *_: number < num_tiles,
            body,
            (
                0,
                new_parts(tf.int32, [3]),
                {name: new_parts(types[name], shapes[name]) for name in shapes},
            ),
            parallel_iterations=1,
        )
        places = places.concat()
        # All voxels outside the foreground have the same value.
        return {
            name: tf.tensor_scatter_nd_update(
                tf.broadcast_to(
                    tf.constant(outside[name].numpy()[0]), tf.concat([shape, shapes[name]], axis=0)
                ),
                places,
                rows[name].concat(),
            )
            for name in shapes
        }

    return compute_volume
