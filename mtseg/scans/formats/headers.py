"""The header of a scan file, the same for every format, and the checks that every header must pass.

A file is refused here before memory is used for its voxels, so a damaged header cannot make this
machine run out of memory.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.affines import voxel_sizes

from mtseg.errors import InputError
from mtseg.scans.volume import memory_shortage

RAS_OF_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Turns world coordinates of ITK and DICOM, which count to the left and to the back, into RAS+."""

_SMALLEST_DETERMINANT = 0.05
"""Of the directions of the axes: 1 if they are perpendicular. No scanner makes a smaller one, not
even with a tilted gantry."""

_SAME_LENGTH = 0.01
"""Largest difference of the length of a direction from 1. Rounding to two decimals makes less."""

_LARGEST_VOXEL_MM = 100
_LARGEST_ANISOTROPY = 100
"""How many times longer than wide a voxel may be."""

_LARGEST_COMPRESSION = 1032
"""The deflate algorithm of gzip makes no file smaller by more than this factor."""


@dataclasses.dataclass(frozen=True, eq=False)
class ScanFile:
    """A scan of which only the header has been read and checked.

    Attributes:
        path: the file, or the folder of a DICOM series; what a scan in memory is called in
            messages.
        shape: voxels along (i, j, k).
        affine: float64 (4, 4), voxel index to RAS+ world in mm.
        header: the header of a NIfTI file in mm; None for others.
        read_array: reads the voxels as the given type; None keeps the type of the file. The array
            belongs to the caller, who may change it.
        is_ct: whether the file says that it is CT (True) or MR (False); None if it says neither, as
            all formats but DICOM.
    """

    path: Path
    shape: tuple[int, ...]
    affine: npt.NDArray[np.float64]
    header: nib.Nifti1Header | None
    read_array: Callable[[npt.DTypeLike | None], npt.NDArray[Any]]
    is_ct: bool | None = None

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along i, j and k."""
        i, j, k = voxel_sizes(self.affine)
        return float(i), float(j), float(k)


def without_single_frames(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape (i, j, k) of a file with one frame: (i, j, k, 1) or (i, j, k, 1, 1).

    A shape with several frames is returned as it is; `check_header` refuses it.
    """
    return shape[:3] if all(size == 1 for size in shape[3:]) else shape


def check_header(
    path: Path,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    affine: npt.NDArray[np.float64],
    *,
    has_voxel_size: bool = True,
) -> None:
    """Refuses a header that does not describe a scan, or a scan too large for this machine.

    Args:
        path: the file, for the message.
        shape: all axes of the file.
        dtype: type of the voxels as stored.
        affine: (4, 4), voxel index to RAS+ world in mm.
        has_voxel_size: whether the file says how large its voxels are.

    Raises:
        InputError: if the shape is not three-dimensional, voxels are not plain numbers, the memory
            of this machine is too small, or the affine is not that of a scan.
    """
    is_volume = len(shape) >= 3 and shape[3:] in ((), (1,)) and min(shape) > 0
    shortage = memory_shortage(shape, max(4, dtype.itemsize))
    with np.errstate(all="ignore"):  # a comparison with NaN is false, so it is refused
        sizes_mm = voxel_sizes(affine)
        determinant = np.linalg.det(affine[:3, :3] / sizes_mm)
        is_regular = np.isfinite(affine).all() and abs(determinant) > _SMALLEST_DETERMINANT
        is_plausible = max(sizes_mm) <= min(_LARGEST_VOXEL_MM, _LARGEST_ANISOTROPY * min(sizes_mm))
    sizes = " × ".join(f"{size:.3g}" for size in sizes_mm)
    for is_valid, fault in (
        (is_volume, f"has shape {shape}, not three dimensions. Split or convert it"),
        (dtype.kind in "iuf", f"has voxels of type {dtype}. Convert it to plain numbers"),
        (not shortage, f"its header says {shortage}. Check the file, or crop it"),
        (
            has_voxel_size and is_regular,
            "has a voxel size of 0 or a singular affine. Convert it again",
        ),
        (is_plausible, f"has implausible voxels of {sizes} mm. Correct the header"),
    ):
        if not is_valid:
            raise InputError(f"{path}: {fault}.")


def check_directions(path: Path, directions: npt.NDArray[np.float64]) -> None:
    """Refuses directions of axes that are no unit vectors: voxels would not have their size.

    Args:
        path: the file, for the message.
        directions: (3, n), a column for each axis.

    Raises:
        InputError: if the length of one is not 1.
    """
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(directions, axis=0)
    if not (np.abs(lengths - 1) <= _SAME_LENGTH).all():
        shown = ", ".join(f"{length:.4g}" for length in lengths)
        raise InputError(
            f"{path}: its axes have directions of the lengths {shown}, not 1, which changes the "
            "voxel size. Correct the header, or give the scan as the scanner wrote it."
        )


def check_length(path: Path, offset: float, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuses a file that is shorter than its header says.

    Args:
        path: the file.
        offset: bytes before the voxels.
        shape: as the header says.
        dtype: as the header says.

    Raises:
        InputError: if the file cannot have all voxels, even if compressed as much as can be.
    """
    compression = _LARGEST_COMPRESSION if path.name.lower().endswith((".gz", ".mgz")) else 1
    if offset + math.prod(shape) * dtype.itemsize > os.path.getsize(path) * compression:
        raise InputError(f"{path}: is truncated. Copy or convert it again.")
