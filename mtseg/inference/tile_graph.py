"""The TensorFlow graph that computes one tile of a volume.

Batch normalisation is folded into the convolutions. The convolution stack runs over a few slices of
a plane at a time, each chunk cut to its foreground; the head runs on foreground voxels only. In
bfloat16 the kernels are rounded so that hardly any label changes.

Reference: Moeskops et al., MICCAI 2016, section 3.1: 1×1 convolutions and no subsampling let
images of any size be processed at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from mtseg.inference.tile_cost import EXTENT_STEP, chunk_positions_for
from mtseg.network.folding import FoldedNetwork, fold
from mtseg.network.model import HALO, KERNEL_SIZE, NUM_FEATURES, PLANE_NORMALS, sum_backgrounds

VOLUME_TILE_EDGE = 128
"""Voxels along the edges of the tiles in which a SavedModel computes a whole volume."""


def make_tile_function(
    patch_model: keras.Model, precision: str
) -> tf.types.experimental.PolymorphicFunction:
    """Makes the graph that computes a tile.

    The function reads the patch model's own variables, so what exports it has to track the patch
    model.

    Args:
        patch_model: from `mtseg.network.model.build_patch_model`.
        precision: `float32` or `bfloat16`, of everything but the scores and the softmax.

    Returns:
        A `tf.function` with one signature: `tile`, float32 (I + 50, J + 50, K + 50), a block and
        the 25 voxels around it, 0 outside the foreground; `chunk_positions`, int32, how many
        voxels pass the convolutions at once. It returns float32 (voxels, num_classes): the
        probabilities of the block's foreground voxels in C order.
    """

    num_classes = patch_model.output.shape[-1]

    @tf.function(
        input_signature=[
            tf.TensorSpec([None] * 3, tf.float32, name="tile"),
            tf.TensorSpec([], tf.int32, name="chunk_positions"),
        ]
    )
    def foreground_probabilities(tile: tf.Tensor, chunk_positions: tf.Tensor) -> tf.Tensor:
        dtype = tf.as_dtype(precision)
        network = fold(patch_model)
        if dtype != tf.float32:
            network = _round_weights(network, dtype)

        def over_chunks(plane: str, *how: Any) -> tf.Tensor:
            normal = PLANE_NORMALS[plane]
            return _over_chunks(tile, normal, chunk_positions, network, dtype, *how)

        core = tile[HALO:-HALO, HALO:-HALO, HALO:-HALO]
        # Features of the axial and the coronal planes are kept until the sagittal ones come,
        # which they do in the volume's own order: those go through the head at once.
        kept: list[tuple[tf.Tensor, Any]] = []
        for plane in ("axial", "coronal"):
            # One plane after the other: side by side they would contend for caches and memory.
            with tf.control_dependencies([features for features, _ in kept]):
                features = over_chunks(plane, _as_they_are, (NUM_FEATURES, dtype))
            kept.append((features, _numbers_in_order_of(core != 0, PLANE_NORMALS[plane])))

        def join(sagittal: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
            stop = start + tf.shape(sagittal)[0]
            planes = [tf.gather(features, numbers[start:stop]) for features, numbers in kept]
            return classify(tf.concat([*planes, sagittal], axis=-1), network)

        return over_chunks("sagittal", join, (num_classes, tf.float32))

    return foreground_probabilities


def _over_chunks(
    tile: tf.Tensor,
    normal: int,
    chunk_positions: tf.Tensor,
    network: FoldedNetwork,
    dtype: tf.DType,
    compute: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    result: tuple[int, tf.DType],
) -> tf.Tensor:
    """Runs the stack over the slices perpendicular to an axis, a few at a time.

    Args:
        tile: float32 (I + 50, J + 50, K + 50).
        normal: the axis.
        chunk_positions: voxels, with their halo, that pass the convolutions at once.
        network: the weights.
        dtype: of the convolutions.
        compute: takes the features of a chunk's foreground voxels, (voxels, 32), and how many
            foreground voxels came before it; gives (voxels, values).
        result: number and type of these values.

    Returns:
        What `compute` gave for all foreground voxels, those of each slice in its C order.
    """
    to_slices = [normal, *(axis for axis in range(3) if axis != normal)]
    shape = tf.gather(tf.shape(tile), to_slices) - 2 * HALO
    num_slices = shape[0]
    num_values, value_type = result
    # As in `mtseg.inference.tile_cost.count_flop`.
    thickness = tf.maximum(2, chunk_positions // ((shape[1] + 2 * HALO) * (shape[2] + 2 * HALO)))
    count = -(-num_slices // thickness)

    def images_of(chunk: tf.Tensor) -> tf.Tensor:
        start = chunk * thickness
        stop = tf.minimum(start + thickness, num_slices)
        within: list[Any] = [slice(None)] * 3
        within[normal] = slice(HALO + start, HALO + stop)
        images = tf.transpose(tile[tuple(within)], to_slices)
        return tf.pad(images, [[0, start + thickness - stop], [0, 0], [0, 0]])

    def compute_chunk(images: tf.Tensor, mask: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
        top, bottom = _extent(tf.reduce_any(mask, axis=[0, 2]), shape[1])
        left, right = _extent(tf.reduce_any(mask, axis=[0, 1]), shape[2])
        cropped = images[:, top : bottom + 2 * HALO, left : right + 2 * HALO]
        features = convolve(cropped[..., None], network, dtype)
        return compute(tf.boolean_mask(features, mask[:, top:bottom, left:right]), start)

    def body(chunk: tf.Tensor, start: tf.Tensor, parts: tf.TensorArray) -> tuple[Any, ...]:
        images = images_of(chunk)
        mask = images[:, HALO:-HALO, HALO:-HALO] != 0
        part = tf.cond(
            tf.reduce_any(mask),
            lambda: compute_chunk(images, mask, start),
            lambda: tf.zeros([0, num_values], value_type),
        )
        following = start + tf.math.count_nonzero(mask, dtype=tf.int32)
        return chunk + 1, following, parts.write(chunk, part)

    parts = tf.TensorArray(
        value_type, size=count, infer_shape=False, element_shape=[None, num_values]
    )
    _, _, parts = tf.while_loop(
        # Two at a time: one's small steps run while the other's convolutions do.
        lambda chunk, *_: chunk < count,
        body,
        (0, 0, parts),
        parallel_iterations=2,
    )
    return parts.concat()


def _as_they_are(features: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    return features


def _extent(occupied: tf.Tensor, size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """First number that is occupied, and the one after the last, their distance rounded up."""
    numbers = tf.cast(tf.where(occupied)[:, 0], tf.int32)
    length = numbers[-1] + 1 - numbers[0]
    length = tf.minimum(-(-length // EXTENT_STEP) * EXTENT_STEP, size)
    start = tf.minimum(numbers[0], size - length)
    return start, start + length


def _numbers_in_order_of(mask: tf.Tensor, normal: int) -> tf.Tensor:
    """Where foreground voxels are when counted slice by slice.

    Args:
        mask: booleans (I, J, K).
        normal: the axis that the slices are perpendicular to.

    Returns:
        int32 (voxels,): for each foreground voxel in C order its number in the order of slices.
    """
    to_slices = [normal, *(axis for axis in range(3) if axis != normal)]
    turned = tf.transpose(mask, to_slices)
    counted = tf.cumsum(tf.cast(tf.reshape(turned, [-1]), tf.int32)) - 1
    back = [to_slices.index(axis) for axis in range(3)]
    return tf.boolean_mask(tf.transpose(tf.reshape(counted, tf.shape(turned)), back), mask)


def convolve(images: tf.Tensor, network: FoldedNetwork, dtype: tf.DType) -> tf.Tensor:
    """The shared stack: (n, rows + 50, columns + 50, 1) to features (n, rows, columns, 32)."""
    x = images
    if dtype != tf.float32:
        x = tf.concat([*_split(images, dtype), *[tf.ones_like(images, dtype)] * 2], axis=-1)
    for kernel, bias in network.stack:
        # Written so that TensorFlow finds the three and runs them as one operation.
        x = tf.nn.conv2d(x, tf.cast(kernel, dtype), 1, "VALID")
        x = tf.nn.elu(tf.nn.bias_add(x, tf.cast(bias, dtype)))
    return x


def _split(values: tf.Tensor, dtype: tf.DType) -> list[tf.Tensor]:
    """The three factors of a product of two numbers, each the sum of two of less precision.

    With a = a1 + a2 and b = b1 + b2, a·b is a1·b1 + a2·b1 + a1·b2 but for the smallest term.
    """
    high = tf.cast(values, dtype)
    low = tf.cast(values - tf.cast(high, values.dtype), dtype)
    return [high, low, high]


def _round_weights(network: FoldedNetwork, dtype: tf.DType) -> FoldedNetwork:
    """Rounds the stack's kernels and biases so that what each convolution gives on average stays.

    Rounded one by one, the nine weights between two features would err by their sum wherever the
    features change slowly, which is almost everywhere: in bfloat16 that changed the label of 1 in
    170 voxels of a brain. So the largest weight is rounded first, what it lost is added to the
    next, and so on to the smallest, which is rounded most finely. What a bias loses goes first:
    it is shared out over the features that the convolution takes, by their means.
    """
    first, *others = network.stack
    kernels = tf.stack([kernel for kernel, _ in others])
    biases = tf.stack([bias for _, bias in others])
    means = tf.stack(network.means[:-1])
    rounded_biases = tf.cast(tf.cast(biases, dtype), tf.float32)
    shares = means / tf.reduce_sum(means**2, axis=1, keepdims=True)
    lost = (biases - rounded_biases)[:, None, :] * shares[:, :, None]
    taps_last = tf.transpose(
        tf.reshape(kernels, [len(others), KERNEL_SIZE**2, NUM_FEATURES, NUM_FEATURES]), [0, 2, 3, 1]
    )
    order = tf.argsort(tf.abs(taps_last), direction="DESCENDING")
    rounded = []
    for wanted in tf.unstack(tf.gather(taps_last, order, batch_dims=3), axis=-1):
        rounded.append(tf.cast(tf.cast(wanted + lost, dtype), tf.float32))
        lost = wanted + lost - rounded[-1]
    in_place = tf.gather(tf.stack(rounded, axis=-1), tf.argsort(order), batch_dims=3)
    kernels = tf.reshape(tf.transpose(in_place, [0, 3, 1, 2]), kernels.shape)
    # The scan itself and the layer that takes it keep their digits, as sums of two: its kernels
    # meet three parts of the scan, its bias two images of ones at the window's centre.
    high, low, _ = _split(first[0], dtype)
    bias = tf.stack(_split(first[1], dtype)[:2])
    bias = tf.pad(bias[None, None], [[1, 1], [1, 1], [0, 0], [0, 0]])
    first = tf.concat([high, high, low, bias], axis=2), tf.zeros_like(first[1])
    return network._replace(
        stack=(first, *zip(tf.unstack(kernels), tf.unstack(rounded_biases), strict=True))
    )


def classify(features: tf.Tensor, network: FoldedNetwork) -> tf.Tensor:
    """The head: features (voxels, 96) to float32 probabilities (voxels, num_classes)."""
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
    patch_model: keras.Model,
    precision: str,
    finish: Callable[[tf.Tensor], dict[str, tf.Tensor]] = lambda rows: {"probabilities": rows},
) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """Makes whole-volume inference one graph, for a SavedModel.

    It computes a tile of `VOLUME_TILE_EDGE` at a time, so beside its input and its result the
    memory does not grow with the volume.

    Args:
        patch_model: from `mtseg.network.model.build_patch_model`; see `make_tile_function`.
        precision: `float32` or `bfloat16`.
        finish: what is wanted of a tile, by name: it takes probabilities, float32 (voxels,
            num_classes), and gives a row a voxel for each.

    Returns:
        A function to be used in a graph: volume, float32 (I, J, K) of any size, 0 outside the
        foreground, to what `finish` gives at every voxel, (I, J, K, …); for the background it is
        given probability 1 outside the foreground.
    """
    compute_tile = make_tile_function(patch_model, precision)
    outside = finish(tf.one_hot([0], patch_model.output.shape[-1]))
    shapes = {name: value.shape[1:] for name, value in outside.items()}
    types = {name: value.dtype for name, value in outside.items()}

    def compute_volume(volume: tf.Tensor) -> dict[str, tf.Tensor]:
        shape = tf.shape(volume)
        padded = tf.pad(volume, [[HALO, HALO]] * 3)
        counts = -(-shape // VOLUME_TILE_EDGE)
        count = tf.reduce_prod(counts)

        def body(number: tf.Tensor, places: tf.TensorArray, rows: Any) -> tuple[Any, ...]:
            corner = tf.unravel_index(number, counts) * VOLUME_TILE_EDGE
            size = tf.minimum(VOLUME_TILE_EDGE, shape - corner)
            tile = tf.slice(padded, corner, size + 2 * HALO)
            inside = tf.where(tf.slice(volume, corner, size) != 0)
            place = tf.cast(inside, tf.int32) + corner
            computed = finish(compute_tile(tile, chunk_positions_for(precision)))
            rows = {name: parts.write(number, computed[name]) for name, parts in rows.items()}
            return number + 1, places.write(number, place), rows

        def parts(dtype: tf.DType, shape: Any) -> tf.TensorArray:
            return tf.TensorArray(dtype, count, infer_shape=False, element_shape=[None, *shape])

        _, places, rows = tf.while_loop(
            lambda number, *_: number < count,
            body,
            (0, parts(tf.int32, [3]), {name: parts(types[name], shapes[name]) for name in shapes}),
            parallel_iterations=1,
        )
        places = places.concat()
        # Outside the foreground one value serves all voxels: what the background gives.
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
