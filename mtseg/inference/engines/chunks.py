"""A tile divided into chunks of slices, in NumPy, for a runtime that computes the layers alone.

It divides a tile as the graph of `mtseg.inference.tile_graph` does: plane after plane, a few slices
at a time, each such chunk cut to its foreground. So every engine needs the same memory and gives
the same labels, and a runtime needs no loops and no conditions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from mtseg.inference.tile_cost import chunk_thickness
from mtseg.network.architecture import HALO, NUM_FEATURES, PLANE_NORMALS

EXTENT_STEP = 4
"""Slices are cut to a multiple of this many voxels: fewer than for TensorFlow, because OpenVINO
compiles for a new shape in little time."""


class LayerRuntime(Protocol):
    """Computes the network's layers.

    Attributes:
        feature_type: of the features that pass from the convolutions to the head.
        num_classes: number of combined classes, including background.
    """

    feature_type: type[np.floating[Any]]
    num_classes: int

    def convolve(
        self, images: npt.NDArray[np.float32], voxels: npt.NDArray[np.int32]
    ) -> npt.NDArray[Any]:
        """Runs the 25 shared convolutions.

        Args:
            images: float32 (n, rows + 50, columns + 50).
            voxels: int32 (voxels,), which of the n * rows * columns voxels are wanted, in C order.

        Returns:
            (voxels, 32) of `feature_type`; the memory may be used again by the next call.
        """

    def classify(
        self,
        axial: npt.NDArray[Any],
        coronal: npt.NDArray[Any],
        sagittal: npt.NDArray[Any],
    ) -> npt.NDArray[np.float32]:
        """Runs the head.

        Args:
            axial: (voxels, 32) of `feature_type`, the features of the axial plane.
            coronal: those of the coronal plane.
            sagittal: those of the sagittal plane.

        Returns:
            float32 (voxels, num_classes), probabilities; the memory may be used again by the next
            call.
        """


class _Chunk(NamedTuple):
    """A few slices of a plane, cut to their foreground.

    Attributes:
        images: float32 (n, rows + 50, columns + 50).
        voxels: int32 (voxels,), the foreground among the n * rows * columns voxels, in C order.
        places: int32 (voxels,), the number of each in the C order of the tile's foreground.
    """

    images: npt.NDArray[np.float32]
    voxels: npt.NDArray[np.int32]
    places: npt.NDArray[np.int32]


def compute_tile(
    runtime: LayerRuntime, tile: npt.NDArray[np.float32], chunk_positions: int
) -> npt.NDArray[np.float32]:
    """Computes the probabilities of a tile; `mtseg.inference.dense.DenseNetwork` calls it.

    Args:
        runtime: computes the layers.
        tile: float32 (I + 50, J + 50, K + 50), a block and the 25 voxels around it, 0 outside the
            foreground.
        chunk_positions: voxels, including their halo, that pass the convolutions at once.

    Returns:
        float32 (voxels, num_classes), those of the block's foreground voxels in C order.
    """
    foreground = tile[HALO:-HALO, HALO:-HALO, HALO:-HALO] != 0
    numbers = np.cumsum(foreground, dtype=np.int32).reshape(foreground.shape) - 1
    num_voxels = int(numbers[-1, -1, -1]) + 1
    # Features of the axial and the coronal plane are kept until the sagittal ones are computed.
    # Those come in the volume's own order, so they go through the head at once.
    axial, coronal = (np.empty((num_voxels, NUM_FEATURES), runtime.feature_type) for _ in range(2))
    for plane, features in (("axial", axial), ("coronal", coronal)):
        for chunk in _cut_chunks(tile, foreground, numbers, PLANE_NORMALS[plane], chunk_positions):
            features[chunk.places] = runtime.convolve(chunk.images, chunk.voxels)
    rows = np.empty((num_voxels, runtime.num_classes), np.float32)
    for chunk in _cut_chunks(tile, foreground, numbers, PLANE_NORMALS["sagittal"], chunk_positions):
        within = slice(int(chunk.places[0]), int(chunk.places[-1]) + 1)
        sagittal = runtime.convolve(chunk.images, chunk.voxels)
        rows[within] = runtime.classify(axial[within], coronal[within], sagittal)
    return rows


def _cut_chunks(
    tile: npt.NDArray[np.float32],
    foreground: npt.NDArray[np.bool_],
    numbers: npt.NDArray[np.int32],
    normal: int,
    chunk_positions: int,
) -> Iterator[_Chunk]:
    """The chunks of a plane that have foreground.

    Args:
        tile: as for `compute_tile`.
        foreground: booleans (I, J, K), the block without its halo.
        numbers: int32 (I, J, K), at each foreground voxel its number in C order.
        normal: the axis that the slices are perpendicular to.
        chunk_positions: as for `compute_tile`.
    """
    within: list[slice] = [
        slice(HALO, -HALO) if axis == normal else slice(None) for axis in range(3)
    ]
    slices = np.moveaxis(tile[tuple(within)], normal, 0)
    masks, numbers = np.moveaxis(foreground, normal, 0), np.moveaxis(numbers, normal, 0)
    num_slices, num_rows, num_columns = slices.shape
    thickness = chunk_thickness(num_slices, num_rows * num_columns, chunk_positions)
    for start in range(0, num_slices, thickness):
        chunk = slice(start, start + thickness)
        mask = masks[chunk]
        if not mask.any():
            continue
        top, bottom = _extent(np.asarray(mask.any(axis=(0, 2))))
        left, right = _extent(np.asarray(mask.any(axis=(0, 1))))
        images = slices[chunk, top : bottom + 2 * HALO, left : right + 2 * HALO]
        mask = mask[:, top:bottom, left:right]
        yield _Chunk(
            np.ascontiguousarray(images),
            np.flatnonzero(mask).astype(np.int32),
            numbers[chunk, top:bottom, left:right][mask],
        )


def _extent(occupied: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Where to cut rows or columns to their foreground.

    Args:
        occupied: booleans, at least one of them true.

    Returns:
        `(start, stop)` around all that are occupied, their distance a multiple of `EXTENT_STEP`
        where the size allows it.
    """
    (found,) = np.nonzero(occupied)
    length = int(found[-1] + 1 - found[0])
    length = min(-(-length // EXTENT_STEP) * EXTENT_STEP, occupied.size)
    start = min(int(found[0]), occupied.size - length)
    return start, start + length
