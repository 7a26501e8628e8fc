"""Augmentation: random changes of training patches that imitate other scans.

It is off by default: the paper does not augment. Each change of sample s of mini-batch n depends on
the seed, n, s and the change's own name alone, so it depends neither on how samples are divided
among replicas nor on which other changes there are.

`draw_transforms` gives the changes that are made while patches are cut from volumes, `augment`
makes all others.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mtseg.batches.coarsening import coarsen, coarsen_noise
from mtseg.scans.patches import PATCH_SIZE, PLANE_AXES, PLANES
from mtseg.scans.preprocessing import LARGEST_INTENSITY

CHANGED_SHARE = 0.5
"""Share of the samples that each change but `intensity` is made to."""

LARGEST_FACTOR = 1.1
"""`intensity` multiplies by at most this and at least its inverse; the median factor is 1."""

LARGEST_ANGLE_DEG = 8.0
"""`rotation` turns by at most this about each axis."""

LARGEST_SCALING = 1.25
"""`scaling` enlarges by at most this and at least its inverse. A scan whose voxels differ by less
from those of training is not resampled (see `mtseg.inference.recognition`)."""

GAMMA_DEVIATION = 0.1
"""`gamma` takes intensities to the power exp(deviation × a normal number)."""

LARGEST_NOISE = 0.1
"""Highest standard deviation of `noise`. The 99th percentile of a prepared scan is near 1."""

LARGEST_BIAS = 0.2
"""`bias` changes intensities along an axis by at most this share, from the centre to the border."""

LARGEST_COARSENING = 3.0
"""`resolution` makes voxels at most this many times as large."""

_SMALLEST_INTENSITY = np.float32(1e-3)
"""Foreground stays above 0 under noise."""

_STREAMS = {"rotation": 4, "scaling": 5, "gamma": 6, "noise": 7, "bias": 8, "resolution": 9}
"""The random numbers of each change. `flip` and `intensity` share stream 1."""

_LEFT_RIGHT_IS_ROWS = [PLANES.index("axial"), PLANES.index("coronal")]
"""The planes whose rows go from left to right. A mirrored body has the same sagittal patches."""


def draw_transforms(
    rows: slice, size: int, names: tuple[str, ...], key: tuple[int, int]
) -> npt.NDArray[np.float64] | None:
    """Draws how the voxel grid of each sample is turned and scaled before its patches are cut.

    Args:
        rows: which samples of the mini-batch are wanted.
        size: samples in the whole mini-batch.
        names: of `mtseg.runs.config.AUGMENTATIONS`.
        key: the seed and the number of the mini-batch.

    Returns:
        float64 (rows, 3, 3), from a voxel's offset in a patch to that in the volume; the identity
        for a sample that is not changed. None if neither `rotation` nor `scaling` is asked for.

    Example:
        >>> transforms = draw_transforms(slice(None), 4, ("rotation",), (0, 0))
        >>> np.allclose(np.linalg.det(transforms), 1)
        True
    """
    if "rotation" not in names and "scaling" not in names:
        return None
    transforms = np.tile(np.eye(3), (len(range(*rows.indices(size))), 1, 1))
    if "rotation" in names:
        is_changed, draw = _draw("rotation", size, 3, rows, key)
        angles = np.deg2rad(LARGEST_ANGLE_DEG) * (2 * draw - 1) * is_changed[:, np.newaxis]
        for axis in range(3):
            first, second = (a for a in range(3) if a != axis)
            turn = np.tile(np.eye(3), (len(angles), 1, 1))
            turn[:, first, first] = turn[:, second, second] = np.cos(angles[:, axis])
            turn[:, second, first] = np.sin(angles[:, axis])
            turn[:, first, second] = -turn[:, second, first]
            transforms = transforms @ turn
    if "scaling" in names:
        is_changed, draw = _draw("scaling", size, 1, rows, key)
        # A patch that covers less of the scan shows it enlarged.
        factor = np.where(is_changed, LARGEST_SCALING ** (2 * draw[:, 0] - 1), 1)
        transforms /= factor[:, np.newaxis, np.newaxis]
    return transforms


def draw_flips_and_factors(
    is_symmetric: npt.NDArray[np.bool_], names: tuple[str, ...], key: tuple[int, int]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float16]]:
    """Draws what `flip` and `intensity` change in a whole mini-batch.

    Args:
        is_symmetric: booleans (global_batch_size,), whether left and right may be exchanged in the
            anatomy of each sample's task.
        names: of `mtseg.runs.config.AUGMENTATIONS`.
        key: the seed and the number of the mini-batch.

    Returns:
        `(is_flipped, factors)`: booleans (global_batch_size,), and float16 (global_batch_size,),
        by which intensities are multiplied. None is flipped without `flip`, and all factors are 1
        without `intensity`.
    """
    # Both are drawn, whatever is asked for, so that one does not depend on the other.
    flip_draw, intensity_draw = np.random.default_rng([*key, 1]).random((2, is_symmetric.size))
    is_flipped = is_symmetric & (flip_draw < CHANGED_SHARE) & ("flip" in names)
    if "intensity" not in names:
        return is_flipped, np.ones(is_symmetric.size, np.float16)
    return is_flipped, (LARGEST_FACTOR ** (2 * intensity_draw - 1)).astype(np.float16)


def augment(
    patches: npt.NDArray[np.float16],
    is_symmetric: npt.NDArray[np.bool_],
    is_mr: npt.NDArray[np.bool_],
    rows: slice,
    names: tuple[str, ...],
    key: tuple[int, int],
) -> None:
    """Changes patches in place.

    - `flip` mirrors half of the samples left to right, if the anatomy allows it.
    - `resolution` gives half of the samples larger voxels, along all axes or along one.
    - `noise` adds normal noise to the foreground of half of the samples, in their larger voxels if
      they have such.
    - `bias` multiplies half of the MR samples by a field that changes slowly along each axis.
    - `gamma` raises half of the samples to a power near 1; no voxel becomes brighter than
      `mtseg.scans.preprocessing.LARGEST_INTENSITY`.
    - `intensity` multiplies each sample by one factor near 1.

    Background stays 0, but for `resolution`, which moves the border of the foreground by less than
    a voxel.

    Args:
        patches: float16 (n, 3, 51, 51), some samples of a mini-batch.
        is_symmetric: booleans (global_batch_size,), whether left and right may be exchanged in the
            anatomy of each sample's task.
        is_mr: booleans (global_batch_size,), whether each sample's task is one of MR.
        rows: which samples of the mini-batch `patches` are.
        names: of `mtseg.runs.config.AUGMENTATIONS`; rotation and scaling change nothing here.
        key: the seed and the number of the mini-batch.

    Example:
        >>> patches = np.ones((1, 3, 51, 51), np.float16)
        >>> yes = np.ones(1, bool)
        >>> augment(patches, yes, yes, slice(0, 1), ("intensity",), (0, 0))
        >>> bool(1 / 1.1 <= patches.max() <= 1.1)
        True
    """
    size = is_symmetric.size
    is_flipped, factors = draw_flips_and_factors(is_symmetric, names, key)
    if "flip" in names:
        flipped = np.flatnonzero(is_flipped[rows])
        for plane in _LEFT_RIGHT_IS_ROWS:
            patches[flipped, plane] = patches[flipped, plane, ::-1]
    if "resolution" in names or "noise" in names:
        _coarsen_and_add_noise(patches, size, rows, names, key)
    if "bias" in names:
        is_changed, draw = _draw("bias", size, 3, rows, key)
        chosen = np.flatnonzero(is_changed & is_mr[rows])
        patches[chosen] *= _bias_fields(LARGEST_BIAS * (2 * draw[chosen] - 1))
    if "gamma" in names:
        is_changed, draw = _draw("gamma", size, 2, rows, key)
        chosen = np.flatnonzero(is_changed)
        # A normal number from two uniform ones (Box and Muller, 1958).
        radius = np.sqrt(-2 * np.log1p(-draw[chosen, 0]))
        normal = radius * np.cos(2 * np.pi * draw[chosen, 1])
        power = np.exp(GAMMA_DEVIATION * normal).astype(np.float32)
        changed = patches[chosen].astype(np.float32) ** power[:, None, None, None]
        # As float16, the power of a very bright voxel would be infinite.
        patches[chosen] = np.minimum(changed, LARGEST_INTENSITY)
    if "intensity" in names:
        patches *= factors[rows, np.newaxis, np.newaxis, np.newaxis]


def _draw(
    name: str, size: int, width: int, rows: slice, key: tuple[int, int]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Draws which samples are changed, and `width` uniform numbers for each of them."""
    draw = np.random.default_rng([*key, _STREAMS[name]]).random((size, 1 + width))
    return draw[rows, 0] < CHANGED_SHARE, draw[rows, 1:]


def _coarsen_and_add_noise(
    patches: npt.NDArray[np.float16],
    size: int,
    rows: slice,
    names: tuple[str, ...],
    key: tuple[int, int],
) -> None:
    """Makes voxels larger, and adds noise as a scanner with such voxels would have it."""
    factors, phases = np.ones((2, len(patches), 3), np.float32)
    is_changed = np.zeros(len(patches), np.bool_)
    if "resolution" in names:
        is_changed, draw = _draw("resolution", size, 5, rows, key)
        factor = LARGEST_COARSENING ** draw[:, 0]
        # Half of them along all axes, the others along one.
        one_axis = (6 * draw[:, 1]).astype(np.int64)[:, np.newaxis]
        is_coarse = (one_axis >= 3) | (one_axis == np.arange(3))
        is_coarse &= is_changed[:, np.newaxis]
        factors = np.where(is_coarse, factor[:, np.newaxis], 1).astype(np.float32)
        phases = draw[:, 2:].astype(np.float32)
        chosen = np.flatnonzero(is_changed)
        patches[chosen] = coarsen(
            patches[chosen].astype(np.float32), factors[chosen], phases[chosen]
        )
    if "noise" in names:
        is_noisy, draw = _draw("noise", size, 1, rows, key)
        numbers = np.arange(size)[rows]
        for sample in np.flatnonzero(is_noisy):
            rng = np.random.default_rng([*key, _STREAMS["noise"], int(numbers[sample])])
            noise = rng.standard_normal(patches.shape[1:], np.float32)[np.newaxis]
            if is_changed[sample]:
                one = slice(sample, sample + 1)
                noise = coarsen_noise(noise, factors[one], phases[one])
            patch = patches[sample].astype(np.float32)
            # Its square: little noise is more common than much.
            noisy = patch + np.float32(LARGEST_NOISE * draw[sample, 0] ** 2) * noise[0]
            patches[sample] = np.where(patch > 0, np.maximum(noisy, _SMALLEST_INTENSITY), 0)


def _bias_fields(slopes: npt.NDArray[np.float64]) -> npt.NDArray[np.float16]:
    """Fields of the three planes that change along each axis by these shares, (n, 3, 51, 51)."""
    along = np.exp(slopes[..., np.newaxis] * np.linspace(-1, 1, PATCH_SIZE))  # (n, axes, 51)
    fields = [
        along[:, rows, :, np.newaxis] * along[:, columns, np.newaxis, :]
        for rows, columns in PLANE_AXES
    ]
    return np.stack(fields, axis=1).astype(np.float16)
