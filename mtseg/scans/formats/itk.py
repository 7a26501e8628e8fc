"""Opening NRRD and MetaImage files with SimpleITK, an optional dependency."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.scans.formats.headers import (
    RAS_OF_LPS,
    ScanFile,
    check_header,
    without_single_frames,
)

ITK_ENDINGS = (".nrrd", ".nhdr", ".mha", ".mhd")


def open_itk(path: Path) -> ScanFile:
    """Opens an NRRD or MetaImage file.

    Raises:
        InputError: if SimpleITK is missing, or the header cannot be used.
        RuntimeError: SimpleITK's, if it cannot read the file.
    """
    try:
        import SimpleITK
    except ImportError as error:
        raise InputError(
            f"{path}: reading {path.suffix} needs SimpleITK. Install it: pip install 'mtseg[itk]'"
        ) from error
    sitk: Any = SimpleITK  # its functions have no types
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
    shape = without_single_frames(size)
    if len(shape) != 3:
        raise InputError(f"{path}: has shape {size}, not three dimensions. Split or convert it.")
    direction = np.reshape(reader.GetDirection(), (num_axes, num_axes))[:3, :3]
    lps = np.eye(4)
    lps[:3, :3] = direction * reader.GetSpacing()[:3]
    lps[:3, 3] = reader.GetOrigin()[:3]
    affine = RAS_OF_LPS @ lps
    # One value per voxel is always a plain number in these formats, whatever its type.
    check_header(path, shape, np.dtype(np.float32), affine)

    def read_array(dtype: npt.DTypeLike | None) -> npt.NDArray[Any]:
        # SimpleITK's arrays have the axes (k, j, i).
        array = sitk.GetArrayFromImage(reader.Execute()).T.reshape(shape, order="F")
        return np.asarray(array, dtype=dtype)

    return ScanFile(path, shape, affine, None, read_array)
