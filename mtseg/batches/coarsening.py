"""Larger voxels: what patches of a scan look like that was resampled from a coarser grid.

A coarse voxel is the average of the fine ones that it covers. Between the centres of coarse voxels
this module interpolates linearly, where the preparation of a scan takes a cubic spline. One matrix
for each axis of a sample does both, the same in all planes that have this axis.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mtseg.scans.patches import PATCH_SIZE, PLANE_AXES

_CENTRE = PATCH_SIZE // 2


def coarsen(
    patches: npt.NDArray[np.float32],
    factors: npt.NDArray[np.float32],
    phases: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """Makes the voxels of patches larger.

    Args:
        patches: float32 (n, 3, 51, 51), 0 outside the foreground.
        factors: (n, 3), how many times as large the voxels are along each axis, at least 1. Along
            an axis with 1 nothing changes.
        phases: (n, 3), from 0 to 1, where the coarse grid begins.

    Returns:
        float32 (n, 3, 51, 51). Foreground is what is closer to foreground in the coarse grid, and
        the centre.
    """
    matrices = _resampling_matrices(factors, phases, is_averaging=True)
    is_foreground = _apply(matrices, (patches > 0).astype(np.float32)) >= 0.5
    is_foreground[..., _CENTRE, _CENTRE] = True
    return np.where(is_foreground, _apply(matrices, patches), 0)


def coarsen_noise(
    noise: npt.NDArray[np.float32],
    factors: npt.NDArray[np.float32],
    phases: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """Noise that is independent from one coarse voxel to the next, and as strong as before.

    Args:
        noise: float32 (n, 3, 51, 51), independent from pixel to pixel.
        factors: as for `coarsen`.
        phases: likewise.
    """
    return _apply(_resampling_matrices(factors, phases, is_averaging=False), noise)


def _apply(
    matrices: npt.NDArray[np.float32], patches: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    planes = [
        matrices[:, rows] @ patches[:, plane] @ matrices[:, columns].transpose(0, 2, 1)
        for plane, (rows, columns) in enumerate(PLANE_AXES)
    ]
    return np.stack(planes, axis=1)


def _resampling_matrices(
    factors: npt.NDArray[np.float32], phases: npt.NDArray[np.float32], *, is_averaging: bool
) -> npt.NDArray[np.float32]:
    """For each sample and axis, the matrix from its values on the fine grid to those afterwards.

    Args:
        factors: (n, 3).
        phases: (n, 3).
        is_averaging: whether a coarse voxel is the average of the fine ones that it covers;
            otherwise it is the one at its centre.

    Returns:
        float32 (n, 3, 51, 51). Every row has the sum 1.
    """
    pixels = np.arange(PATCH_SIZE, dtype=np.float32)
    factors = factors[..., np.newaxis, np.newaxis]
    # (n, 3, coarse, 1), from before the first pixel to behind the last one
    numbers = np.arange(PATCH_SIZE + 1, dtype=np.float32)[:, np.newaxis]
    centres = (numbers - phases[..., np.newaxis, np.newaxis]) * factors
    inside = np.clip(centres, 0, PATCH_SIZE - 1)
    if is_averaging:
        covered = np.clip((factors + 1) / 2 - np.abs(pixels - inside), 0, 1)
        weights = covered / covered.sum(axis=-1, keepdims=True)
    else:
        weights = (np.rint(inside) == pixels).astype(np.float32)
    distances = np.abs(pixels[:, np.newaxis] - centres.swapaxes(-1, -2))
    matrices = np.clip(1 - distances / factors, 0, None) @ weights
    return np.where(factors == 1, np.eye(PATCH_SIZE, dtype=np.float32), matrices)
