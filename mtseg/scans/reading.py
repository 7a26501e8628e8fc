"""Reading scans and label maps: NIfTI, FreeSurfer's MGH, NRRD, MetaImage and DICOM.

The whole header is checked before memory is used for the voxels.
"""

from __future__ import annotations

import dataclasses
import math
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes

from mtseg.errors import InputError
from mtseg.scans.volume import Volume, label_type, too_large

NIFTI_ENDINGS = (".nii.gz", ".nii")


MGH_ENDINGS = (".mgz", ".mgh")


ITK_ENDINGS = (".nrrd", ".nhdr", ".mha", ".mhd")


ENDINGS = (*NIFTI_ENDINGS, *MGH_ENDINGS, *ITK_ENDINGS)
"""How the names of files end that hold a scan or a label map."""


DICOM_ENDING = ".dcm"


_LARGEST_INTENSITY = 1e30
"""What is beyond is damaged, and sums of it would not be finite."""


_LEAST_DETERMINANT = 0.05
"""Of the axes' directions: 1 where they are perpendicular. Less is no scanner's, gantry tilt
included."""


_LARGEST_MM, _MOST_UNEQUAL = 100, 100
"""Largest voxel size, and how many times longer than wide a voxel may be."""


_MOST_INFLATED = 1032
"""Deflating makes nothing smaller than this many times."""


_UNREADABLE = (
    *(OSError, EOFError, zlib.error, ValueError, OverflowError, RuntimeError),
    *(nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError),
)
"""What the libraries raise for a file that is damaged or no image."""


_RAS_OF_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""ITK and DICOM count to the left and to the back."""


@dataclasses.dataclass(frozen=True)
class ScanFile:
    """A file whose header has been read and checked; its voxels have not.

    Attributes:
        path: the file, or the folder of a DICOM series.
        shape: (I, J, K).
        affine: float64 (4, 4), voxel index to RAS+ world in mm.
        header: of NIfTI; None for other formats.
        read_array: reads the voxels, as the type that it is given or, for None, as they are.
    """

    path: Path
    shape: tuple[int, ...]
    affine: np.ndarray
    header: nib.Nifti1Header | None
    read_array: Callable[[type | None], np.ndarray]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along i, j and k."""
        i, j, k = voxel_sizes(self.affine)
        return float(i), float(j), float(k)


def scan_stem(path: Path) -> str:
    """A scan's name without the ending of its format; a folder's whole name."""
    for ending in (*ENDINGS, DICOM_ENDING):
        if path.name.lower().endswith(ending):
            return path.name[: -len(ending)]
    return path.name


def read_scan(path: str | Path) -> Volume:
    """Reads a scan as float32.

    Args:
        path: a file in any orientation, of any integer or float type, one frame; or a folder that
            holds one DICOM series.

    Raises:
        InputError: if it is missing, of no known format, truncated, not three-dimensional, too
            large for this machine, or holds voxels that are not finite or not plain numbers.
    """
    scan = read_voxels(path, np.float32)
    require_finite(scan, path)
    return scan


def require_finite(scan: Volume, path: str | Path) -> None:
    """Refuses a scan with voxels that are NaN or infinite, or nearly so."""
    if not_finite := np.count_nonzero(~np.isfinite(scan.array)):
        raise InputError(f"{path}: {not_finite} voxels are NaN or infinite. Convert it again.")
    largest = max(-float(scan.array.min()), float(scan.array.max()))
    if largest > _LARGEST_INTENSITY:
        raise InputError(
            f"{path}: has an intensity of {largest:.2g}, which none is. Convert it again."
        )


def read_label_map(path: str | Path) -> Volume:
    """Reads a label map in the smallest of uint8, int16 and int32 that holds its labels.

    Raises:
        InputError: as for `read_scan`, and if a label is not a whole number of 32 bits.
    """
    label_map = read_voxels(path)
    return dataclasses.replace(label_map, array=whole_labels(label_map.array, path))


def whole_labels(array: np.ndarray, path: str | Path) -> np.ndarray:
    """Labels in the smallest type that holds them; refuses what are no whole numbers."""
    if array.dtype.kind == "f" and not (np.isfinite(array) & (array == np.rint(array))).all():
        raise InputError(f"{path}: holds labels that are not whole numbers. Give a label map.")
    return array.astype(label_type(array, path))


def read_voxels(path: str | Path, dtype: type | None = None) -> Volume:
    """Reads a file's voxels as they are, or as the type that is given.

    Raises:
        InputError: if the file cannot be read.
    """
    scan = open_scan(path)
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            array = scan.read_array(dtype)
    except InputError:
        raise
    except _UNREADABLE as error:
        raise InputError(f"{path}: is truncated or damaged. Copy or convert it again.") from error
    return Volume(array.reshape(array.shape[:3]), scan.affine, scan.header)


def is_dicom(path: Path) -> bool:
    """Whether a path is taken for DICOM: a folder, or a file of that ending."""
    return path.is_dir() or path.name.lower().endswith(DICOM_ENDING)


def open_scan(path: str | Path) -> ScanFile:
    """Opens a file and checks its header; its voxels are still unread.

    Raises:
        InputError: if it is missing, or its header is none or cannot be used.
    """
    path = Path(path)
    if is_dicom(path):
        from mtseg.scans.dicom import open_series

        series = open_series(path)
        _check(path, series.shape, np.dtype(np.float32), series.affine)
        return ScanFile(path, series.shape, series.affine, None, series.read_array)
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise InputError(f"{path}: is not a file. Give a scan ({', '.join(ENDINGS)}).")
        path.open("rb").close()
        with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is checked
            if path.name.lower().endswith(ITK_ENDINGS):
                return _open_itk(path)
            if path.name.lower().endswith(MGH_ENDINGS):
                return _open_mgh(path)
            return _open_nifti(path)
    except InputError:
        raise
    except _UNREADABLE as error:
        reason = getattr(error, "strerror", None) or "is damaged or of no known format"
        raise InputError(f"{path}: {reason}. Give a scan ({', '.join(ENDINGS)}).") from error


def _open_nifti(path: Path) -> ScanFile:
    image: Any = nib.load(path, mmap=False)  # a mapped file must stay as it is while in use
    if not isinstance(image, nib.Nifti1Image):
        raise nib.filebasedimages.ImageFileError
    with nib.openers.ImageOpener(str(path)) as file:
        stored = type(image.header).from_fileobj(file, check=False)
    # nibabel makes 1 of a voxel size of 0, which counts where no sform gives the place.
    is_sized = image.header["sform_code"] > 0 or stored["pixdim"][1:4].all()
    dtype = image.get_data_dtype()
    shape = _without_single_frames(image.shape)
    unit_mm = _UNITS_MM.get(int(image.header["xyzt_units"]) & 7, 1.0)
    affine = np.diag([unit_mm, unit_mm, unit_mm, 1]) @ image.affine
    _check(path, shape, dtype, affine, is_sized)
    _check_scale(path, stored, affine, unit_mm)
    _check_length(path, float(stored["vox_offset"]), shape, dtype)
    return ScanFile(
        path,
        shape[:3],
        affine,
        image.header if unit_mm == 1 else None,
        lambda dtype: np.asarray(image.dataobj, dtype=dtype),
    )


_UNITS_MM = {1: 1000.0, 3: 0.001}
"""Codes of metre and micrometre in NIfTI. A header with any other code means mm."""

_SAME_SCALE = 0.01
"""How far two voxel sizes of one header may differ, relative to the larger one."""


def _check_scale(path: Path, header: Any, affine: np.ndarray, unit_mm: float) -> None:
    """Refuses a header whose two statements of the voxel size differ: one of them is wrong.

    NIfTI has the size in `pixdim`, with the quaternion, and in the columns of the `sform`. Programs
    differ in which they use, so a scan would have other volumes in other programs.
    """
    if header["sform_code"] == 0:
        return
    of_affine = np.linalg.norm(affine[:3, :3], axis=0)
    of_pixdim = unit_mm * np.abs(np.array(header["pixdim"][1:4], np.float64))
    if not of_pixdim.all():  # the sform alone gives the size
        return
    if np.any(np.abs(of_affine - of_pixdim) > _SAME_SCALE * np.maximum(of_affine, of_pixdim)):
        sform, pixdim = (
            " x ".join(f"{size:.4g}" for size in sizes) for sizes in (of_affine, of_pixdim)
        )
        raise InputError(
            f"{path}: contradicts itself: its sform says voxels of {sform} mm, its pixdim "
            f"{pixdim} mm. Correct the header, for example set the sform code to 0 if pixdim is "
            "right."
        )


def _without_single_frames(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without axes of one frame after the third."""
    return shape[:3] if all(size == 1 for size in shape[3:]) else shape


def _open_mgh(path: Path) -> ScanFile:
    with nib.openers.ImageOpener(str(path)) as file:
        header = nib.MGHImage.from_stream(file.fobj).header
    shape, dtype, affine = header.get_data_shape(), header.get_data_dtype(), header.get_affine()
    _check(path, shape, dtype, affine)
    _check_length(path, 0, shape, dtype)

    def read_array(dtype: type | None) -> np.ndarray:
        with nib.openers.ImageOpener(str(path)) as file:
            return np.asarray(nib.MGHImage.from_stream(file.fobj).dataobj, dtype=dtype)

    return ScanFile(path, shape[:3], affine, None, read_array)


def _check_length(path: Path, begin: float, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Refuses a file that cannot hold what it claims, before an array of that size is made."""
    inflated = _MOST_INFLATED if path.name.lower().endswith((".gz", ".mgz")) else 1
    if begin + math.prod(shape) * dtype.itemsize > os.path.getsize(path) * inflated:
        raise InputError(f"{path}: is truncated. Copy or convert it again.")


def _open_itk(path: Path) -> ScanFile:
    try:
        import SimpleITK as sitk
    except ImportError as error:
        raise InputError(
            f"{path}: reading {path.suffix} needs SimpleITK. Install it: pip install 'mtseg[itk]'"
        ) from error
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    if reader.GetNumberOfComponents() != 1:
        raise InputError(
            f"{path}: has {reader.GetNumberOfComponents()} values per voxel. Convert it to plain "
            "numbers."
        )
    size, num_axes = tuple(reader.GetSize()), reader.GetDimension()
    shape = _without_single_frames(size)
    # No ITK format has voxels that are not plain numbers, except for the several values above.
    if len(shape) != 3:
        raise InputError(f"{path}: has shape {size}, not three dimensions. Split or convert it.")
    direction = np.reshape(reader.GetDirection(), (num_axes, num_axes))[:3, :3]
    lps = np.eye(4)
    lps[:3, :3] = direction * reader.GetSpacing()[:3]
    lps[:3, 3] = reader.GetOrigin()[:3]
    affine = _RAS_OF_LPS @ lps
    _check(path, shape, np.dtype(np.float32), affine)

    def read_array(dtype: type | None) -> np.ndarray:
        array = sitk.GetArrayFromImage(reader.Execute()).T.reshape(shape, order="F")
        return np.asarray(array, dtype=dtype)

    return ScanFile(path, shape, affine, None, read_array)


def _check(
    path: Path,
    shape: tuple[int, ...],
    dtype: np.dtype,
    affine: np.ndarray,
    is_sized: bool = True,
) -> None:
    """Refuses a header that is not that of a scan which this machine can hold."""
    is_scan = len(shape) >= 3 and shape[3:] in ((), (1,)) and min(shape) > 0
    claims = too_large(shape, max(4, dtype.itemsize))
    with np.errstate(all="ignore"):  # NaN fails the comparison, as it should
        columns = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        is_placed = np.isfinite(affine).all() and abs(np.linalg.det(columns)) > _LEAST_DETERMINANT
        sizes_mm = np.linalg.norm(affine[:3, :3], axis=0)
        is_measured = max(sizes_mm) <= min(_LARGEST_MM, _MOST_UNEQUAL * min(sizes_mm))
    sizes = " × ".join(f"{size:.3g}" for size in sizes_mm)
    for is_sound, fault in (
        (is_scan, f"has shape {shape}, not three dimensions. Split or convert it"),
        (dtype.kind in "iuf", f"has voxels of type {dtype}. Convert it to plain numbers"),
        (not claims, f"its header claims {claims}. Check the file, or crop it"),
        (is_sized and is_placed, "has a voxel size of 0 or a singular affine. Convert it again"),
        (is_measured, f"has voxels of {sizes} mm. Correct the header"),
    ):
        if not is_sound:
            raise InputError(f"{path}: {fault}.")
