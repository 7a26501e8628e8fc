"""Reading a DICOM series: a folder of slices, or one multi-frame file.

The place of a slice comes from its own position and orientation, never from a file name or an
instance number.

Reference: DICOM PS3.3, C.7.6.2 (Image Plane) and C.7.6.16 (Multi-frame Functional Groups).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from mtseg.errors import InputError
from mtseg.scans.formats.headers import RAS_OF_LPS

DICOM_ENDING = ".dcm"

_SAME_PLACE = 0.01
"""Slices that are nearer to each other than this share of their usual distance are at one place."""


_UNEVEN = 0.1
"""Largest difference of a distance from the usual one, as a share of it."""


_LEAST_COSINE = 0.9998
"""Slices are stacked along their normal to about a degree; more is a tilted gantry."""


@dataclasses.dataclass(frozen=True)
class Frame:
    """A slice: where it is and how its stored values become intensities.

    Attributes:
        path: its file.
        number: of the frame in the file, from 0.
        position: (3,) of the first pixel's centre, in mm, LPS.
        row_axis: (3,) in the direction in which columns count.
        column_axis: (3,) in the direction in which rows count.
        spacing_mm: between rows, between columns.
        slope: of the rescaling.
        intercept: of the rescaling.
    """

    path: Path
    number: int
    position: np.ndarray
    row_axis: np.ndarray
    column_axis: np.ndarray
    spacing_mm: tuple[float, float]
    slope: float
    intercept: float


@dataclasses.dataclass(frozen=True)
class Series:
    """The slices of one series, in the order of their places.

    Attributes:
        frames: from the first along the normal to the last.
        shape: (columns, rows, slices).
        affine: float64 (4, 4), voxel index to RAS+ world in mm.
    """

    frames: tuple[Frame, ...]
    shape: tuple[int, int, int]
    affine: np.ndarray

    def read_array(self, dtype: type | None) -> np.ndarray:
        """Reads the voxels, rescaled to intensities.

        Returns:
            (columns, rows, slices) of the type asked for; None is float32.

        Raises:
            InputError: if a slice's pixels cannot be decoded.
        """
        array: np.ndarray = np.empty(self.shape, dtype or np.float32)
        pixels: np.ndarray = np.empty(0)
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
        path: a folder that holds one series, or one DICOM file.

    Raises:
        InputError: if there is no or more than one series, slices differ in size, spacing or
            orientation, two are at one place, or one is missing.
    """
    datasets = _read_headers(path)
    series = Counter(str(d.get("SeriesInstanceUID", "")) for _, d in datasets)
    if len(series) > 1:
        found = "; ".join(f"{uid or 'without number'}, {n} files" for uid, n in series.items())
        raise InputError(
            f"{path}: holds {len(series)} series ({found}). Give a folder with the files of one."
        )
    frames = [frame for file, dataset in datasets for frame in _frames(file, dataset)]
    (rows, columns), *others = {(d.Rows, d.Columns) for _, d in datasets}
    if others:
        raise InputError(f"{path}: its slices differ in size. Give a folder with one series.")
    first = frames[0]
    for frame in frames:
        axes = np.concatenate([frame.row_axis, frame.column_axis])
        if (
            np.abs(axes - np.concatenate([first.row_axis, first.column_axis])).max() > 1e-3
            or np.abs(np.subtract(frame.spacing_mm, first.spacing_mm)).max() > 1e-3
        ):
            raise InputError(
                f"{frame.path}: differs from {first.path.name} in orientation or spacing. Give a "
                "folder with one series."
            )
    if len(frames) < 2:
        raise InputError(f"{path}: has a single slice. Give the folder of a whole series.")
    normal = np.cross(first.row_axis, first.column_axis)
    frames.sort(key=lambda frame: float(frame.position @ normal))
    step = _check_places(path, frames, normal)
    lps = np.eye(4)
    lps[:3, 0] = first.row_axis * first.spacing_mm[1]
    lps[:3, 1] = first.column_axis * first.spacing_mm[0]
    lps[:3, 2] = step
    lps[:3, 3] = frames[0].position
    shape = (int(columns), int(rows), len(frames))
    return Series(tuple(frames), shape, RAS_OF_LPS @ lps)


def has_dicom_prefix(path: Path) -> bool:
    """Whether a file begins as DICOM files do."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _check_places(path: Path, frames: list[Frame], normal: np.ndarray) -> np.ndarray:
    """Refuses slices that are not evenly stacked; returns the step from one to the next, in mm."""
    places = np.array([frame.position @ normal for frame in frames])
    distances = np.diff(places)
    usual = float(np.median(distances))
    for (one, other), distance in zip(itertools.pairwise(frames), distances, strict=True):
        if distance <= _SAME_PLACE * usual or distance < 1e-4:
            raise InputError(
                f"{other.path}: is at the same place as {_name(one, other)}. Leave one of them out."
            )
        if abs(distance - usual) > _UNEVEN * usual:
            count = round(distance / usual) - 1
            what = f"{count} missing" if count > 0 else "unevenly spaced"
            raise InputError(
                f"{path}: slices are {what}: {_name(one, other)} and {_name(other, one)} are "
                f"{distance:.4g} mm apart, the others {usual:.4g} mm. Complete the series."
            )
    step = (frames[-1].position - frames[0].position) / (len(frames) - 1)
    if step @ normal < _LEAST_COSINE * np.linalg.norm(step):
        raise InputError(
            f"{path}: was taken with a tilted gantry: slices are not stacked along their normal. "
            "Resample it to a straight grid."
        )
    return step


def _name(frame: Frame, other: Frame) -> str:
    is_same_file = frame.path == other.path
    return f"frame {frame.number + 1}" if is_same_file else frame.path.name


def _read_headers(path: Path) -> list[tuple[Path, Any]]:
    """The headers of a folder's DICOM files that hold an image."""
    try:
        import pydicom
    except ImportError as error:
        raise InputError(
            f"{path}: reading DICOM needs pydicom. Install it: pip install 'mtseg[dicom]'"
        ) from error
    try:
        files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    except OSError as error:
        raise InputError(f"{path}: cannot be listed ({error.strerror}).") from error
    headers = []
    for file in files:
        # Not every series comes with the preamble, but then its files are called .dcm.
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
        raise InputError(f"{path}: holds {what}. Give a scan file, or the folder of a series.")
    return headers


def _frames(path: Path, dataset: Any) -> list[Frame]:
    """The slices of a file: one, or one for each frame."""
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
    path: Path, number: int, position: Any, orientation: Any, measures: Any, rescaling: Any
) -> Frame:
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


def _read_pixels(path: Path) -> np.ndarray:
    """The stored values of a file, (frames, rows, columns)."""
    import pydicom

    try:
        pixels = pydicom.dcmread(path, force=True).pixel_array
    except Exception as error:  # its decoders raise whatever they like
        raise InputError(
            f"{path}: its pixels cannot be decoded ({type(error).__name__}). Copy it again, or "
            "convert it to uncompressed DICOM."
        ) from error
    if pixels.ndim == 4 or (pixels.ndim == 3 and pixels.shape[-1] in (3, 4)):
        raise InputError(f"{path}: is a colour picture. Give a scan.")
    return pixels if pixels.ndim == 3 else pixels[np.newaxis]
