"""Opening a DICOM series: a folder with a file for each slice, or one multi-frame file.

The place of a slice comes from its own position and orientation, never from a file name or an
instance number.

Reference: DICOM PS3.3, C.7.6.2 (Image Plane) and C.7.6.16 (Multi-frame Functional Groups).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.scans.formats.headers import RAS_OF_LPS

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

DICOM_ENDING = ".dcm"

_SAME_PLACE = 0.01
"""Two slices nearer than this share of the usual distance are at the same place."""

_UNEVEN = 0.1
"""Largest difference of a distance from the usual one, as a share of the usual one."""

_SMALLEST_COSINE = 0.9998
"""Of the angle between the normal of the slices and the direction in which they are stacked. It
allows about a degree; a larger angle comes from a tilted gantry."""


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """A slice: where it is, and how its stored values become intensities.

    Attributes:
        path: its file.
        number: its place in the file, from 0.
        position_mm: (3,) of the centre of the first pixel, LPS.
        row_direction: (3,), unit vector along a row, in which column numbers grow.
        column_direction: (3,), unit vector along a column, in which row numbers grow.
        spacing_mm: distance between rows, and between columns.
        slope: an intensity is the stored value times `slope` plus `intercept`.
        intercept: see `slope`.
    """

    path: Path
    number: int
    position_mm: npt.NDArray[np.float64]
    row_direction: npt.NDArray[np.float64]
    column_direction: npt.NDArray[np.float64]
    spacing_mm: tuple[float, float]
    slope: float
    intercept: float


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """The slices of one series in the order of their places.

    Attributes:
        frames: from the first to the last along the normal of the slices.
        shape: (columns, rows, slices).
        affine: float64 (4, 4), voxel index to RAS+ world in mm.
    """

    frames: tuple[Frame, ...]
    shape: tuple[int, int, int]
    affine: npt.NDArray[np.float64]

    def read_array(self, dtype: npt.DTypeLike | None) -> npt.NDArray[Any]:
        """Reads the voxels and rescales them to intensities.

        Args:
            dtype: of the result; None is float32.

        Returns:
            (columns, rows, slices).

        Raises:
            InputError: if the pixels of a slice cannot be decoded.
        """
        array = np.empty(self.shape, dtype or np.float32)
        pixels: npt.NDArray[Any] = np.empty(0)
        opened: Path | None = None
        for place, frame in enumerate(self.frames):
            if frame.path != opened:
                pixels, opened = _read_pixels(frame.path), frame.path
            values = pixels[frame.number].T.astype(np.float64)
            array[..., place] = values * frame.slope + frame.intercept
        return array


def open_series(path: Path) -> Series:
    """Reads the headers of a series and puts its slices in order.

    Args:
        path: a folder with the files of one series, or one DICOM file.

    Raises:
        InputError: if there is no series or more than one; slices differ in size, spacing or
            orientation; two are at the same place, or one is missing; the gantry was tilted.
    """
    datasets = _read_headers(path)
    series = Counter(str(d.get("SeriesInstanceUID", "")) for _, d in datasets)
    if len(series) > 1:
        found = "; ".join(f"{uid or 'without number'}, {n} files" for uid, n in series.items())
        raise InputError(
            f"{path}: has {len(series)} series ({found}). Give a folder with the files of one."
        )
    frames = [frame for file, dataset in datasets for frame in _frames(file, dataset)]
    (rows, columns), *others = {(d.Rows, d.Columns) for _, d in datasets}
    if others:
        raise InputError(f"{path}: its slices differ in size. Give a folder with one series.")
    first = frames[0]
    for frame in frames:
        _check_alike(first, frame)
    if len(frames) < 2:
        raise InputError(f"{path}: has a single slice. Give the folder of a whole series.")
    normal = np.cross(first.row_direction, first.column_direction)
    frames.sort(key=lambda frame: float(frame.position_mm @ normal))
    lps = np.eye(4)
    lps[:3, 0] = first.row_direction * first.spacing_mm[1]
    lps[:3, 1] = first.column_direction * first.spacing_mm[0]
    lps[:3, 2] = _step_mm(path, frames, normal)
    lps[:3, 3] = frames[0].position_mm
    shape = (int(columns), int(rows), len(frames))
    return Series(tuple(frames), shape, RAS_OF_LPS @ lps)


def has_dicom_prefix(path: Path) -> bool:
    """Whether a file has the letters DICM after a preamble of 128 bytes, as DICOM files have."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _check_alike(first: Frame, frame: Frame) -> None:
    """Refuses a slice whose orientation or spacing is not that of the first one."""
    differences = (
        frame.row_direction - first.row_direction,
        frame.column_direction - first.column_direction,
        np.subtract(frame.spacing_mm, first.spacing_mm),
    )
    if any(np.abs(difference).max() > 1e-3 for difference in differences):
        raise InputError(
            f"{frame.path}: differs from {first.path.name} in orientation or spacing. Give a "
            "folder with one series."
        )


def _step_mm(
    path: Path, frames: list[Frame], normal: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The step from a slice to the next, (3,), LPS; refuses slices that are not evenly stacked."""
    distances = np.diff([float(frame.position_mm @ normal) for frame in frames])
    usual = float(np.median(distances))
    for (one, other), distance in zip(itertools.pairwise(frames), distances, strict=True):
        if distance <= _SAME_PLACE * usual or distance < 1e-4:
            raise InputError(
                f"{other.path}: is at the same place as {_name(one, other)}. Remove one of them."
            )
        if abs(distance - usual) > _UNEVEN * usual:
            count = round(distance / usual) - 1
            what = f"{count} missing" if count > 0 else "unevenly spaced"
            raise InputError(
                f"{path}: slices are {what}: {_name(one, other)} and {_name(other, one)} are "
                f"{distance:.4g} mm apart, the others {usual:.4g} mm. Complete the series."
            )
    step_mm = (frames[-1].position_mm - frames[0].position_mm) / (len(frames) - 1)
    if step_mm @ normal < _SMALLEST_COSINE * np.linalg.norm(step_mm):
        raise InputError(
            f"{path}: was taken with a tilted gantry: slices are not stacked along their normal. "
            "Resample it to a straight grid."
        )
    return step_mm


def _name(frame: Frame, other: Frame) -> str:
    """The file of a frame, or its number if the other frame is in the same file."""
    is_same_file = frame.path == other.path
    return f"frame {frame.number + 1}" if is_same_file else frame.path.name


def _read_headers(path: Path) -> list[tuple[Path, Dataset]]:
    """The headers of all DICOM files with an image, in a folder or one file."""
    try:
        import pydicom
    except ImportError as error:
        raise InputError(
            f"{path}: reading DICOM needs pydicom. Install it: pip install 'mtseg[dicom]'"
        ) from error
    try:
        files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    except OSError as error:
        raise InputError(
            f"{path}: cannot be listed ({error.strerror}). Ask for the right to read it."
        ) from error
    headers: list[tuple[Path, Dataset]] = []
    for file in files:
        # Some series lack the preamble; then their files end in .dcm.
        if not has_dicom_prefix(file) and file.suffix != ".dcm":
            continue
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, force=file.suffix == ".dcm")
        except (OSError, ValueError, EOFError, pydicom.errors.InvalidDicomError) as error:
            raise InputError(f"{file}: is a damaged DICOM file. Copy it again.") from error
        if "Rows" in header and "Columns" in header:
            headers.append((file, header))
    if not headers:
        what = "no DICOM image" if path.is_dir() else "no image"
        raise InputError(f"{path}: has {what}. Give a scan file, or the folder of a series.")
    return headers


def _frames(path: Path, dataset: Dataset) -> list[Frame]:
    """The slices of a file: one, or those of a multi-frame file."""
    try:
        if "PerFrameFunctionalGroupsSequence" not in dataset:
            return [_frame(path, 0, dataset, dataset, dataset, dataset)]
        shared = dataset.SharedFunctionalGroupsSequence[0]
        names = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
        frames = []
        for number, own in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            position, orientation, measures = (
                (own[name] if name in own else shared[name])[0] for name in names
            )
            rescaling = dataset
            for groups in (shared, own):
                if "PixelValueTransformationSequence" in groups:
                    rescaling = groups["PixelValueTransformationSequence"][0]
            frames.append(_frame(path, number, position, orientation, measures, rescaling))
        return frames
    except (AttributeError, KeyError, ValueError, TypeError, IndexError) as error:
        raise InputError(
            f"{path}: does not say where its slice is (position, orientation and pixel spacing). "
            "Give the series as the scanner wrote it."
        ) from error


def _frame(
    path: Path,
    number: int,
    position: Dataset,
    orientation: Dataset,
    measures: Dataset,
    rescaling: Dataset,
) -> Frame:
    """A slice from the parts of a header that have its position, orientation, and so on."""
    axes = np.array(orientation.ImageOrientationPatient, np.float64)
    row_mm, column_mm = (float(mm) for mm in measures.PixelSpacing)
    return Frame(
        path,
        number,
        np.array(position.ImagePositionPatient, np.float64).reshape(3),
        axes[:3].reshape(3),
        axes[3:].reshape(3),
        (row_mm, column_mm),
        float(rescaling.get("RescaleSlope", 1)),
        float(rescaling.get("RescaleIntercept", 0)),
    )


def _read_pixels(path: Path) -> npt.NDArray[Any]:
    """The stored values of a file, (frames, rows, columns)."""
    import pydicom

    try:
        dataset = pydicom.dcmread(path, force=True)
        pixels = dataset.pixel_array
    except Exception as error:  # the decoders of pydicom raise errors of any type
        raise InputError(
            f"{path}: its pixels cannot be decoded ({type(error).__name__}). Copy it again, or "
            "convert it to uncompressed DICOM."
        ) from error
    if dataset.SamplesPerPixel != 1:
        raise InputError(f"{path}: is a colour picture. Give a scan.")
    return pixels if pixels.ndim == 3 else pixels[np.newaxis]
