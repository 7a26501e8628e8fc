"""Volumes: voxels and their places, on another grid or in other axes; label files are written.

Axes are (i, j, k); after `canonicalise` they run left to right, posterior to anterior, inferior to
superior. Oblique scans keep their own axes: nothing is rotated.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel import orientations

from mtseg import memory
from mtseg.aside import written_aside
from mtseg.errors import InputError
from mtseg.resampling import first_index, interpolate

_SAME_SPACING = 1e-3
"""Spacings that differ relatively by less are the same, and nothing is interpolated."""

_PLACE_FIELDS = ("qform", "quatern", "qoffset", "sform", "srow", "xyzt_units")
"""How the names of a header's fields begin that say, beside `pixdim`, where voxels are."""


@dataclasses.dataclass(frozen=True)
class Volume:
    """Voxels and where they are.

    Attributes:
        array: (i, j, k).
        affine: float64 (4, 4), voxel index to RAS+ world in mm.
        header: of a NIfTI source file, so that what is written back has its qform, sform and codes.
    """

    array: np.ndarray
    affine: np.ndarray
    header: nib.Nifti1Header | None = None

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along i, j and k."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)


def label_type(labels: np.ndarray, path: str | Path) -> type[np.signedinteger | np.uint8]:
    """The smallest of uint8, int16 and int32 that holds labels.

    Raises:
        InputError: if none does.
    """
    low, high = int(labels.min()), int(labels.max())
    for dtype in (np.uint8, np.int16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return dtype
    raise InputError(f"{path}: labels reach from {low} to {high}. Give a label map.")


def too_large(shape: Sequence[int], voxel_bytes: int = 4) -> str:
    """Says how much memory an array takes, if this machine cannot hold it; or nothing."""
    # All of the memory: what the system calls free leaves out what it would give back.
    there = memory.total_bytes()
    if (needed := math.prod(shape) * voxel_bytes) <= there:
        return ""
    return f"{shape} voxels, {needed / 1e9:.0f} GB, where there are {there / 1e9:.0f} GB"


def check_same_grid(
    image: Volume, label_map: Volume, image_path: str | Path, label_path: str | Path
) -> None:
    """Refuses a label map that is not on its scan's grid.

    Raises:
        InputError: if shapes differ, or corners are more than a thousandth of a voxel apart.
    """
    shapes = image.array.shape, label_map.array.shape
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in shapes[0]])).reshape(3, -1)
    difference = (image.affine - label_map.affine)[:3]
    apart = np.linalg.norm(difference[:, :3] @ corners + difference[:, 3:], axis=0).max()
    if shapes[0] != shapes[1] or apart > 1e-3 * min(image.spacing_mm):
        raise InputError(
            f"{label_path}: is on another grid than {image_path}: shape {shapes[1]}, affine "
            f"{label_map.affine[:3].round(4).tolist()}, against {shapes[0]}, "
            f"{image.affine[:3].round(4).tolist()}, {apart:.2g} mm apart. Resample it."
        )


def canonicalise(volume: Volume) -> Volume:
    """Flips and swaps axes so that they are closest to RAS+; no voxel changes its value or place.

    The affine is that of the new axes; there is no header. The array is a view of the given one.
    """
    to_ras = orientations.io_orientation(volume.affine)
    affine = volume.affine @ orientations.inv_ornt_aff(to_ras, volume.array.shape)
    return Volume(orientations.apply_orientation(volume.array, to_ras), affine)


def decanonicalise(array: np.ndarray, source_affine: np.ndarray) -> np.ndarray:
    """Undoes `canonicalise`: a view of an array (I, J, K) in the axes of its source's affine."""
    ras = np.array([[0, 1], [1, 1], [2, 1]])
    back = orientations.ornt_transform(ras, orientations.io_orientation(source_affine))
    return orientations.apply_orientation(array, back)


def resample(volume: Volume, spacing_mm: float, order: int) -> Volume:
    """Resamples to isotropic voxels along the volume's own axes.

    The field of view keeps its centre; its extent is that of the source to half a voxel. Beyond
    the border the border's value is repeated. A volume that has the spacing already is returned
    as it is.

    Args:
        volume: (i, j, k), any spacing.
        spacing_mm: of the result, along each axis.
        order: `CUBIC`, `LINEAR` or `NEAREST` of `mtseg.resampling`.

    Returns:
        A volume of the same dtype, without header.

    Raises:
        InputError: if the spacing is not positive, or memory cannot hold the result.
    """
    shape = resampled_shape(volume.array.shape, volume.spacing_mm, spacing_mm)
    if shape is None:
        return volume
    step = spacing_mm / np.array(volume.spacing_mm)
    if fault := too_large(shape):
        raise InputError(f"at {spacing_mm:g} mm it has {fault}. Give a larger voxel size.")
    affine = volume.affine.copy()
    affine[:3, :3] *= step
    affine[:3, 3] += volume.affine[:3, :3] @ first_index(volume.array.shape, shape, step)
    # By the new affine, as whoever has no more than that computes it: a tie must fall alike.
    step = np.divide(Volume(volume.array, affine).spacing_mm, volume.spacing_mm)
    return Volume(interpolate(volume.array, shape, step, order), affine)


def resampled_shape(
    shape: Sequence[int], spacing_mm: Sequence[float], new_mm: float
) -> tuple[int, ...] | None:
    """The shape at another spacing; None if it is the same spacing."""
    if not 1e-6 < new_mm < math.inf:  # NaN neither
        raise InputError(f"a voxel size of {new_mm:g} mm is none. Give millimetres above 0.")
    if np.allclose(spacing_mm, new_mm, rtol=_SAME_SPACING, atol=0):
        return None
    extents = np.array(shape) * spacing_mm / new_mm
    return tuple(max(1, round(extent)) for extent in extents.tolist())


def require_shape(array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"the array has shape {array.shape}, its grid has {shape}")


def write_label_map(path: str | Path, labels: np.ndarray, source: Volume) -> None:
    """Writes labels as NIfTI on their scan's own grid.

    Args:
        path: `.nii.gz` or `.nii`; the file appears whole, by one rename.
        labels: integers in the source's shape; stored as uint8, int16 or int32, as they need.
        source: the scan, whose qform, sform, codes and units the file gets.

    Raises:
        InputError: if the file cannot be written; nothing is left of it.
    """
    _write(path, labels.astype(label_type(labels, path)), source)


def _write(path: str | Path, array: np.ndarray, source: Volume) -> None:
    path = Path(path)
    require_shape(array, source.array.shape)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise InputError(f"{path}: is no name for a NIfTI file. End it in .nii.gz or .nii.")
    image = nib.Nifti1Image(array, None, make_header(source, array.shape, array.dtype))
    try:
        with written_aside(path) as aside:
            nib.save(image, aside)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}).") from error


def make_header(
    source: Volume, shape: Sequence[int], dtype: np.typing.DTypeLike
) -> nib.Nifti1Header:
    """The header of a file on a scan's own grid.

    Args:
        source: the scan, whose qform, sform, codes and units the header gets.
        shape: of the file; its first three sizes are the scan's.
        dtype: of the file's voxels.
    """
    header = nib.Nifti1Image(np.empty((1, 1, 1), dtype), source.affine).header
    header.set_data_shape(shape)
    if source.header is not None:
        # As they are stored: some that can be read could not be computed anew.
        for field in source.header:
            if field.startswith(_PLACE_FIELDS):
                header[field] = source.header[field]
        header["pixdim"][:4] = source.header["pixdim"][:4]
    return header
