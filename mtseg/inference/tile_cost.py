"""What computing a tile takes: memory, size of messages, and floating-point operations.

`mtseg.inference.tiling` divides a volume so that each tile fits into memory, and progress bars
advance by operations. The memory figures are estimates: what must be in memory is counted, what
TensorFlow adds was measured.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mtseg.network.architecture import (
    HALO,
    KERNEL_SIZE,
    NUM_CONVOLUTIONS,
    NUM_FEATURES,
    NUM_HEAD_UNITS,
    PLANE_NORMALS,
)

CHUNK_BYTES = 8_000_000
"""Size of one feature map of the few slices that pass the convolutions at once: enough to keep
every core busy, few enough to stay near the processor's caches."""

MOST_ELEMENTS = 2**31 - 1
"""Elements of a tensor: TensorFlow's operations on GPUs count them in 32 bits."""

EXTENT_STEP = 16
"""Slices are cut to a multiple of this many voxels, so that chunks have few different shapes: for
each new shape TensorFlow compiles 25 convolutions."""

_ITEM_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
"""Of a feature between two convolutions."""

_KEPT_BYTES = {"float32": 4, "bfloat16": 2, "int8": 4}
"""Of a feature that is kept for the head: after convolutions in int8 at most float32."""

_FIXED_BYTES = 210_000_000
"""Memory that running the network takes whatever the volume: compiled kernels, a chunk's feature
maps and what the allocators keep. Measured."""

_FEATURES_AT_ONCE = 3.3
"""Feature maps of a plane that are in memory when those of the second plane are joined: the first
plane's, the parts, the whole, and what is lost between the parts. Measured."""

_DECIDING_BYTES = 40
"""Memory per voxel of the scan while the classes are interpolated and the label is decided.
Measured when one class after the other was, of the whole tile."""

_INTERPOLATING_BYTES = 24
"""Memory per computed voxel beside that: a class, the foreground, and the second differences."""

_COPIES_OF_A_MESSAGE = 3
"""A client has a message as arrays, as a protocol buffer and as bytes."""


@dataclasses.dataclass(frozen=True)
class Message:
    """The messages by which a server and its client exchange a tile.

    Attributes:
        most_bytes: size of the largest message that both accept.
        value_bytes: bytes of a number; 4, or more where numbers are written as text.
        label_bytes: bytes of a voxel's label, if answers include labels; else 0.
        in_flight: number of requests that are under way at once.
        fixed_bytes: bytes of a message beside numbers and labels.
    """

    most_bytes: int
    value_bytes: float = 4
    label_bytes: float = 0
    in_flight: int = 1
    fixed_bytes: int = 1000


@dataclasses.dataclass(frozen=True)
class TileCost:
    """Memory and message sizes of tiles, for one network and one way of computing.

    Attributes:
        num_classes: classes of the network.
        precision: `float32`, `bfloat16` or `int8`, in which the convolutions run.
        target_voxels_per_voxel: voxels of the grid that results are interpolated to, per voxel of
            the volume.
        message: the messages, if a server computes the tiles; None if this process does.
    """

    num_classes: int
    precision: str
    target_voxels_per_voxel: float = 1.0
    message: Message | None = None

    def memory_bytes(self, shape: Sequence[int], num_foreground: float) -> int:
        """Highest memory of this process for a tile, beside the volume; an estimate.

        Args:
            shape: voxels of the computed block along its three axes, without halo.
            num_foreground: how many of them are foreground.
        """
        num_voxels, num_with_halo = math.prod(shape), math.prod(n + 2 * HALO for n in shape)
        probabilities = 4 * num_foreground * self.num_classes
        # Slab by slab the classes are brought to the target's grid, next to the probabilities.
        per_target = int(_DECIDING_BYTES * num_voxels * self.target_voxels_per_voxel)
        deciding = probabilities + 4 * num_voxels + per_target
        if self.target_voxels_per_voxel != 1:
            deciding += _INTERPOLATING_BYTES * num_voxels
        if self.message is not None:
            # Those under way, and the one that is being decided.
            in_memory = (self.message.in_flight + 1) * _COPIES_OF_A_MESSAGE
            return int(in_memory * max(4 * num_with_halo, probabilities) + deciding)
        order = 3 * 4 * num_voxels
        features = num_foreground * NUM_FEATURES * _KEPT_BYTES[self.precision]
        in_graph = 4 * num_with_halo + order + _FEATURES_AT_ONCE * features
        # TensorFlow keeps the memory of the graph while labels are decided.
        return int(_FIXED_BYTES + in_graph + max(4 * num_with_halo, deciding))

    def fits_tensors(self, num_foreground: float) -> bool:
        """Whether the tensors of a tile have at most `MOST_ELEMENTS`.

        Args:
            num_foreground: as for `memory_bytes`.
        """
        return num_foreground * max(NUM_FEATURES, self.num_classes) <= MOST_ELEMENTS

    def fits_message(self, shape: Sequence[int], num_foreground: float) -> bool:
        """Whether a tile's request and answer are within the largest message.

        Args:
            shape: as for `memory_bytes`.
            num_foreground: as for `memory_bytes`.
        """
        if self.message is None:
            return True
        message = self.message
        request = message.value_bytes * math.prod(n + 2 * HALO for n in shape)
        answer = message.value_bytes * self.num_classes * num_foreground
        answer += message.label_bytes * math.prod(shape)
        return max(request, answer) + message.fixed_bytes <= message.most_bytes


def chunk_bytes_of_gpu(memory_bytes: int) -> int:
    """Size of one feature map of the slices that pass the convolutions at once on a GPU.

    A GPU has many more cores to keep busy than a processor. Its memory has room for the inputs and
    outputs of several layers.

    Args:
        memory_bytes: the GPU's memory.
    """
    return memory_bytes // 32


def chunk_positions_for(precision: str, chunk_bytes: int = CHUNK_BYTES) -> int:
    """Voxels, including their halo, whose feature map of one layer takes so much memory.

    They are fewer on a device with so much memory that the widest layer, that of the head, would
    have more than `MOST_ELEMENTS`.

    Args:
        precision: `float32`, `bfloat16` or `int8`.
        chunk_bytes: the memory.
    """
    by_memory = chunk_bytes // (NUM_FEATURES * _ITEM_BYTES[precision])
    return min(by_memory, MOST_ELEMENTS // NUM_HEAD_UNITS)


def chunk_thickness(num_slices: int, slice_positions: int, chunk_positions: int) -> int:
    """Slices of a plane that pass the convolutions at once; `mtseg.inference.tile_graph` does so.

    All chunks have the same thickness. The last one is filled up with empty slices, so the slices
    are divided evenly.

    Args:
        num_slices: slices of the tile, without halo.
        slice_positions: voxels of a slice, including its halo.
        chunk_positions: voxels, including their halo, that may pass at once.

    Returns:
        At least 2, for a single slice too.

    Example:
        >>> chunk_thickness(10, 100, 600)  # 5 and 5, in place of 6 and 4
        5
        >>> chunk_thickness(10, 100, 10**6)
        10
    """
    thickest = max(2, chunk_positions // slice_positions)
    num_chunks = math.ceil(num_slices / thickest)
    return max(2, math.ceil(num_slices / num_chunks))


def count_flop(
    foreground: npt.NDArray[np.bool_],
    num_classes: int,
    chunk_positions: int,
    extent_step: int = EXTENT_STEP,
) -> int:
    """Floating-point operations of a tile, one addition or one multiplication each.

    Args:
        foreground: booleans (I, J, K).
        num_classes: classes of the network.
        chunk_positions: voxels, including their halo, that pass the convolutions at once.
        extent_step: slices are cut to a multiple of this many voxels.
    """
    stack = sum(
        _count_plane_flop(np.moveaxis(foreground, normal, 0), chunk_positions, extent_step)
        for normal in PLANE_NORMALS.values()
    )
    units = NUM_HEAD_UNITS
    head = 2 * (3 * NUM_FEATURES * units + units * units + units * num_classes)
    return stack + head * int(np.count_nonzero(foreground))


def _count_plane_flop(slices: npt.NDArray[np.bool_], chunk_positions: int, extent_step: int) -> int:
    """Operations of the convolutions in one plane; the foreground's first axis is its normal."""
    rows, columns = np.asarray(slices.any(axis=2)), np.asarray(slices.any(axis=1))
    num_slices, num_rows, num_columns = slices.shape
    taps = KERNEL_SIZE**2 * NUM_FEATURES
    slice_positions = (num_rows + 2 * HALO) * (num_columns + 2 * HALO)
    thickness = chunk_thickness(num_slices, slice_positions, chunk_positions)
    total = 0
    for start in range(0, num_slices, thickness):
        height = _extent(np.asarray(rows[start : start + thickness].any(axis=0)), extent_step)
        width = _extent(np.asarray(columns[start : start + thickness].any(axis=0)), extent_step)
        if not height:
            continue
        for layer in range(1, NUM_CONVOLUTIONS + 1):
            around = 2 * (HALO - layer)
            num_inputs = 1 if layer == 1 else NUM_FEATURES
            positions = thickness * (height + around) * (width + around)
            total += 2 * positions * taps * num_inputs
    return total


def _extent(occupied: npt.NDArray[np.bool_], step: int) -> int:
    """Length from the first to the last true value, in steps of `step`; 0 without one."""
    (numbers,) = np.nonzero(occupied)
    if not numbers.size:
        return 0
    length = int(numbers[-1] + 1 - numbers[0])
    return min(math.ceil(length / step) * step, occupied.size)
