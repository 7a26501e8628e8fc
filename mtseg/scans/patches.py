"""Drawing voxels of a prepared volume, and cutting the triplanar patches around them.

Arrays have axes (i, j, k) in RAS+: i counts to the right, j to the front, k to the top. Planes are
always in the order axial, coronal, sagittal.

Reference: Moeskops et al., MICCAI 2016, sections 3.1 (patches) and 3.2 (balanced samples).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

PATCH_SIZE = 51
"""Voxels along each side of a patch (section 3.1)."""

PLANES = ("axial", "coronal", "sagittal")
"""The order of the planes everywhere in mtseg."""

PLANE_AXES = ((0, 1), (0, 2), (1, 2))
"""For each of `PLANES`, the axes of a volume that are the rows and the columns of a patch."""


def choose_voxels(
    class_index_map: npt.NDArray[np.integer],
    foreground: npt.NDArray[np.bool_],
    *,
    per_class: int,
    num_classes: int,
    rng: np.random.Generator,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Draws up to `per_class` foreground voxels of every class, without replacement (section 3.2).

    Args:
        class_index_map: integers (I, J, K), 0 for background.
        foreground: booleans (I, J, K), true where the intensity is > 0. Only these voxels are
            drawn.
        per_class: number of voxels of each class. Of a class with fewer, all are taken.
        num_classes: of the task, background included.
        rng: source of all randomness.

    Returns:
        `(index_ijk, class_index)`: int64 (n, 3) and int64 (n,), ordered by class and then by
        position. A class that the subject does not have is in neither; an empty foreground gives
        n = 0.
    """
    # The foreground is searched once, not the volume once for every class.
    flat_foreground = np.flatnonzero(foreground)
    flat_classes = class_index_map.ravel()[flat_foreground]
    chosen, classes = [], []
    for class_index in range(num_classes):
        candidates = flat_foreground[flat_classes == class_index]
        picked = rng.choice(candidates, size=min(per_class, candidates.size), replace=False)
        chosen.append(np.sort(picked))
        classes.append(np.full(picked.size, class_index, np.int64))
    index_ijk = np.stack(np.unravel_index(np.concatenate(chosen), foreground.shape), axis=1)
    return index_ijk.astype(np.int64), np.concatenate(classes)


def pad_volume(
    array: npt.NDArray[Any], patch_size: int = PATCH_SIZE, dtype: npt.DTypeLike | None = None
) -> npt.NDArray[Any]:
    """Pads a volume with half a patch of zeros on every side, so every voxel can be a centre.

    Args:
        array: (I, J, K).
        patch_size: odd number of voxels.
        dtype: of the result; None is that of the array.

    Returns:
        (I + patch_size - 1, J + patch_size - 1, K + patch_size - 1).
    """
    half = patch_size // 2
    padded = np.zeros([size + 2 * half for size in array.shape], dtype or array.dtype)
    padded[tuple(slice(half, half + size) for size in array.shape)] = array
    return padded


def cut_patches(
    padded: npt.NDArray[Any], index_ijk: npt.NDArray[np.integer], patch_size: int = PATCH_SIZE
) -> npt.NDArray[Any]:
    """Cuts the three orthogonal patches around each voxel (section 3.1).

    Args:
        padded: a volume padded by `pad_volume` for the same `patch_size`. Beyond the border of the
            scan a patch is 0.
        index_ijk: integers (n, 3), voxels of the volume before padding.
        patch_size: odd number of voxels.

    Returns:
        (n, 3, patch_size, patch_size) of the volume's dtype. Axis 1 is `PLANES`: axial has rows
        i and columns j, coronal i and k, sagittal j and k.

    Raises:
        ValueError: if `patch_size` is even: such a patch has no centre voxel.

    Example:
        >>> volume = np.arange(27).reshape(3, 3, 3)
        >>> patches = cut_patches(pad_volume(volume, 3), np.array([[1, 1, 1]]), 3)
        >>> patches[0, 0].tolist() == volume[:, :, 1].tolist()
        True
    """
    if patch_size % 2 == 0:
        raise ValueError(f"patch_size must be odd, not {patch_size}.")
    half = patch_size // 2
    patches = np.empty((len(index_ijk), len(PLANES), patch_size, patch_size), padded.dtype)
    for plane, axes in enumerate(PLANE_AXES):
        (normal,) = {0, 1, 2} - set(axes)
        for patch, index in zip(patches[:, plane], index_ijk, strict=True):
            window: list[int | slice] = [slice(n, n + patch_size) for n in index]
            window[normal] = int(index[normal]) + half
            patch[:] = padded[tuple(window)]
    return patches


def cut_turned_patches(
    padded: npt.NDArray[Any],
    index_ijk: npt.NDArray[np.integer],
    transforms: npt.NDArray[np.floating],
    patch_size: int = PATCH_SIZE,
) -> npt.NDArray[np.float32]:
    """Cuts patches like `cut_patches` from a grid that is turned and scaled about each voxel.

    Args:
        padded: a volume padded by `pad_volume` for the same `patch_size`. Beyond it a patch is 0.
        index_ijk: integers (n, 3), voxels of the volume before padding.
        transforms: (n, 3, 3), from a voxel's offset in the patches to that in the volume.
        patch_size: odd number of voxels.

    Returns:
        float32 (n, 3, patch_size, patch_size), interpolated linearly.

    Example:
        >>> volume = pad_volume(np.arange(27).reshape(3, 3, 3), 3)
        >>> half_turn = np.diag([-1.0, -1.0, 1.0])[np.newaxis]
        >>> patches = cut_turned_patches(volume, np.array([[1, 1, 1]]), half_turn, 3)
        >>> patches[0, 0].astype(int).tolist()
        [[25, 22, 19], [16, 13, 10], [7, 4, 1]]
    """
    half = patch_size // 2
    offsets = np.zeros((len(PLANES), patch_size, patch_size, 3), np.float32)
    along = np.arange(-half, half + 1)
    for plane, (rows, columns) in enumerate(PLANE_AXES):
        offsets[plane, ..., rows] = along[:, np.newaxis]
        offsets[plane, ..., columns] = along
    turned = np.einsum("nab,prcb->anprc", transforms.astype(np.float32), offsets)
    centres = (index_ijk.T + half).astype(np.float32)
    places = turned + centres[:, :, np.newaxis, np.newaxis, np.newaxis]
    low = np.floor(places)
    last = np.array(padded.shape, np.float32)[:, np.newaxis, np.newaxis, np.newaxis, np.newaxis] - 2
    is_inside = ((low >= 0) & (low <= last)).all(axis=0)
    low = np.clip(low, 0, last)
    above_i, above_j, above_k = places - low
    num_j, num_k = padded.shape[1:]
    low_i, low_j, low_k = low.astype(np.int64)
    corner = (low_i * num_j + low_j) * num_k + low_k
    flat = padded.ravel()

    def along_k(start: int) -> npt.NDArray[np.float32]:
        values: npt.NDArray[np.float32] = flat[corner + start].astype(np.float32)
        values += above_k * (flat[corner + start + 1] - values)
        return values

    def along_j(start: int) -> npt.NDArray[np.float32]:
        values = along_k(start)
        values += above_j * (along_k(start + num_k) - values)
        return values

    values = along_j(0)
    values += above_i * (along_j(num_j * num_k) - values)
    return np.where(is_inside, values, 0)
