"""Opening NRRD and MetaImage files with SimpleITK, an optional dependency."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.scans.formats.headers import (
    RAS_OF_LPS,
    ScanFile,
    check_directions,
    check_header,
    without_single_frames,
)

ITK_ENDINGS = (".nrrd", ".nhdr", ".mha", ".mhd")

_LONGEST_LINE = 500
"""Bytes of a line of a header. ITK copies longer ones beyond the memory that it has for them, which
ends the process; a large number of axes in a MetaImage does so, too."""

_HEADER_BYTES = 1 << 20
_NUM_AXES = re.compile(rb"\s*NDims\s*[=:]+(.*)", re.IGNORECASE)
_NUMBERED = re.compile(r"([^%]*%[0-9]{0,2}d[^%]*?)\s+(\d+)\s+(\d+)\s+(-?\d+)(?:\s+\d+)?")
_MOST_FILES = 100_000

_DATA_FILE = re.compile(rb"(?:data ?file *:|\s*ElementDataFile\s*[=:])[=:\s]*(.*)", re.IGNORECASE)

_VOXEL_SIZE = re.compile(
    rb"(?:(?i:spacings|space directions): |\s*Element(?:Spacing|Size)\s*[=:]+)(.*)"
)
_AXIS_SIZE = re.compile(rb"\([^)]*\)|\S+")
_UNITS = re.compile(rb"(?:(?i:space units|units): |\s*DistanceUnits\s*[=:]+)(.*)")

_MM = {"mm", "millimeter", "millimeters", "millimetre", "millimetres", "?", "???"}
"""Units that are read as mm; question marks stand for one that is not stated."""


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
    _named_files(path)  # refuses what would end ITK
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
    _require_voxel_size(path)
    direction = np.reshape(reader.GetDirection(), (num_axes, num_axes))[:3, :3]
    lps = np.eye(4)
    lps[:3, :3] = direction * reader.GetSpacing()[:3]
    lps[:3, 3] = reader.GetOrigin()[:3]
    affine = RAS_OF_LPS @ lps
    # One value per voxel is always a plain number in these formats, whatever its type.
    check_header(path, shape, np.dtype(np.float32), affine)
    check_directions(path, direction)

    def read_array(dtype: npt.DTypeLike | None) -> npt.NDArray[Any]:
        # SimpleITK's arrays have the axes (k, j, i).
        array = sitk.GetArrayFromImage(reader.Execute()).T.reshape(shape, order="F")
        return np.asarray(array, dtype=dtype)

    return ScanFile(path, shape, affine, None, read_array)


def voxel_files(path: Path) -> list[Path]:
    """The other files that hold the voxels of an NRRD or MetaImage file; most have none.

    Raises:
        InputError: as for `open_itk`, of the header alone.
        OSError: if the header cannot be read, or names what cannot be a file.
    """
    files = dict.fromkeys(path.parent / name for name in _named_files(path))
    return [file for file in files if file != path and file.is_file()]


def _number_names(named: str) -> list[str]:
    """The names that a pattern of C's printf with a first number, a last one and a step stands for.

    Example:
        >>> _number_names("slice%02d.raw 8 10 2")
        ['slice08.raw', 'slice10.raw']
    """
    found = _NUMBERED.fullmatch(named)
    if found is None:
        return [named]
    pattern, *numbers = found.groups()
    first, last, step = (int(number) for number in numbers)
    count = min((last - first) // step + 1, _MOST_FILES) if step else 1
    return [pattern % (first + step * n) for n in range(count)]


def _named_files(path: Path) -> list[str]:
    """What a header says of the files of its voxels.

    Raises:
        InputError: for lines that would end ITK, and names that lead out of the folder.
        OSError: if the file cannot be read.
    """
    is_nrrd, is_list = _is_nrrd(path), False
    names: list[str] = []
    for line in _header_lines(path):
        found = _DATA_FILE.match(line)
        is_own_key = line.partition(b":")[2].startswith(b"=")
        is_comment = is_nrrd and (line.startswith(b"#") or is_own_key)
        if len(line) > _LONGEST_LINE and not is_comment:
            raise InputError(
                f"{path}: its header has a line of {len(line)} bytes. Correct the header."
            )
        axes = _NUM_AXES.match(line)
        if axes and not re.fullmatch(rb"[1-9]", axes[1].strip()):
            shown = axes[1].decode(errors="replace").strip()
            raise InputError(f"{path}: its header says {shown} axes. Correct the header.")
        if found is None and not is_list:
            continue
        named = os.fsdecode(line if found is None else found[1]).strip()
        _require_beside(path, named)
        if is_list:
            names.append(named)
        elif named != "LOCAL" and not named.startswith("LIST"):
            names += _number_names(named)
        is_list = is_list or named.startswith("LIST")
        if not is_nrrd and not is_list:
            return names  # the voxels may follow
    return names


def _header_lines(path: Path) -> list[bytes]:
    """The lines of a header. In a MetaImage file, the voxels may follow them."""
    if not path.is_file():
        return []  # ITK says so
    with path.open("rb") as file:
        lines = [line.rstrip(b"\r") for line in file.read(_HEADER_BYTES).split(b"\n")]
    return lines[: lines.index(b"")] if _is_nrrd(path) and b"" in lines else lines


def _is_nrrd(path: Path) -> bool:
    return path.suffix.lower() in (".nrrd", ".nhdr")


def _require_voxel_size(path: Path) -> None:
    """Refuses a header without a voxel size, for which ITK takes 1, or with one not in mm."""
    lines = _header_lines(path)
    stated = [found[1] for line in lines if (found := _VOXEL_SIZE.match(line))]
    # An axis without a size is `nan` or `none`.
    sizes = [
        size for text in stated for size in _AXIS_SIZE.findall(text) if b"n" not in size.lower()
    ]
    if len(sizes) < 3:
        raise InputError(
            f"{path}: does not say how large its voxels are. Convert it again, with a voxel size."
        )
    for found in filter(None, map(_UNITS.match, lines)):
        for unit in found[1].decode(errors="replace").replace('"', " ").split()[:3]:
            if unit.lower() not in _MM:
                raise InputError(f"{path}: has its voxel size in {unit}, not mm. Convert it to mm.")


def _require_beside(path: Path, named: str) -> None:
    """Refuses a file of voxels that is not below the folder of its header."""
    voxels = Path(named)
    if voxels.is_absolute() or ".." in voxels.parts:
        raise InputError(
            f"{path}: its voxels are in {named}, outside of its folder. Put that file beside it."
        )
    beside = path.parent / named
    is_word = named == "LOCAL" or named.startswith("LIST")
    if named and not is_word and beside.exists() and not beside.is_file():
        raise InputError(f"{path}: its voxels are in {named}, which is not a file.")
