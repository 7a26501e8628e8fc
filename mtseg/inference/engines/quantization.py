"""Convolutions in int8: whole numbers of 8 bits, which processors multiply fastest.

Features become whole numbers from 0 to 255, and weights from -127 to 127. Nothing has to be
calibrated with scans: ELU gives nothing below -1, and the batch normalisation before it says how
far features reach above. So every trained network can be computed in int8, with the weights file
that it has.

The first convolution, which takes the scan, and the fully connected layers stay as they are.

Reference: Jacob et al., CVPR 2018, sections 2.1 and 2.2 (whole numbers, steps, sums of 32 bits). To
take the range from the batch normalisation follows Nagel et al., ICCV 2019, section 4.2.1. How the
weights are rounded is that of `mtseg.inference.engines.rounding`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mtseg.inference.engines.rounding import round_taps
from mtseg.network.folding import FoldedNetwork

LARGEST_FEATURE, LARGEST_WEIGHT = 255, 127
"""As whole numbers."""

_LOWEST = -1.0
"""ELU gives nothing below."""


class QuantizedLayer(NamedTuple):
    """A convolution of whole numbers.

    Attributes:
        highest: the feature that becomes `LARGEST_FEATURE`; larger ones count as this. -1 becomes
            0.
        weights: int8 (3, 3, features in, features out).
        scales: float32 (features out,), what the sum of products of whole numbers is multiplied by.
        bias: float32 (features out,), what is then added.
    """

    highest: float
    weights: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]


def quantize_stack(network: FoldedNetwork) -> tuple[QuantizedLayer, ...]:
    """Turns the shared convolutions, without the first, into those of whole numbers.

    The convolutions take no voxels outside the image, so that -1 can be 0 among whole numbers: what
    it adds to each sum is the same everywhere, and part of the bias.

    Args:
        network: float32 weights as NumPy arrays.
    """
    layers = []
    # A layer takes the features that the one before gives.
    for (kernel, bias), highest, means in zip(
        network.stack[1:], network.highest[:-1], network.means[:-1], strict=True
    ):
        largest = max(float(highest), 0.0)
        step = (largest - _LOWEST) / LARGEST_FEATURE
        # A feature that no weight takes anything from would be divided by 0.
        scales = np.maximum(np.abs(kernel).max(axis=(0, 1, 2)), 1e-12) / LARGEST_WEIGHT
        weights = _round(kernel / scales)
        # What rounding the weights changes on average is taken back.
        errors = kernel - weights * scales
        at_lowest = _LOWEST * kernel.sum(axis=(0, 1, 2))
        missing = np.einsum("rcio,i->o", errors, means - _LOWEST)
        layers.append(
            QuantizedLayer(
                largest,
                weights.astype(np.int8),
                (scales * step).astype(np.float32),
                (bias + at_lowest + missing).astype(np.float32),
            )
        )
    return tuple(layers)


def _round(weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Rounds the weights of a layer to whole numbers, keeping the sum of each window's nine."""

    def to_whole(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.clip(np.rint(values), -LARGEST_WEIGHT, LARGEST_WEIGHT)

    nothing = np.zeros((1, *weights.shape[2:]), np.float32)
    rounded: npt.NDArray[np.float32] = round_taps(weights[np.newaxis], nothing, np, to_whole)[0]
    return rounded
