"""Opening NIfTI and FreeSurfer's MGH files with nibabel.

References: NIfTI-1 (`nifti1.h`, "ORIENTATION AND LOCATION", methods 1 to 3, and `xyzt_units`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.affines import voxel_sizes

from mtseg.errors import InputError
from mtseg.scans.formats.headers import (
    ScanFile,
    check_directions,
    check_header,
    check_length,
    without_single_frames,
)

NIFTI_ENDINGS = (".nii.gz", ".nii")

MGH_ENDINGS = (".mgz", ".mgh")

_UNITS_MM = {1: 1000.0, 3: 0.001}
"""Codes of metre and micrometre in NIfTI. Any other code is read as mm."""

SAME_SIZE = 0.01
"""Largest difference of two voxel sizes in one header, relative to the larger one."""


def open_nifti(path: Path) -> ScanFile:
    """Opens a NIfTI file.

    Raises:
        InputError: if the header cannot be used.
        ImageFileError: nibabel's, if it is not NIfTI.
    """
    image: Any = nib.load(path, mmap=False)  # a mapped file would have to stay unchanged
    if not isinstance(image, nib.Nifti1Image):
        raise nib.filebasedimages.ImageFileError
    stored = stored_header(image, path)
    scan = describe_nifti(path, image, stored)
    check_length(path, float(stored["vox_offset"]), scan.shape, image.get_data_dtype())
    return scan


def stored_header(image: Any, path: Path) -> Any:
    """The header of an image's file as it is stored: nibabel turns a voxel size of 0 into 1."""
    with nib.openers.ImageOpener(str(path)) as file:
        return type(image.header).from_fileobj(file, check=False)


def describe_nifti(path: Path, image: Any, stored: Any) -> ScanFile:
    """Checks the header of a NIfTI image of nibabel's.

    Args:
        path: the file, or what an image without one is called in messages.
        image: the image.
        stored: its header before nibabel corrected it.

    Raises:
        InputError: if the header cannot be used.
    """
    # A voxel size of 0 matters if no sform has the voxel size.
    has_voxel_size = bool(image.header["sform_code"] > 0 or stored["pixdim"][1:4].all())
    shape = without_single_frames(image.shape)
    unit_mm = _UNITS_MM.get(int(image.header["xyzt_units"]) & 7, 1.0)
    affine = np.diag([unit_mm, unit_mm, unit_mm, 1]) @ image.affine
    dtype = image.get_data_dtype()
    check_header(path, shape, dtype, affine, has_voxel_size=has_voxel_size)
    _check_voxel_sizes(path, stored, affine, unit_mm)
    return ScanFile(
        path,
        shape[:3],
        affine,
        image.header if unit_mm == 1 else None,
        lambda dtype: np.asarray(image.dataobj, dtype=dtype),
    )


def _check_voxel_sizes(
    path: Path, header: Any, affine: npt.NDArray[np.float64], unit_mm: float
) -> None:
    """Refuses a header that has two different voxel sizes, because one of them is wrong.

    NIfTI has the size in `pixdim` (for the qform) and in the columns of the `sform`. Programs
    differ in which they use, so such a scan would have other volumes in other programs.
    """
    pixdim_mm = unit_mm * np.abs(np.array(header["pixdim"][1:4], np.float64))
    if header["sform_code"] == 0 or not pixdim_mm.all():  # there is only one size
        return
    sform_mm = voxel_sizes(affine)
    if np.any(np.abs(sform_mm - pixdim_mm) > SAME_SIZE * np.maximum(sform_mm, pixdim_mm)):
        sform, pixdim = (
            " x ".join(f"{size:.4g}" for size in sizes) for sizes in (sform_mm, pixdim_mm)
        )
        raise InputError(
            f"{path}: has two different voxel sizes: {sform} mm in its sform, {pixdim} mm in its "
            "pixdim. Correct the header; for example, set the sform code to 0 if pixdim is right."
        )


def open_mgh(path: Path) -> ScanFile:
    """Opens an MGH file, compressed or not.

    Raises:
        InputError: if the header cannot be used.
    """
    with nib.openers.ImageOpener(str(path)) as file:
        header = nib.MGHImage.from_stream(file.fobj).header
    shape, dtype, affine = header.get_data_shape(), header.get_data_dtype(), header.get_affine()
    check_header(path, shape, dtype, affine)
    check_directions(path, header["Mdc"].T)
    check_length(path, 0, shape, dtype)

    def read_array(dtype: npt.DTypeLike | None) -> npt.NDArray[Any]:
        with nib.openers.ImageOpener(str(path)) as file:
            return np.asarray(nib.MGHImage.from_stream(file.fobj).dataobj, dtype=dtype)

    return ScanFile(path, shape[:3], affine, None, read_array)
