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
from mtseg.scans.formats.dicom_files import (
    Pixels,
    describe_series,
    read_headers,
    read_pixels,
    refusing_damage,
)
from mtseg.scans.formats.headers import RAS_OF_LPS, check_directions
from mtseg.scans.intensities import AIR_HU

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_SAME_PLACE = 0.01
"""Two slices nearer than this share of the usual distance are at the same place."""

_UNEVEN = 0.1
"""Largest difference of a distance from the usual one, as a share of the usual one."""

_SIDEWAYS = 0.2
"""Largest distance of a slice from the line of the others, as a share of a pixel."""

_LARGEST_SKEW = 0.02
"""Cosine of the angle between rows and columns. Rounding to two decimals makes less."""

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
        row_direction: (3,), unit vector along a row, in which column numbers grow, as rounded in
            the file.
        column_direction: likewise along a column, in which row numbers grow.
        spacing_mm: distance between rows, and between columns.
        slope: an intensity is the stored value times `slope` plus `intercept`; 1 if the file does
            not say it.
        intercept: see `slope`; None if the file does not say it.
    """

    path: Path
    number: int
    position_mm: npt.NDArray[np.float64]
    row_direction: npt.NDArray[np.float64]
    column_direction: npt.NDArray[np.float64]
    spacing_mm: tuple[float, float]
    slope: float
    intercept: float | None


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """The slices of one series in the order of their places.

    Attributes:
        path: the folder or file.
        frames: from the first to the last along the normal of the slices.
        shape: (columns, rows, slices).
        affine: float64 (4, 4), voxel index to RAS+ world in mm.
        is_ct: True for CT, False for MR, by the Modality of the series; None for others.
    """

    path: Path
    frames: tuple[Frame, ...]
    shape: tuple[int, int, int]
    affine: npt.NDArray[np.float64]
    is_ct: bool | None

    def read_array(self, dtype: npt.DTypeLike | None) -> npt.NDArray[Any]:
        """Reads the voxels and rescales them to intensities.

        Padding outside the field of view becomes air.

        Args:
            dtype: of the result; None is float32.

        Returns:
            (columns, rows, slices).

        Raises:
            InputError: if the pixels of a slice cannot be decoded, or those of a CT cannot be
                turned into Hounsfield units.
        """
        array = np.empty(self.shape, np.float32)
        pixels: Pixels | None = None
        opened: Path | None = None
        padded: list[tuple[int, npt.NDArray[np.bool_]]] = []
        for place, frame in enumerate(self.frames):
            if pixels is None or frame.path != opened:
                pixels, opened = read_pixels(frame.path), frame.path
                self._check_size(frame.path, pixels)
            values = pixels.intensities(frame.number, frame.slope, frame.intercept or 0.0)
            array[..., place] = values.T
            is_padding = pixels.is_padding(frame.number)
            if is_padding is not None and is_padding.any():
                padded.append((place, is_padding.T))
        self._replace_padding(array, padded)
        self._require_hounsfield_units(array, pixels)
        return array if dtype is None else array.astype(dtype, copy=False)

    def _check_size(self, path: Path, pixels: Pixels) -> None:
        of_file = [frame.number for frame in self.frames if frame.path == path]
        expected = (max(of_file) + 1, self.shape[1], self.shape[0])
        if pixels.stored.shape != expected:
            raise InputError(
                f"{path}: has pixels of shape {pixels.stored.shape}, but its header says "
                f"{expected}. Copy it again."
            )

    def _replace_padding(
        self, array: npt.NDArray[np.float32], padded: list[tuple[int, npt.NDArray[np.bool_]]]
    ) -> None:
        """Makes padding air, if it is below or above all other values of the series.

        A padding value among the others is left as it is, because some headers name one that the
        scan itself has too.
        """
        if not padded:
            return
        is_padding = np.zeros(array.shape, bool)
        for place, mask in padded:
            is_padding[..., place] = mask
        lowest = float(array.min(where=~is_padding, initial=np.inf))
        highest = float(array.max(where=~is_padding, initial=-np.inf))
        air = min(lowest, AIR_HU if self.is_ct else 0.0)
        is_padding &= (array < lowest) | (array > highest)
        array[is_padding] = air

    def _require_hounsfield_units(
        self, array: npt.NDArray[np.float32], pixels: Pixels | None
    ) -> None:
        has_table = pixels is not None and pixels.modality_lut is not None
        if not self.is_ct or has_table or all(f.intercept is not None for f in self.frames):
            return
        if array.min() >= 0:
            raise InputError(
                f"{self.path}: is a CT without RescaleIntercept, so its values are not Hounsfield "
                "units. Give the series as the scanner wrote it."
            )


def open_series(path: Path) -> Series:
    """Reads the headers of a series and puts its slices in order.

    Args:
        path: a folder with the files of one series, or one DICOM file.

    Raises:
        InputError: if there is no series or more than one; slices differ in size, spacing or
            orientation; their directions are no perpendicular unit vectors; two are at the same
            place, one is missing, or one is beside the others; the gantry was tilted.
    """
    with refusing_damage(path):
        return _order(path, read_headers(path))


def _order(path: Path, datasets: list[tuple[Path, Dataset]]) -> Series:
    """The slices of a series in the order of their places."""
    _require_one_series(path, [dataset for _, dataset in datasets])
    frames = [frame for file, dataset in datasets for frame in _frames(file, dataset)]
    (rows, columns), *others = {(d.Rows, d.Columns) for _, d in datasets}
    if others:
        raise InputError(f"{path}: its slices differ in size. Give a folder with one series.")
    first = frames[0]
    for frame in frames:
        _check_alike(first, frame)
    if len(frames) < 2:
        raise InputError(f"{path}: has a single slice. Give the folder of a whole series.")
    axes = _axes(first)
    frames.sort(key=lambda frame: float(frame.position_mm @ axes[:, 2]))
    lps = np.eye(4)
    lps[:3, :2] = axes[:, :2] * first.spacing_mm[::-1]
    lps[:3, 2] = _step_mm(path, frames, axes)
    lps[:3, 3] = frames[0].position_mm
    shape = (int(columns), int(rows), len(frames))
    is_ct = {"CT": True, "MR": False}.get(str(datasets[0][1].get("Modality")))
    return Series(path, tuple(frames), shape, RAS_OF_LPS @ lps, is_ct)


def _require_one_series(path: Path, datasets: list[Dataset]) -> None:
    """Refuses files of several series, and describes each as the scanner's console does."""
    series = Counter(str(dataset.get("SeriesInstanceUID", "")) for dataset in datasets)
    if len(series) == 1:
        return
    descriptions = {str(d.get("SeriesInstanceUID", "")): describe_series(d) for d in datasets}
    found = "; ".join(
        ", ".join(filter(None, (descriptions[uid], uid or "without number", f"{n} files")))
        for uid, n in series.items()
    )
    raise InputError(
        f"{path}: has {len(series)} series ({found}). Give a folder with the files of one, or drop "
        "this folder on the page of mtseg view, which separates them."
    )


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


def _axes(frame: Frame) -> npt.NDArray[np.float64]:
    """Unit vectors along rows, along columns and along the normal, (3, 3), a column each, LPS.

    Raises:
        InputError: if the directions of the slice are no perpendicular unit vectors.
    """
    directions = np.stack([frame.row_direction, frame.column_direction], axis=1)
    check_directions(frame.path, directions)
    row, column = (directions / np.linalg.norm(directions, axis=0)).T
    if abs(row @ column) > _LARGEST_SKEW:
        raise InputError(
            f"{frame.path}: the directions of its rows and columns are not perpendicular. Give the "
            "series as the scanner wrote it."
        )
    return np.stack([row, column, np.cross(row, column)], axis=1)


def _step_mm(
    path: Path, frames: list[Frame], axes: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The step from a slice to the next, (3,), LPS; refuses slices that are not evenly stacked."""
    normal = axes[:, 2]
    distances = np.diff([float(frame.position_mm @ normal) for frame in frames])
    starts = np.flatnonzero(np.append(True, distances >= 1e-4))
    counts = np.diff(np.append(starts, len(frames)))
    if counts[0] > 1 and np.all(counts == counts[0]):
        raise InputError(
            f"{path}: has {counts[0]} slices at each place, as of several phases, echoes or "
            "repetitions. Give a folder with one of them."
        )
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
    _require_line(path, frames, axes[:, :2])
    step_mm = (frames[-1].position_mm - frames[0].position_mm) / (len(frames) - 1)
    if step_mm @ normal < _SMALLEST_COSINE * np.linalg.norm(step_mm):
        raise InputError(
            f"{path}: was taken with a tilted gantry: slices are not stacked along their normal. "
            "Resample it to a straight grid."
        )
    return step_mm


def _require_line(path: Path, frames: list[Frame], plane: npt.NDArray[np.float64]) -> None:
    """Refuses slices whose first pixels are not on a line; `plane` has rows and columns, (3, 2)."""
    places_mm = np.array([frame.position_mm for frame in frames]) @ plane
    on_line_mm = np.linspace(places_mm[0], places_mm[-1], len(frames))
    if np.abs(places_mm - on_line_mm).max() <= _SIDEWAYS * min(frames[0].spacing_mm):
        return
    steps_mm = np.diff(places_mm, axis=0)
    jumps_mm = np.linalg.norm(steps_mm - np.median(steps_mm, axis=0), axis=1)
    widest = int(jumps_mm.argmax())
    one, other = frames[widest : widest + 2]
    raise InputError(
        f"{path}: slices are not stacked along a line: {_name(one, other)} and {_name(other, one)} "
        f"are {jumps_mm[widest]:.4g} mm apart in their plane. Give the series as the scanner wrote "
        "it."
    )


def _name(frame: Frame, other: Frame) -> str:
    """The file of a frame, or its number if the other frame is in the same file."""
    is_same_file = frame.path == other.path
    return f"frame {frame.number + 1}" if is_same_file else frame.path.name


def _frames(path: Path, dataset: Dataset) -> list[Frame]:
    """The slices of a file: one, or those of a multi-frame file."""
    num_frames = int(dataset.get("NumberOfFrames") or 1)
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    if num_frames != (1 if groups is None else len(groups)):
        said = "no place" if groups is None else f"the places of {len(groups)}"
        raise InputError(
            f"{path}: has {num_frames} frames, but its header has {said}. Give the series as the "
            "scanner wrote it."
        )
    try:
        if groups is None:
            return [_frame(path, 0, dataset, dataset, dataset, dataset)]
        shared = dataset.SharedFunctionalGroupsSequence[0]
        names = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
        frames = []
        for number, own in enumerate(groups):
            position, orientation, measures = (
                (own[name] if name in own else shared[name])[0] for name in names
            )
            rescaling = dataset
            for group in (shared, own):
                if "PixelValueTransformationSequence" in group:
                    rescaling = group["PixelValueTransformationSequence"][0]
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
    slope = _number(rescaling, "RescaleSlope")
    return Frame(
        path,
        number,
        np.array(position.ImagePositionPatient, np.float64).reshape(3),
        axes[:3].reshape(3),
        axes[3:].reshape(3),
        (row_mm, column_mm),
        1.0 if slope is None else slope,
        _number(rescaling, "RescaleIntercept"),
    )


def _number(dataset: Dataset, name: str) -> float | None:
    """A number of a header; None if it is missing or was emptied by an anonymiser."""
    value = dataset.get(name)
    return None if value is None or value == "" else float(value)
