"""Augmentation: random changes of training patches that imitate other scans.

Off by default, as in the paper. How sample s of mini-batch n is changed depends on (seed, n, s).
"""

from __future__ import annotations

import numpy as np

from mtseg.scans.patches import PLANES

LARGEST_FACTOR = 1.1
"""`intensity` multiplies by this at most and by its inverse at least; the middle value is 1."""


_LEFT_RIGHT_IS_ROWS = [PLANES.index("axial"), PLANES.index("coronal")]
"""The planes whose rows go from left to right; a sagittal patch is the same seen from either."""


def augment(
    patches: np.ndarray,
    is_symmetric: np.ndarray,
    rows: slice,
    names: tuple[str, ...],
    rng: np.random.Generator,
) -> None:
    """Changes patches in place.

    Args:
        patches: float16 (n, 3, 51, 51), these rows of the mini-batch.
        is_symmetric: booleans (global_batch_size,): the sample's task has an anatomy of which left
            and right may be exchanged.
        rows: of the mini-batch.
        names: `flip`, `intensity` or both.
        rng: of the mini-batch.

    Example:
        >>> patches = np.ones((1, 3, 51, 51), np.float16)
        >>> rng = np.random.default_rng(0)
        >>> augment(patches, np.array([True]), slice(0, 1), ("intensity",), rng)
        >>> 1 / 1.1 <= patches.max() <= 1.1
        True
    """
    # Drawn for the whole mini-batch and for both, so that they depend on nothing else.
    is_flipped, exponent = rng.random((2, is_symmetric.size))
    if "flip" in names:
        flipped = np.flatnonzero((is_symmetric & (is_flipped < 0.5))[rows])
        for plane in _LEFT_RIGHT_IS_ROWS:
            patches[flipped, plane] = patches[flipped, plane, ::-1]
    if "intensity" in names:
        factor = LARGEST_FACTOR ** (2 * exponent[rows] - 1)
        patches *= factor.astype(np.float16)[:, np.newaxis, np.newaxis, np.newaxis]
