"""Resampling a volume to another voxel size, with the same axes and the same centre.

Beyond the border of a volume, the value at the border is repeated. Where the new voxels are larger,
a scan is averaged first, as a scanner with larger voxels would have measured it. SciPy
interpolates. On a scan of the size of a brain it was as fast as SimpleITK and as close to a known
function (`benchmarks/resample.py` measures both).
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mtseg.errors import InputError
from mtseg.scans.volume import Volume, memory_shortage

SAME_SPACING = 1e-3
"""Voxel sizes that differ by less, relatively, are the same: nothing is interpolated."""

CUBIC, LINEAR, NEAREST = 3, 1, 0
"""Spline orders: for scans, for probabilities, for labels."""

BORDER = 12
"""Voxels repeated beyond the border before the coefficients of a cubic spline are computed. Voxels
further away do not change a coefficient in double precision."""


def resample(volume: Volume, spacing_mm: float, order: int) -> Volume:
    """Resamples to isotropic voxels along the volume's own axes.

    The field of view keeps its centre and, to half a voxel, its extent. A volume that has the voxel
    size already is returned as it is.

    Args:
        volume: (i, j, k) with any voxel size.
        spacing_mm: voxel size of the result, along every axis.
        order: `CUBIC`, `LINEAR` or `NEAREST`.

    Returns:
        A volume of the same dtype, without header.

    Raises:
        InputError: if the voxel size is not positive, or the result is too large for this machine.
            The message does not name the file; the caller adds it.
    """
    shape = resampled_shape(volume.array.shape, volume.spacing_mm, spacing_mm)
    if shape is None:
        return volume
    step = spacing_mm / np.array(volume.spacing_mm)
    if shortage := memory_shortage(shape):
        raise InputError(f"at {spacing_mm:g} mm it has {shortage}. Give a larger voxel size.")
    affine = volume.affine.copy()
    affine[:3, :3] *= step
    affine[:3, 3] += volume.affine[:3, :3] @ first_index(volume.array.shape, shape, step)
    # From the new affine, as a caller with only that computes it: for a tie between two voxels, the
    # rounding must be the same.
    step = np.divide(Volume(volume.array, affine).spacing_mm, volume.spacing_mm)
    return Volume(interpolate(volume.array, shape, step, order), affine)


def resampled_shape(
    shape: Sequence[int], spacing_mm: Sequence[float], new_mm: float
) -> tuple[int, ...] | None:
    """The shape at another voxel size; None if the voxel size is the same already.

    Args:
        shape: voxels along (i, j, k).
        spacing_mm: voxel size along (i, j, k).
        new_mm: the isotropic voxel size.

    Raises:
        InputError: if the new voxel size is not positive.
    """
    if not 1e-6 < new_mm < math.inf:  # false for NaN too
        raise InputError(f"a voxel size of {new_mm:g} mm is not valid. Give millimetres above 0.")
    if np.allclose(spacing_mm, new_mm, rtol=SAME_SPACING, atol=0):
        return None
    extents = np.array(shape) * spacing_mm / new_mm
    return tuple(max(1, round(extent)) for extent in extents.tolist())


def first_index(
    source_shape: Sequence[int], shape: Sequence[int], step: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Place of the first voxel of a grid with the same centre, in voxels of the source.

    Args:
        source_shape: voxels of the source along each axis.
        shape: voxels of the grid along each axis.
        step: distance of the grid's voxels along each axis, in voxels of the source.
    """
    return (np.array(source_shape) - 1) / 2 - (np.array(shape) - 1) / 2 * step


def interpolate(
    array: npt.NDArray[Any], shape: Sequence[int], step: npt.NDArray[np.float64], order: int
) -> npt.NDArray[Any]:
    """Values on a grid with the same axes and the same centre.

    For a tie between two nearest voxels, a scan, its mask and its labels take the same voxel.

    Args:
        array: (i, j, k); for `CUBIC`, float32 or float64.
        shape: of the result.
        step: distance of the result's voxels along each axis, in voxels of `array`.
        order: `CUBIC`, which averages where the result's voxels are larger, `LINEAR` or `NEAREST`.

    Returns:
        An array of the same dtype.
    """
    first = first_index(array.shape, shape, step)
    if order == CUBIC:
        # SciPy would compute coefficients in double precision: twice the memory, for digits that a
        # scan does not have.
        dtype = np.float32 if array.dtype == np.float32 else np.float64
        padded = np.pad(array, BORDER, mode="edge").astype(dtype, copy=False)
        _average(padded, step)
        array, first = ndimage.spline_filter(padded, CUBIC, padded, "nearest"), first + BORDER
    with warnings.catch_warnings():  # older SciPy warns at every call of a change in 0.18
        warnings.filterwarnings("ignore", "The behavior of affine_transform", UserWarning)
        values: npt.NDArray[Any] = ndimage.affine_transform(
            array, step, offset=first, output_shape=tuple(shape), order=order, mode="nearest",
            prefilter=False,
        )  # fmt: skip
    return values


def _average(array: npt.NDArray[Any], step: npt.NDArray[np.float64]) -> None:
    """Replaces each value by the mean over a larger voxel around it, in place.

    Interpolation alone would pick single voxels of a fine scan: edges sharper than any that the
    network was trained with, details too fine for the new grid as false coarse ones, and all of the
    fine scan's noise.

    Args:
        array: (i, j, k), floats.
        step: edges of the larger voxel along each axis, in voxels of `array`. Along an axis with 1
            or less nothing changes.
    """
    for axis, width in enumerate(step):
        if width > 1 + SAME_SPACING:
            beside = (width - 1) / 2  # voxels covered to either side, the last one in part
            reach = math.ceil(beside)
            weights = np.clip(beside + 1 - np.abs(np.arange(-reach, reach + 1)), 0, 1)
            ndimage.correlate1d(array, weights / width, axis, array, mode="nearest")


@dataclasses.dataclass(frozen=True, eq=False)
class LinearAxis:
    """Linear interpolation along one axis, in one piece or block by block with the same result.

    Attributes:
        lower: int64 (n,), ascending: for each voxel of the result, its lower neighbour in the
            source.
        weight: float32 (n,), weight of the upper neighbour; 0 if there is none.
    """

    lower: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float32]

    @classmethod
    def between(cls, source_size: int, size: int, step: float) -> LinearAxis:
        """The axis of a grid with the same centre.

        Args:
            source_size: voxels of the source.
            size: voxels of the result.
            step: distance of the result's voxels, in voxels of the source.
        """
        first = first_index([source_size], [size], np.array([step]))
        places = np.clip(first + step * np.arange(size), 0, source_size - 1)
        # A place that differs from a voxel by a rounding error is that voxel.
        nearest = np.rint(places)
        places = np.where(np.abs(places - nearest) < 1e-6, nearest, places)
        lower = np.floor(places).astype(np.int64)
        return cls(lower, (places - lower).astype(np.float32))

    @property
    def is_identity(self) -> bool:
        """Whether the result is the source."""
        return not self.weight.any() and np.array_equal(self.lower, np.arange(len(self.lower)))

    def targets(self, core: slice) -> slice:
        """The voxels of the result whose lower neighbour is in this part of the source."""
        start, stop = np.searchsorted(self.lower, [core.start, core.stop])
        return slice(int(start), int(stop))

    def apply(
        self, block: npt.NDArray[np.float32], axis: int, start: int, targets: slice
    ) -> npt.NDArray[np.float32]:
        """Interpolates a block of the source along this axis.

        Args:
            block: float32, with all lower and upper neighbours of the targets, except upper ones
                beyond the border of the source.
            axis: the axis of the block.
            start: first voxel of the block in the source.
            targets: voxels of the result to compute.

        Returns:
            float32, with `targets` in place of the block's voxels along the axis; a view of the
            block where the targets are a part of it.
        """
        lower, weight = self.lower[targets] - start, self.weight[targets]
        is_part = not weight.any() and bool((np.diff(lower) == 1).all())
        if is_part and lower.size:  # as on a grid that is the source's: nothing is copied
            within = [slice(None)] * block.ndim
            within[axis] = slice(int(lower[0]), int(lower[-1]) + 1)
            return block[tuple(within)]
        below: npt.NDArray[np.float32] = np.take(block, lower, axis)
        if not weight.any():
            return below
        above: npt.NDArray[np.float32] = np.take(
            block, np.minimum(lower + 1, block.shape[axis] - 1), axis
        )
        above -= below
        above *= weight.reshape([-1 if a == axis else 1 for a in range(block.ndim)])
        above += below
        return above
