"""Volumes: NIfTI files come in, scans on the network's grid leave, and the way back.

Read, flip to RAS+, resample to isotropic voxels, apply the one intensity rule; then restore what
was computed to the source's own grid and write it. Axes are (i, j, k); after `canonicalise` they
run left to right, posterior to anterior, inferior to superior. Oblique scans keep their own axes:
nothing is rotated.

Reference: Moeskops et al., MICCAI 2016, section 2, for the isotropic voxel sizes; the intensity
rule is this project's.
"""

from __future__ import annotations

import dataclasses
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel import orientations
from scipy import ndimage

from mtseg.errors import InputError

CT_BELOW_HU = -500.0
"""A scan with a minimum below this is taken to be CT in Hounsfield units."""

AIR_HU = -1024.0
"""Air in CT: this and anything below becomes intensity 0."""

NORMALISING_PERCENTILE = 99.0
"""Intensities are divided by this percentile of the foreground."""

CUBIC, LINEAR, NEAREST = 3, 1, 0
"""Spline orders: for scans, for probabilities, for labels."""

_SAME_SPACING = 1e-3
"""Spacings that differ relatively by less are the same, and nothing is interpolated."""


@dataclasses.dataclass(frozen=True)
class Volume:
    """Voxels and where they are.

    Attributes:
        array: (i, j, k).
        affine: float64 (4, 4), voxel index to RAS+ world in mm.
        header: the source file's, so that what is written back has its qform, sform and codes.
    """

    array: np.ndarray
    affine: np.ndarray
    header: nib.Nifti1Header | None = None

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along i, j and k."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)


@dataclasses.dataclass(frozen=True)
class PreparedScan:
    """A scan as the network sees it.

    Attributes:
        volume: float32, isotropic, RAS+, after the intensity rule; its foreground is > 0.
        source_shape: shape of the source's array.
        source_affine: the source's affine.
        source_foreground: booleans on the source's grid.
    """

    volume: Volume
    source_shape: tuple[int, ...]
    source_affine: np.ndarray
    source_foreground: np.ndarray


def read_scan(path: str | Path) -> Volume:
    """Reads a scan as float32.

    Args:
        path: a NIfTI file, in any orientation, of any integer or float type; one frame.

    Raises:
        InputError: if it is missing, no NIfTI, truncated, not three-dimensional, too large for
            this machine, or holds voxels that are not finite or not plain numbers.
    """
    image = _open(path)
    array = _load_array(image, path, np.float32)
    if not_finite := int(array.size - np.count_nonzero(np.isfinite(array))):
        raise InputError(
            f"{path}: {not_finite} voxels are not finite (NaN or infinite). Convert the scan again."
        )
    return Volume(array, image.affine, image.header)


def read_label_map(path: str | Path) -> Volume:
    """Reads a label map in the smallest of uint8, int16 and int32 that holds its labels.

    Raises:
        InputError: as for `read_scan`, and if a label is no whole number.
    """
    image = _open(path)
    array = _load_array(image, path, np.float64)
    if not np.isfinite(array).all() or (array != np.rint(array)).any():
        raise InputError(f"{path}: holds labels that are no whole numbers. Give a label map.")
    low, high = array.min(), array.max()
    for dtype in (np.uint8, np.int16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return Volume(array.astype(dtype), image.affine, image.header)
    raise InputError(f"{path}: labels reach from {low:.0f} to {high:.0f}. Give a label map.")


def _open(path: str | Path) -> Any:
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder. Give the path of a NIfTI file.")
    if not path.exists():
        raise InputError(f"{path}: no such file. Give the path of a NIfTI scan.")
    try:
        image = nib.load(path)
    except (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError) as error:
        raise InputError(f"{path}: is not a NIfTI file. Convert it to NIfTI.") from error
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(f"{path}: is damaged or no NIfTI file. Convert it again.") from error
    if not isinstance(image, nib.Nifti1Image | nib.Nifti1Pair):
        raise InputError(f"{path}: is not a NIfTI file. Convert it to NIfTI.")
    shape = image.shape
    if len(shape) < 3 or any(extent != 1 for extent in shape[3:]) or len(shape) > 4:
        raise InputError(
            f"{path}: has shape {_show(shape)}; a scan has three dimensions (or one frame). Split "
            "it into three-dimensional files."
        )
    if image.get_data_dtype().fields is not None or image.get_data_dtype().kind not in "iufb":
        raise InputError(
            f"{path}: has voxels of type {image.get_data_dtype()}. Convert it to plain numbers."
        )
    if min(shape) < 1:
        raise InputError(f"{path}: has shape {_show(shape)}: no voxel. Convert it again.")
    needed, there = int(np.prod(shape, dtype=object)) * 4, _memory_bytes()
    if needed > there:
        raise InputError(
            f"{path}: its header claims {_show(shape)} voxels, {needed / 1e9:.0f} GB; this machine "
            f"has {there / 1e9:.0f} GB. Check the file, or crop it."
        )
    affine = image.affine
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise InputError(
            f"{path}: its affine is singular or not finite, so voxels have no size or place. "
            "Convert the scan again."
        )
    return image


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _load_array(image: Any, path: str | Path, dtype: type) -> np.ndarray:
    try:
        array: np.ndarray = np.asarray(image.dataobj, dtype=dtype)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(
            f"{path}: is truncated or damaged ({type(error).__name__}). Copy or convert it again."
        ) from error
    return array.reshape(array.shape[:3])


def check_same_grid(
    image: Volume, label_map: Volume, image_path: str | Path, label_path: str | Path
) -> None:
    """Refuses a label map that is not on its scan's grid.

    Raises:
        InputError: if shapes differ, or a corner of one is more than a thousandth of a voxel from
            the other's.
    """
    same = image.array.shape == label_map.array.shape
    if same:
        corners = np.array(np.meshgrid(*[(0, n) for n in image.array.shape])).reshape(3, -1)
        difference = (image.affine - label_map.affine)[:3]
        apart = np.abs(difference[:, :3] @ corners + difference[:, 3:]).max()
        same = bool(apart <= 1e-3 * min(image.spacing_mm))
    if not same:
        raise InputError(
            f"{label_path}: is on another grid than {image_path}: shape "
            f"{_show(label_map.array.shape)} and affine {_show_affine(label_map.affine)}, against "
            f"{_show(image.array.shape)} and {_show_affine(image.affine)}. Resample the label map "
            "to the scan's grid."
        )


def _show(shape: Sequence[int]) -> str:
    return "×".join(str(extent) for extent in shape)


def _show_affine(affine: np.ndarray) -> str:
    rows = ["[" + " ".join(f"{value:g}" for value in row) + "]" for row in affine[:3]]
    return "[" + " ".join(rows) + "]"


def canonicalise(volume: Volume) -> Volume:
    """Flips and swaps axes so that they are closest to RAS+; no voxel changes its value or place.

    Returns:
        The volume with the affine that belongs to the new axes, and no header.
    """
    to_ras = orientations.io_orientation(volume.affine)
    array = orientations.apply_orientation(volume.array, to_ras)
    affine = volume.affine @ orientations.inv_ornt_aff(to_ras, volume.array.shape)
    return Volume(np.ascontiguousarray(array), affine)


def resample(volume: Volume, spacing_mm: float, order: int) -> Volume:
    """Resamples to isotropic voxels along the volume's own axes.

    The field of view keeps its centre; its extent is that of the source to half a voxel. Beyond
    the border the border's value is repeated. A volume that has the spacing already is returned
    as it is.

    Args:
        volume: (i, j, k), any spacing.
        spacing_mm: of the result, along each axis.
        order: `CUBIC`, `LINEAR` or `NEAREST`.

    Returns:
        A volume of the same dtype.
    """
    if np.allclose(volume.spacing_mm, spacing_mm, rtol=_SAME_SPACING, atol=0):
        return volume
    shape = tuple(
        max(1, round(extent * spacing / spacing_mm))
        for extent, spacing in zip(volume.array.shape, volume.spacing_mm, strict=True)
    )
    step = spacing_mm / np.array(volume.spacing_mm)
    first = _first_index(volume.array.shape, shape, step)
    affine = volume.affine.copy()
    affine[:3, :3] *= step
    affine[:3, 3] += volume.affine[:3, :3] @ first
    return Volume(_interpolate(volume.array, shape, step, first, order), affine)


def _first_index(source_shape: Sequence[int], shape: Sequence[int], step: np.ndarray) -> np.ndarray:
    """Where, in source voxels, the first voxel of a grid with the same centre lies."""
    return (np.array(source_shape) - 1) / 2 - (np.array(shape) - 1) / 2 * step


def _interpolate(
    array: np.ndarray, shape: Sequence[int], step: np.ndarray, first: np.ndarray, order: int
) -> np.ndarray:
    return ndimage.affine_transform(
        array,
        step,
        offset=first,
        output_shape=tuple(shape),
        output=array.dtype,
        order=order,
        mode="nearest",
    )


def looks_like_ct(array: np.ndarray) -> bool:
    """Whether intensities are taken to be Hounsfield units."""
    return bool(array.min() < CT_BELOW_HU)


def prepare_scan(
    scan: Volume, spacing_mm: float | None = None, is_ct: bool | None = None
) -> PreparedScan:
    """Brings a scan to the network's grid and intensities.

    Foreground is what is > 0 on the source's own grid, after air in CT has become 0. It is
    resampled as a mask, and inside it a spline's overshoot is cut off at the foreground's own
    lowest and highest value, so interpolation neither adds nor removes foreground.

    Args:
        scan: from `read_scan`.
        spacing_mm: of the result; None is the scan's finest voxel size.
        is_ct: whether intensities are Hounsfield units; None lets the scan's minimum decide.

    Raises:
        InputError: if no voxel is > 0.
    """
    canonical = canonicalise(scan)
    array = canonical.array.astype(np.float32, copy=False)
    if looks_like_ct(array) if is_ct is None else is_ct:
        array = np.maximum(array - np.float32(AIR_HU), 0)
    foreground = array > 0
    if not foreground.any():
        raise InputError(
            "every voxel is 0 or below, so there is nothing to segment. Check the scan."
        )
    spacing = min(canonical.spacing_mm) if spacing_mm is None else spacing_mm
    lowest, highest = array[foreground].min(), array[foreground].max()
    image = resample(Volume(array, canonical.affine), spacing, CUBIC)
    mask = resample(Volume(foreground.astype(np.uint8), canonical.affine), spacing, NEAREST)
    inside = mask.array > 0
    values = np.clip(image.array, lowest, highest)
    values[~inside] = 0
    if inside.any():  # a foreground of single voxels may fall between those of a coarse grid
        values /= np.percentile(values[inside], NORMALISING_PERCENTILE).astype(np.float32)
    to_ras = orientations.io_orientation(scan.affine)
    return PreparedScan(
        volume=Volume(values, image.affine),
        source_shape=scan.array.shape,
        source_affine=scan.affine,
        source_foreground=_undo(foreground, to_ras),
    )


def prepare_label_map(label_map: Volume, prepared: PreparedScan) -> np.ndarray:
    """Brings a label map to its prepared scan's grid, by nearest neighbour.

    Returns:
        (I, J, K) of the label map's dtype, 0 outside the foreground.
    """
    resampled = resample(canonicalise(label_map), prepared.volume.spacing_mm[0], NEAREST)
    return np.where(prepared.volume.array > 0, resampled.array, resampled.array.dtype.type(0))


def restore(array: np.ndarray, prepared: PreparedScan, order: int) -> np.ndarray:
    """Brings what was computed on the prepared grid back to the source's own.

    Args:
        array: (I, J, K) on the prepared grid.
        prepared: the scan that it was computed for.
        order: `NEAREST` for labels, `LINEAR` for a class's probabilities.

    Returns:
        The source's shape and axes, of the array's dtype.
    """
    to_ras = orientations.io_orientation(prepared.source_affine)
    # The source's shape once its axes are in RAS+ order.
    shape = tuple(np.array(prepared.source_shape)[np.argsort(to_ras[:, 0])])
    source_spacing = np.linalg.norm(prepared.source_affine[:3, :3], axis=0)
    spacing = source_spacing[np.argsort(to_ras[:, 0])]
    step = spacing / prepared.volume.spacing_mm[0]
    if not np.allclose(step, 1, rtol=_SAME_SPACING, atol=0):
        first = _first_index(array.shape, shape, step)
        array = _interpolate(array, shape, step, first, order)
    return _undo(array, to_ras)


def _undo(array: np.ndarray, to_ras: np.ndarray) -> np.ndarray:
    """Turns an array in RAS+ order back to the axes that `to_ras` came from."""
    ras = np.array([[0, 1], [1, 1], [2, 1]])
    back = orientations.ornt_transform(ras, to_ras)
    return np.ascontiguousarray(orientations.apply_orientation(array, back))


def write_label_map(path: str | Path, labels: np.ndarray, source: Volume) -> None:
    """Writes labels as NIfTI on their scan's own grid.

    Args:
        path: `.nii.gz` or `.nii`; the file appears whole, by one rename.
        labels: integers in the source's shape; uint8, or int16 if a label is above 255.
        source: the scan, whose qform, sform and codes the file gets.
    """
    _write(path, labels.astype(np.uint8 if labels.max() <= 255 else np.int16), source)


def write_probabilities(path: str | Path, probabilities: np.ndarray, source: Volume) -> None:
    """Writes probabilities as 4-D NIfTI, (i, j, k, class) float32, on their scan's own grid."""
    _write(path, probabilities.astype(np.float32), source)


def _write(path: str | Path, array: np.ndarray, source: Volume) -> None:
    path = Path(path)
    image = nib.Nifti1Image(array, source.affine)
    if source.header is not None:
        for name in ("qform", "sform"):
            affine, code = getattr(source.header, f"get_{name}")(coded=True)
            getattr(image, f"set_{name}")(affine, int(code), update_affine=False)
        image.header.set_xyzt_units(*source.header.get_xyzt_units())
    aside = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        nib.save(image, aside)
        os.replace(aside, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}).") from error
    finally:
        aside.unlink(missing_ok=True)
