"""Reading a scan from a file or a folder, whatever its format.

Begin with `read_scan`. `open_scan` reads the header alone, which is enough to know a scan's size
and voxel size.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.scans.formats.dicom import open_series
from mtseg.scans.formats.dicom_files import DICOM_ENDING, is_dicom_file
from mtseg.scans.formats.headers import ScanFile, check_header
from mtseg.scans.formats.itk import ITK_ENDINGS, open_itk, voxel_files
from mtseg.scans.formats.nifti import MGH_ENDINGS, NIFTI_ENDINGS, open_mgh, open_nifti
from mtseg.scans.volume import Volume

ENDINGS = (*NIFTI_ENDINGS, *MGH_ENDINGS, *ITK_ENDINGS)
"""Endings, in lower case, of the names of files that hold a scan or a label map."""

_LARGEST_INTENSITY = 1e30
"""Larger intensities come from damaged files, and their sums would not be finite."""

UNREADABLE = (
    *(OSError, EOFError, zlib.error, ValueError, OverflowError, RuntimeError),
    *(nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError),
)
"""What the libraries raise for a file that is damaged or not an image."""


def scan_stem(path: Path) -> str:
    """A scan's name without the ending of its format; the whole name of a folder."""
    for ending in (*ENDINGS, DICOM_ENDING):
        if path.name.lower().endswith(ending):
            return path.name[: -len(ending)]
    return path.name


def is_dicom(path: Path) -> bool:
    """Whether a path is read as DICOM: every folder, and files that end in .dcm.

    Files that do not have the ending of another format are DICOM by their content.
    """
    name = path.name.lower()
    if path.is_dir() or name.endswith(DICOM_ENDING):
        return True
    return not name.endswith(ENDINGS) and path.is_file() and is_dicom_file(path)


def scan_files(path: Path) -> list[Path]:
    """The files that a scan is read from: itself, and those of its voxels if they are others.

    Args:
        path: of a scan: a file, or the folder of a DICOM series. A file need not be there, and a
            header that cannot be used counts as the only file.

    Raises:
        OSError: if a folder cannot be listed.
    """
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.is_file())
    if not path.name.lower().endswith(ITK_ENDINGS):
        return [path]
    try:
        return [path, *voxel_files(path)]
    except (InputError, OSError):  # reading it says so
        return [path]


def read_scan(path: str | Path) -> Volume:
    """Reads a scan as float32.

    Args:
        path: a file in any orientation, of any integer or float type, with one frame; or a folder
            with one DICOM series.

    Raises:
        InputError: if it is missing, of no known format, truncated, not three-dimensional, too
            large for this machine, or has voxels that are not finite or not plain numbers.
    """
    return read_opened_scan(open_scan(path))


def read_opened_scan(scan: ScanFile) -> Volume:
    """As `read_scan`, of a scan whose header has been read, or that is in memory already."""
    volume = _read_array(scan, np.float32)
    require_finite(volume, scan.path)
    return volume


def require_finite(scan: Volume, path: str | Path) -> None:
    """Refuses a scan with voxels that are NaN or infinite, or nearly so.

    Raises:
        InputError: if there is one such voxel; `path` is named in the message.
    """
    if not_finite := np.count_nonzero(~np.isfinite(scan.array)):
        raise InputError(f"{path}: {not_finite} voxels are NaN or infinite. Convert it again.")
    largest = max(-float(scan.array.min()), float(scan.array.max()))
    if largest > _LARGEST_INTENSITY:
        raise InputError(
            f"{path}: has an intensity of {largest:.2g}, which is implausible. Convert it again."
        )


def read_voxels(path: str | Path, dtype: npt.DTypeLike | None = None) -> Volume:
    """Reads a file's voxels without checking their values.

    Args:
        path: as for `read_scan`.
        dtype: type of the array; None is the type of the file.

    Raises:
        InputError: if the file cannot be read.
    """
    return _read_array(open_scan(path), dtype)


def _read_array(scan: ScanFile, dtype: npt.DTypeLike | None) -> Volume:
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            array: npt.NDArray[Any] = scan.read_array(dtype)
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(
            f"{scan.path}: is truncated or damaged. Copy or convert it again."
        ) from error
    return Volume(array.reshape(array.shape[:3]), scan.affine, scan.header, scan.is_ct)


def open_scan(path: str | Path) -> ScanFile:
    """Reads and checks the header of a scan, but not its voxels.

    Raises:
        InputError: if the file is missing, or its header is not valid.
    """
    path = Path(path)
    if is_dicom(path):
        series = open_series(path)
        check_header(path, series.shape, np.dtype(np.float32), series.affine)
        return ScanFile(path, series.shape, series.affine, None, series.read_array, series.is_ct)
    name = path.name.lower()
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait for ever
            raise InputError(f"{path}: is not a file. Give a file ({', '.join(ENDINGS)}).")
        path.open("rb").close()
        with np.errstate(over="ignore", invalid="ignore"):  # the result is checked
            if name.endswith(ITK_ENDINGS):
                return open_itk(path)
            if name.endswith(MGH_ENDINGS):
                return open_mgh(path)
            return open_nifti(path)
    except InputError:
        raise
    except UNREADABLE as error:
        reason = getattr(error, "strerror", None) or "is damaged or of no known format"
        raise InputError(
            f"{path}: {reason}. Give a scan or label map ({', '.join(ENDINGS)})."
        ) from error
