"""Resampling a volume to another voxel size with the same axes and centre.

SciPy interpolates. On a scan of a brain's size it was as fast as SimpleITK and as close to a known
function (`benchmarks/resample.py` measures both). Beyond the border, the border's value is
repeated.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from mtseg.errors import InputError
from mtseg.scans.volume import Volume, memory_shortage

SAME_SPACING = 1e-3
"""Voxel sizes that differ by less, relatively, are the same: nothing is interpolated."""


def resample(volume: Volume, spacing_mm: float, order: int) -> Volume:
    """Resamples to isotropic voxels along the volume's own axes.

    The field of view keeps its centre; its extent is that of the source to half a voxel. Beyond
    the border the border's value is repeated. A volume that has the spacing already is returned
    as it is.

    Args:
        volume: (i, j, k), any spacing.
        spacing_mm: of the result, along each axis.
        order: `CUBIC`, `LINEAR` or `NEAREST` of `mtseg.scans.resampling`.

    Returns:
        A volume of the same dtype, without header.

    Raises:
        InputError: if the spacing is not positive, or memory cannot hold the result.
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
    # By the new affine, as whoever has no more than that computes it: a tie must fall alike.
    step = np.divide(Volume(volume.array, affine).spacing_mm, volume.spacing_mm)
    return Volume(interpolate(volume.array, shape, step, order), affine)


def resampled_shape(
    shape: Sequence[int], spacing_mm: Sequence[float], new_mm: float
) -> tuple[int, ...] | None:
    """The shape at another spacing; None if it is the same spacing."""
    if not 1e-6 < new_mm < math.inf:  # NaN neither
        raise InputError(f"a voxel size of {new_mm:g} mm is not valid. Give millimetres above 0.")
    if np.allclose(spacing_mm, new_mm, rtol=SAME_SPACING, atol=0):
        return None
    extents = np.array(shape) * spacing_mm / new_mm
    return tuple(max(1, round(extent)) for extent in extents.tolist())


CUBIC, LINEAR, NEAREST = 3, 1, 0
"""Spline orders: for scans, for probabilities, for labels."""


BORDER = 12
"""Voxels repeated beyond the border before a cubic spline's coefficients are computed. As many
reach a coefficient at all in double precision."""


def first_index(source_shape: Sequence[int], shape: Sequence[int], step: np.ndarray) -> np.ndarray:
    """Where, in source voxels, the first voxel of a grid with the same centre lies."""
    return (np.array(source_shape) - 1) / 2 - (np.array(shape) - 1) / 2 * step


def interpolate(
    array: np.ndarray, shape: Sequence[int], step: np.ndarray, order: int
) -> np.ndarray:
    """Values on a grid of the same axes and centre; ties fall alike for scan, mask and labels.

    Args:
        array: (i, j, k).
        shape: of the result.
        step: distance of the result's voxels along each axis, in voxels of `array`.
        order: `CUBIC`, `LINEAR` or `NEAREST`.

    Returns:
        An array of the same dtype.
    """
    first = first_index(array.shape, shape, step)
    if order == CUBIC:
        # SciPy would keep the coefficients in double precision: twice the memory, for digits that
        # a scan does not have.
        dtype = np.float32 if array.dtype == np.float32 else np.float64
        padded = np.pad(array, BORDER, mode="edge").astype(dtype, copy=False)
        array, first = ndimage.spline_filter(padded, CUBIC, padded, "nearest"), first + BORDER
    with warnings.catch_warnings():  # older SciPy recalls at every call what 0.18 changed
        warnings.filterwarnings("ignore", "The behavior of affine_transform", UserWarning)
        return ndimage.affine_transform(
            array, step, offset=first, output_shape=tuple(shape), order=order, mode="nearest",
            prefilter=False,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LinearAxis:
    """Linear interpolation along an axis, for one block of it or all: the results are the same.

    Attributes:
        lower: int64 (n,), ascending: for each voxel of the result the one below it in the source.
        weight: float32 (n,), of the voxel above; 0 where there is none.
    """

    lower: np.ndarray
    weight: np.ndarray

    @classmethod
    def between(cls, source_size: int, size: int, step: float) -> LinearAxis:
        """The axis of a grid with the same centre, as for `interpolate`."""
        first = first_index([source_size], [size], np.array([step]))
        places = np.clip(first + step * np.arange(size), 0, source_size - 1)
        # A place within rounding of a voxel is that voxel.
        nearest = np.rint(places)
        places = np.where(np.abs(places - nearest) < 1e-6, nearest, places)
        lower = np.floor(places).astype(np.int64)
        return cls(lower, (places - lower).astype(np.float32))

    @property
    def is_identity(self) -> bool:
        """Whether every voxel stays what it is."""
        return not self.weight.any() and np.array_equal(self.lower, np.arange(len(self.lower)))

    def targets(self, core: slice) -> slice:
        """The voxels of the result whose lower neighbour is in a part of the source."""
        start, stop = np.searchsorted(self.lower, [core.start, core.stop])
        return slice(int(start), int(stop))

    def apply(self, block: np.ndarray, axis: int, start: int, targets: slice) -> np.ndarray:
        """Interpolates a block of the source along this axis.

        Args:
            block: float32; it holds the lower and the upper neighbours of the targets, except
                uppers beyond the source's border.
            axis: which of its axes this is.
            start: where the block begins in the source.
            targets: voxels of the result that are wanted.
        """
        lower, weight = self.lower[targets] - start, self.weight[targets]
        below = np.take(block, lower, axis)
        if not weight.any():
            return below
        above = np.take(block, np.minimum(lower + 1, block.shape[axis] - 1), axis)
        above -= below
        above *= weight.reshape([-1 if a == axis else 1 for a in range(block.ndim)])
        above += below
        return above
