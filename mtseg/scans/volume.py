"""A volume: an array of voxels and the affine that says where they are.

Everything that reads, resamples or writes scans uses `Volume`. World coordinates are RAS+: x grows
to the right, y to the front, z to the top, in mm. A volume may have any axes; `to_ras` turns it so
that its axes i, j and k are closest to x, y and z, and `from_ras` turns an array back.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel import orientations
from nibabel.affines import voxel_sizes

from mtseg.errors import InputError
from mtseg.system import hardware

_SAME_PLACE = 1e-3
"""Share of a voxel by which two grids may be apart and still be the same."""


@dataclasses.dataclass(frozen=True, eq=False)
class Volume:
    """An array of voxels and where they are.

    Attributes:
        array: (i, j, k).
        affine: float64 (4, 4), voxel index to RAS+ world in mm.
        header: of the NIfTI file it was read from, so that a file written on the same grid gets
            its qform, sform and codes; else None.
        is_ct: whether its file says that it is CT (True) or MR (False); None if it says neither.
    """

    array: npt.NDArray[Any]
    affine: npt.NDArray[np.float64]
    header: nib.Nifti1Header | None = None
    is_ct: bool | None = None

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along i, j and k."""
        i, j, k = voxel_sizes(self.affine)
        return float(i), float(j), float(k)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in ml, also of a sheared grid (gantry tilt)."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000


def to_ras(volume: Volume) -> Volume:
    """Flips and swaps axes so that they are closest to RAS+; nothing is interpolated.

    Returns:
        The volume with every value at its place in the world, without header. Its array is a view.

    Example:
        >>> volume = Volume(np.array([[[1, 2]]]), np.diag([1.0, 1.0, -3.0, 1.0]))
        >>> to_ras(volume).array.tolist()
        [[[2, 1]]]
    """
    orientation = orientations.io_orientation(volume.affine)
    affine = volume.affine @ orientations.inv_ornt_aff(orientation, volume.array.shape)
    array = orientations.apply_orientation(volume.array, orientation)
    return Volume(array, affine, is_ct=volume.is_ct)


def from_ras(array: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    """Undoes `to_ras` for an array on its grid.

    Args:
        array: (I, J, K) with the axes of `to_ras`.
        affine: of the volume that `to_ras` has turned, before it was turned.

    Returns:
        A view of the array with the axes of that volume.
    """
    ras = np.array([[0, 1], [1, 1], [2, 1]])
    orientation = orientations.ornt_transform(ras, orientations.io_orientation(affine))
    turned: npt.NDArray[Any] = orientations.apply_orientation(array, orientation)
    return turned


def match_grid(
    image: Volume, label_map: Volume, image_path: str | Path, label_path: str | Path
) -> Volume:
    """The label map with the axes of its scan.

    Programs store the same grid with axes in another order or direction. That moves no voxel in
    the world, so such a label map is flipped and swapped.

    Args:
        image: the scan.
        label_map: its label map.
        image_path: of the scan, for the message.
        label_path: of the label map, for the message.

    Raises:
        InputError: if the label map is on another grid than the scan.
    """
    if orientations.aff2axcodes(image.affine) != orientations.aff2axcodes(label_map.affine):
        in_ras = to_ras(label_map)
        turned = from_ras(in_ras.array, image.affine)
        if turned.shape == image.array.shape:
            orientation = orientations.io_orientation(image.affine)
            ras_of_turned = np.linalg.inv(orientations.inv_ornt_aff(orientation, turned.shape))
            label_map = Volume(turned, in_ras.affine @ ras_of_turned)
    check_same_grid(image, label_map, image_path, label_path)
    return label_map


def check_same_grid(
    image: Volume, label_map: Volume, image_path: str | Path, label_path: str | Path
) -> None:
    """Refuses a label map that is not on the grid of its scan.

    Raises:
        InputError: if shapes differ, or corners are more than a thousandth of a voxel apart.
    """
    shapes = image.array.shape, label_map.array.shape
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in shapes[0]])).reshape(3, -1)
    difference = (image.affine - label_map.affine)[:3]
    apart_mm = np.linalg.norm(difference[:, :3] @ corners + difference[:, 3:], axis=0).max()
    if shapes[0] != shapes[1] or apart_mm > _SAME_PLACE * min(image.spacing_mm):
        raise InputError(
            f"{label_path}: is on another grid than {image_path}: shape {shapes[1]} and affine "
            f"{label_map.affine[:3].round(4).tolist()}, not {shapes[0]} and "
            f"{image.affine[:3].round(4).tolist()}; {apart_mm:.2g} mm apart. Resample the label "
            "map to the grid of the scan."
        )


def require_shape(array: npt.NDArray[Any], shape: tuple[int, ...]) -> None:
    """Raises a ValueError, as a mistake of the caller, if an array has another shape."""
    if array.shape != shape:
        raise ValueError(f"the array has shape {array.shape}, its grid has {shape}")


def memory_shortage(shape: Sequence[int], voxel_bytes: int = 4) -> str:
    """Says that an array is too large for this machine, for use in a message; else "".

    Args:
        shape: of the array.
        voxel_bytes: size of its voxels; 4 for float32.

    Returns:
        Such as `(3000, 3000, 3000) voxels, 108 GB, but this machine has 16 GB`.
    """
    # All of the memory: what the system reports as free leaves out caches that it would give up.
    total = hardware.total_bytes()
    if (needed := math.prod(shape) * voxel_bytes) <= total:
        return ""
    return f"{shape} voxels, {needed / 1e9:.0f} GB, but this machine has {total / 1e9:.0f} GB"
