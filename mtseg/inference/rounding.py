"""Rounding for convolutions in bfloat16, done so that hardly any label changes.

A bfloat16 number has 8 binary digits. If each weight were rounded by itself, labels would change:
in a brain, those of 1 in 170 voxels. `mtseg.inference.tile_graph` computes with the weights of
`round_weights`, whose errors cancel. This is the project's own; the paper computes in float32.
"""

from __future__ import annotations

import tensorflow as tf

from mtseg.network.folding import FoldedNetwork
from mtseg.network.model import KERNEL_SIZE, NUM_FEATURES


def round_weights(network: FoldedNetwork, dtype: tf.DType) -> FoldedNetwork:
    """Rounds kernels and biases of the convolutions, keeping what each gives on average.

    Features change slowly almost everywhere. There the nine weights between two features act by
    their sum, so their rounding errors must add up to nothing. The largest weight is rounded first,
    its error is added to the next, and so on to the smallest, which is rounded most finely. The
    error of a bias comes before all of them: it is divided over the features that the convolution
    takes, in proportion to their means.

    The first convolution takes the scan. It and the scan keep their digits, each as a sum of two
    rounded numbers (see `split_images`).

    Args:
        network: float32 weights, from `mtseg.network.folding.fold`.
        dtype: the type of fewer digits, such as bfloat16.

    Returns:
        The network with values in its stack that `dtype` has exactly, as float32 tensors. Its first
        convolution takes the five channels of `split_images`.
    """
    first, *others = network.stack
    kernels = tf.stack([kernel for kernel, _ in others])
    biases = tf.stack([bias for _, bias in others])
    rounded_biases = _round(biases, dtype)
    means = tf.stack(network.means[:-1])
    shares = means / tf.reduce_sum(means**2, axis=1, keepdims=True)
    errors = (biases - rounded_biases)[:, None, :] * shares[:, :, None]
    rounded_kernels = _round_taps(kernels, errors, dtype)
    return network._replace(
        stack=(
            _split_first_convolution(*first, dtype),
            *zip(tf.unstack(rounded_kernels), tf.unstack(rounded_biases), strict=True),
        )
    )


def _round(values: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    return tf.cast(tf.cast(values, dtype), tf.float32)


def _round_taps(kernels: tf.Tensor, errors: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Rounds the nine weights between two features one after the other, passing on the error.

    Args:
        kernels: float32 (layers, 3, 3, 32, 32).
        errors: float32 (layers, 32, 32), what is to be added before the first weight is rounded.
        dtype: type of the result's values.

    Returns:
        float32, in the shape of the kernels.
    """
    num_layers = kernels.shape[0]
    by_tap = tf.reshape(kernels, [num_layers, KERNEL_SIZE**2, NUM_FEATURES, NUM_FEATURES])
    taps_last = tf.transpose(by_tap, [0, 2, 3, 1])
    order = tf.argsort(tf.abs(taps_last), direction="DESCENDING")
    rounded = []
    for weights in tf.unstack(tf.gather(taps_last, order, batch_dims=3), axis=-1):
        rounded.append(_round(weights + errors, dtype))
        errors = weights + errors - rounded[-1]
    in_place = tf.gather(tf.stack(rounded, axis=-1), tf.argsort(order), batch_dims=3)
    return tf.reshape(tf.transpose(in_place, [0, 3, 1, 2]), kernels.shape)


def _split_first_convolution(
    kernel: tf.Tensor, bias: tf.Tensor, dtype: tf.DType
) -> tuple[tf.Tensor, tf.Tensor]:
    """The first convolution for the channels of `split_images`: kernel (3, 3, 5, 32) and bias 0.

    The bias, as a sum of two, weights the two channels of ones at the centre of the window.
    """
    high, low, _ = _split(kernel, dtype)
    bias_weights = tf.stack(_split(bias, dtype)[:2])
    centred = tf.pad(bias_weights[None, None], [[1, 1], [1, 1], [0, 0], [0, 0]])
    return tf.concat([high, high, low, centred], axis=2), tf.zeros_like(bias)


def split_images(images: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Images for the first convolution of `round_weights`.

    Args:
        images: float32 (n, rows, columns, 1).
        dtype: the type of fewer digits.

    Returns:
        `dtype` (n, rows, columns, 5): three parts of the image, and two channels of ones.
    """
    return tf.concat([*_split(images, dtype), *[tf.ones_like(images, dtype)] * 2], axis=-1)


def _split(values: tf.Tensor, dtype: tf.DType) -> list[tf.Tensor]:
    """The factors of a product of two numbers that are each a sum of two of fewer digits.

    With a = a1 + a2 and b = b1 + b2, a·b is a1·b1 + a2·b1 + a1·b2 and a term too small to matter.

    Returns:
        a1, a2 and a1 again.
    """
    high = tf.cast(values, dtype)
    low = tf.cast(values - tf.cast(high, values.dtype), dtype)
    return [high, low, high]
