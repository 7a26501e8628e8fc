"""What a training sample costs, counted from the architecture: operations and bytes."""

from __future__ import annotations

import itertools

from mtseg.network.architecture import (
    KERNEL_SIZE,
    NUM_CONVOLUTIONS,
    NUM_FEATURES,
    NUM_HEAD_UNITS,
)
from mtseg.scans.patches import PATCH_SIZE

_PLANES = 3
_PASSES = 5
"""How often a map crosses the memory at least, if a layer with its normalisation is one operation:
forward written and read; backward its gradient written and read, and the map read once more."""


def flop_of_sample(num_classes: int) -> int:
    """Operations of a sample, forward and backward.

    The first layer needs no gradient of its inputs, so it counts two times, the others three.
    """
    kernel = _PLANES * 2 * KERNEL_SIZE**2 * NUM_FEATURES
    positions = _positions()
    units = _PLANES * NUM_FEATURES, NUM_HEAD_UNITS, NUM_HEAD_UNITS, num_classes
    head = sum(2 * a * b for a, b in itertools.pairwise(units))
    return 2 * kernel * positions[0] + 3 * (kernel * NUM_FEATURES * sum(positions[1:]) + head)


def bytes_of_sample(value_bytes: int) -> int:
    """Bytes that the maps of a sample move at least, forward and backward.

    Weights are left out: a mini-batch shares them.

    Args:
        value_bytes: of a value, 2 in bfloat16.
    """
    return _PASSES * value_bytes * _PLANES * NUM_FEATURES * sum(_positions())


def _positions() -> list[int]:
    """Positions of a plane's map after each convolution."""
    return [(PATCH_SIZE - 2 * n) ** 2 for n in range(1, NUM_CONVOLUTIONS + 1)]
