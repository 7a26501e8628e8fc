"""Augmentation: random changes of training patches that imitate other scans.

It is off by default: the paper does not augment. Each change of sample s of mini-batch n depends on
the seed, n and s alone, so it does not depend on how the samples are divided among replicas.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mtseg.scans.patches import PLANES

LARGEST_FACTOR = 1.1
"""`intensity` multiplies by at most this and at least its inverse; the median factor is 1."""


_LEFT_RIGHT_IS_ROWS = [PLANES.index("axial"), PLANES.index("coronal")]
"""The planes whose rows go from left to right. A mirrored body has the same sagittal patches."""


def augment(
    patches: npt.NDArray[np.float16],
    is_symmetric: npt.NDArray[np.bool_],
    rows: slice,
    names: tuple[str, ...],
    rng: np.random.Generator,
) -> None:
    """Changes patches in place.

    - `flip` mirrors half of the samples left to right, if the anatomy allows it.
    - `intensity` multiplies each sample by one factor near 1. Background stays 0.

    Args:
        patches: float16 (n, 3, 51, 51), some samples of a mini-batch.
        is_symmetric: booleans (global_batch_size,), whether left and right may be exchanged in the
            anatomy of each sample's task.
        rows: which samples of the mini-batch `patches` are.
        names: `flip`, `intensity` or both.
        rng: the generator of this mini-batch.

    Example:
        >>> patches = np.ones((1, 3, 51, 51), np.float16)
        >>> rng = np.random.default_rng(0)
        >>> augment(patches, np.array([True]), slice(0, 1), ("intensity",), rng)
        >>> bool(1 / 1.1 <= patches.max() <= 1.1)
        True
    """
    # Both are drawn for the whole mini-batch, whatever is asked for, so that a sample's change does
    # not depend on `rows` or on the other augmentation.
    flip_draw, intensity_draw = rng.random((2, is_symmetric.size))
    if "flip" in names:
        flipped = np.flatnonzero((is_symmetric & (flip_draw < 0.5))[rows])
        for plane in _LEFT_RIGHT_IS_ROWS:
            patches[flipped, plane] = patches[flipped, plane, ::-1]
    if "intensity" in names:
        factor = LARGEST_FACTOR ** (2 * intensity_draw[rows] - 1)
        patches *= factor.astype(np.float16)[:, np.newaxis, np.newaxis, np.newaxis]
