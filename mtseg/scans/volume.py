"""A volume: an array of voxels and where they are in the world."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel import orientations
from nibabel.affines import voxel_sizes

from mtseg.errors import InputError
from mtseg.system import hardware

SAME_SPACING = 1e-3
"""Spacings that differ relatively by less are the same, and nothing is interpolated."""


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
        i, j, k = voxel_sizes(self.affine)
        return float(i), float(j), float(k)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in ml, also of a sheared grid (gantry tilt)."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000


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
    there = hardware.total_bytes()
    if (needed := math.prod(shape) * voxel_bytes) <= there:
        return ""
    return f"{shape} voxels, {needed / 1e9:.0f} GB, where there are {there / 1e9:.0f} GB"


def match_grid(
    image: Volume, label_map: Volume, image_path: str | Path, label_path: str | Path
) -> Volume:
    """The label map in the axes of its scan.

    Programs store the same grid with other axes, flipped or swapped; no voxel moves by that.

    Raises:
        InputError: if the label map is on another grid.
    """
    if orientations.aff2axcodes(image.affine) != orientations.aff2axcodes(label_map.affine):
        in_ras = to_ras(label_map)
        turned = from_ras(in_ras.array, image.affine)
        orientation = orientations.io_orientation(image.affine)
        if turned.shape == image.array.shape:
            affine = in_ras.affine @ np.linalg.inv(
                orientations.inv_ornt_aff(orientation, image.array.shape)
            )
            label_map = Volume(turned, affine)
    check_same_grid(image, label_map, image_path, label_path)
    return label_map


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


def to_ras(volume: Volume) -> Volume:
    """Flips and swaps axes so that they are closest to RAS+; no voxel changes its value or place.

    The affine is that of the new axes; there is no header. The array is a view of the given one.
    """
    orientation = orientations.io_orientation(volume.affine)
    affine = volume.affine @ orientations.inv_ornt_aff(orientation, volume.array.shape)
    return Volume(orientations.apply_orientation(volume.array, orientation), affine)


def from_ras(array: np.ndarray, source_affine: np.ndarray) -> np.ndarray:
    """Undoes `to_ras`: a view of an array (I, J, K) in the axes of its source's affine."""
    ras = np.array([[0, 1], [1, 1], [2, 1]])
    back = orientations.ornt_transform(ras, orientations.io_orientation(source_affine))
    return orientations.apply_orientation(array, back)


def require_shape(array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"the array has shape {array.shape}, its grid has {shape}")
