"""Rounding for convolutions in bfloat16, done so that hardly any label changes.

A bfloat16 number has 8 binary digits. If each weight were rounded by itself, labels would change:
in a brain, those of 1 in 170 voxels. `mtseg.inference.tile_graph` and `mtseg.inference.engines`
compute with the weights of `round_weights`, whose errors cancel. This is the project's own; the
paper computes in float32.

The functions take TensorFlow's tensors with `keras.ops`, and NumPy's arrays with `numpy`, so that
every engine computes with the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from mtseg.network.architecture import KERNEL_SIZE, NUM_FEATURES
from mtseg.network.folding import FoldedNetwork

RoundValues = Callable[[Any], Any]
"""Rounds float32 values to those that the type of fewer digits has; the results are float32."""


def round_to_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Rounds finite numbers to the nearest that bfloat16 has, halves to the even one.

    Example:
        >>> round_to_bfloat16(np.array([1 + 2**-9, 1 + 3 * 2**-9], np.float32)).tolist()
        [1.0, 1.0078125]
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    # Adding a half carries into the upper 16 bits, which are the bfloat16 number.
    halves = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return ((bits + halves) & np.uint32(0xFFFF0000)).view(np.float32)


def round_weights(network: FoldedNetwork, ops: Any, round_values: RoundValues) -> FoldedNetwork:
    """Rounds kernels and biases of the convolutions, keeping what each gives on average.

    Features change slowly almost everywhere. There the nine weights between two features act by
    their sum, so their rounding errors must add up to nothing. The largest weight is rounded first,
    its error is added to the next, and so on to the smallest, which is rounded most finely. The
    error of a bias comes before all of them: it is divided over the features that the convolution
    takes, in proportion to their means.

    The first convolution takes the scan. It and the scan keep their digits, each as a sum of two
    rounded numbers (see `split_images`).

    Args:
        network: float32 weights, from `mtseg.network.folding`.
        ops: `keras.ops` for tensors, `numpy` for arrays.
        round_values: rounds to the type of fewer digits.

    Returns:
        The network with values in its stack that the type of fewer digits has exactly, as float32.
        Its first convolution takes the five channels of `split_images`.
    """
    first, *others = network.stack
    kernels = ops.stack([kernel for kernel, _ in others])
    biases = ops.stack([bias for _, bias in others])
    rounded_biases = round_values(biases)
    means = ops.stack(network.means[:-1])
    shares = means / ops.sum(means**2, axis=1, keepdims=True)
    errors = (biases - rounded_biases)[:, None, :] * shares[:, :, None]
    rounded_kernels = round_taps(kernels, errors, ops, round_values)
    numbers = range(len(others))
    return network._replace(
        stack=(
            _split_first_convolution(*first, ops, round_values),
            *((rounded_kernels[n], rounded_biases[n]) for n in numbers),
        )
    )


def round_taps(kernels: Any, errors: Any, ops: Any, round_values: RoundValues) -> Any:
    """Rounds the nine weights between two features one after the other, passing on the error.

    Args:
        kernels: float32 (layers, 3, 3, 32, 32).
        errors: float32 (layers, 32, 32), what is to be added before the first weight is rounded.
        ops: as for `round_weights`.
        round_values: as for `round_weights`.

    Returns:
        float32, in the shape of the kernels.
    """
    num_layers, num_taps = kernels.shape[0], KERNEL_SIZE**2
    by_tap = ops.reshape(kernels, [num_layers, num_taps, NUM_FEATURES, NUM_FEATURES])
    taps_last = ops.transpose(by_tap, [0, 2, 3, 1])
    order = ops.argsort(-ops.abs(taps_last), axis=-1)  # the largest first
    sorted_weights = ops.take_along_axis(taps_last, order, axis=-1)
    rounded = []
    for tap in range(num_taps):
        weights = sorted_weights[..., tap]
        rounded.append(round_values(weights + errors))
        errors = weights + errors - rounded[-1]
    places = ops.argsort(order, axis=-1)
    in_place = ops.take_along_axis(ops.stack(rounded, axis=-1), places, axis=-1)
    return ops.reshape(ops.transpose(in_place, [0, 3, 1, 2]), kernels.shape)


def _split_first_convolution(
    kernel: Any, bias: Any, ops: Any, round_values: RoundValues
) -> tuple[Any, Any]:
    """The first convolution for the channels of `split_images`: kernel (3, 3, 5, 32) and bias 0.

    The bias, as a sum of two, weights the two channels of ones at the centre of the window.
    """
    high, low, _ = _split(kernel, round_values)
    bias_weights = ops.stack(_split(bias, round_values)[:2])
    centred = ops.pad(bias_weights[None, None], [[1, 1], [1, 1], [0, 0], [0, 0]])
    return ops.concatenate([high, high, low, centred], axis=2), ops.zeros_like(bias)


def split_images(images: Any, ops: Any, round_values: RoundValues, axis: int = -1) -> Any:
    """Images for the first convolution of `round_weights`.

    Args:
        images: float32, four axes, that of the channels has length 1.
        ops: as for `round_weights`.
        round_values: as for `round_weights`.
        axis: the axis of the channels.

    Returns:
        float32 of the same shape but with five channels: three parts of the image, and two of ones.
    """
    parts = _split(images, round_values)
    return ops.concatenate([*parts, *[ops.ones_like(images)] * 2], axis=axis)


def _split(values: Any, round_values: RoundValues) -> list[Any]:
    """The factors of a product of two numbers that are each a sum of two of fewer digits.

    With a = a1 + a2 and b = b1 + b2, a·b is a1·b1 + a2·b1 + a1·b2 and a term too small to matter.

    Returns:
        a1, a2 and a1 again.
    """
    high = round_values(values)
    low = round_values(values - high)
    return [high, low, high]
