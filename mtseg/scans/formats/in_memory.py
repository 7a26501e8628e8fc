"""Scans that are in memory: images of nibabel, and arrays.

Both become the `ScanFile` that a file becomes, so everything after it treats them alike.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.scans.formats.headers import ScanFile, check_header, without_single_frames
from mtseg.scans.formats.nifti import describe_nifti, stored_header


def open_image(image: nib.spatialimages.SpatialImage, name: str) -> ScanFile:
    """Checks the header of an image of nibabel's.

    Args:
        image: the image. Its voxels are copied when they are read, so it is never changed.
        name: what it is called in messages if it has no file.

    Raises:
        InputError: if it has no affine, or is not a scan.
    """
    file = image.get_filename()
    path = Path(name if file is None else file)
    if image.affine is None:
        raise InputError(f"{path}: has no affine, so its voxels have no size. Give it one.")
    if isinstance(image, nib.Nifti1Image):
        is_from_file = file is not None and nib.is_proxy(image.dataobj) and path.is_file()
        stored = stored_header(image, path) if is_from_file else image.header
        scan = describe_nifti(path, image, stored)
    else:
        shape = without_single_frames(image.shape)
        affine = np.array(image.affine, np.float64)
        check_header(path, shape, image.get_data_dtype(), affine)
        scan = ScanFile(
            path, shape[:3], affine, None, lambda dtype: np.asarray(image.dataobj, dtype=dtype)
        )
    read = scan.read_array

    def read_copy(dtype: npt.DTypeLike | None) -> npt.NDArray[Any]:
        array = read(dtype)
        # An image made of an array gives that very array, and a mapped file a mapped one.
        return array if array.base is None and array is not image.dataobj else array.copy()

    return dataclasses.replace(scan, read_array=read_copy)


def open_array(
    array: npt.NDArray[Any],
    name: str,
    affine: npt.ArrayLike | None = None,
    spacing_mm: Sequence[float] | None = None,
) -> ScanFile:
    """Checks an array of voxels and where they are.

    Args:
        array: numbers (i, j, k). It is copied when it is read, so it is never changed.
        name: what it is called in messages.
        affine: (4, 4), voxel index to RAS+ world in mm.
        spacing_mm: in place of the affine, the voxel size along i, j and k, of axes that lead to
            the subject's right, to the front and to the head.

    Raises:
        InputError: if the array is not three-dimensional or not of plain numbers, or the affine or
            the voxel size is not that of a scan, or is missing.
    """
    path = Path(name)
    world = _read_affine(path, affine, spacing_mm)
    shape = without_single_frames(array.shape)
    check_header(path, shape, array.dtype, world)
    return ScanFile(
        path, shape[:3], world, None, lambda dtype: np.array(array, dtype or array.dtype)
    )


def _read_affine(
    path: Path, affine: npt.ArrayLike | None, spacing_mm: Sequence[float] | None
) -> npt.NDArray[np.float64]:
    """The affine that is given, or that of the voxel size."""
    if (affine is None) == (spacing_mm is None):
        raise InputError(
            f"{path}: give one of affine (4 × 4, voxel index to RAS+ world in mm) and spacing_mm "
            "(voxel size of axes that lead right, front and up)."
        )
    try:
        given = np.array(spacing_mm if affine is None else affine, np.float64)
    except (TypeError, ValueError):
        given = np.zeros(0)
    if affine is None:
        if given.shape != (3,) or not all(0 < size < math.inf for size in given):
            raise InputError(
                f"{path}: spacing_mm is {spacing_mm!r}, not three voxel sizes above 0, such as "
                "(1, 1, 1.5)."
            )
        return np.diag([*given, 1.0])
    if given.shape != (4, 4) or not np.array_equal(given[3], [0, 0, 0, 1]):
        raise InputError(f"{path}: affine is not 4 × 4 with the last row 0, 0, 0, 1.")
    return given
