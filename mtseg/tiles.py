"""Tiles: a volume's foreground and a memory budget come in, the division of the work leaves.

A tile is a block of voxels that is computed at once, together with the voxels around it that its
patches reach. Nothing outside the foreground is asked for, so tiles cover its bounding box alone,
empty ones are left out, and within a tile the planes are taken a few slices at a time, each such
chunk cut to its own foreground. `count_flop` counts what `mtseg.dense` then computes.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np

from mtseg.errors import InputError
from mtseg.model import (
    HALO,
    KERNEL_SIZE,
    NUM_CONVOLUTIONS,
    NUM_FEATURES,
    NUM_HEAD_UNITS,
    PLANE_NORMALS,
)

CHUNK_POSITIONS = 125_000
"""Voxels of a few slices, with their halo, that pass the convolutions at once: enough to keep every
core busy, few enough for the feature maps to stay near the processor's caches."""

EXTENT_STEP = 16
"""Slices are cut to a multiple of this many voxels, so that chunks have few different shapes: for
each new one TensorFlow compiles 25 convolutions."""

_FIXED_BYTES = 300_000_000
"""What running the network takes whatever the volume: compiled kernels, a chunk's feature maps and
what the allocators keep. Measured."""

_DECIDING_BYTES = 40
"""Memory for a voxel whose classes are interpolated and decided, one after the other. Measured."""

Block = tuple[slice, slice, slice]


@dataclasses.dataclass(frozen=True)
class Tile:
    """A block that is computed at once.

    Attributes:
        core: the voxels that this tile answers for. Cores do not overlap.
        computed: the core and, where the caller interpolates between voxels, one voxel beyond its
            upper ends.
        flop: floating-point operations of the tile, one addition or one product each.
    """

    core: Block
    computed: Block
    flop: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a volume is computed.

    Attributes:
        tiles: in C order of their cores.
        tile_bytes: highest memory that computing one of them takes, an estimate.
    """

    tiles: tuple[Tile, ...]
    tile_bytes: int

    @property
    def flop(self) -> int:
        """Operations of all tiles."""
        return sum(tile.flop for tile in self.tiles)


def plan_tiles(
    volume: np.ndarray,
    num_classes: int,
    precision: str,
    memory_bytes: float = math.inf,
    *,
    is_interpolated: bool = False,
    target_voxels_per_voxel: float = 1.0,
    chunk_positions: int = CHUNK_POSITIONS,
) -> Plan:
    """Divides a volume into tiles that each fit in memory, with as little double work as can be.

    Args:
        volume: (I, J, K), intensities as prepared, exactly 0 outside the foreground.
        num_classes: classes of the network.
        precision: `float32` or `bfloat16`, in which the convolutions run.
        memory_bytes: what computing a tile may take, beside the volume itself.
        is_interpolated: whether results between voxels are wanted, so that the cores reach one
            voxel below the foreground and every tile is computed one voxel beyond its core.
        target_voxels_per_voxel: voxels that the results are brought to, over the volume's own.
        chunk_positions: as the tiles will be computed with.

    Returns:
        The plan. A volume without foreground has no tiles.

    Raises:
        InputError: if not even the smallest tiles fit.
    """
    foreground = volume != 0
    box = _bounding_box(foreground)
    if box is None:
        return Plan((), 0)
    if is_interpolated:
        box = tuple(slice(max(s.start - 1, 0), s.stop) for s in box)
    beyond = int(is_interpolated)

    def bytes_of(edges: tuple[int, ...]) -> int:
        sizes = [min(e + beyond, s.stop - s.start) for e, s in zip(edges, box, strict=True)]
        return _tile_bytes(sizes, num_classes, precision, target_voxels_per_voxel)

    edges = _cheapest_edges([s.stop - s.start for s in box], bytes_of, memory_bytes)
    tiles = []
    for core in _divide(box, edges):
        computed = tuple(
            slice(c.start, min(c.stop + beyond, b.stop)) for c, b in zip(core, box, strict=True)
        )
        mask = foreground[computed]
        if mask.any():
            tiles.append(Tile(core, computed, count_flop(mask, num_classes, chunk_positions)))
    return Plan(tuple(tiles), bytes_of(edges))


def _bounding_box(foreground: np.ndarray) -> Block | None:
    """The smallest block that holds all of the foreground."""
    box = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        (occupied,) = np.nonzero(foreground.any(axis=others))
        if not occupied.size:
            return None
        box.append(slice(int(occupied[0]), int(occupied[-1]) + 1))
    return tuple(box)


def _divide(box: Block, edges: tuple[int, ...]) -> list[Block]:
    return list(
        itertools.product(
            *(
                [slice(n, min(n + edge, s.stop)) for n in range(s.start, s.stop, edge)]
                for s, edge in zip(box, edges, strict=True)
            )
        )
    )


def _cheapest_edges(
    sizes: list[int], bytes_of: Callable[[tuple[int, ...]], int], memory_bytes: float
) -> tuple[int, ...]:
    """The tile size with the fewest operations that fits in memory."""
    options = [
        sorted({math.ceil(size / count) for count in range(1, max(1, size // 8) + 1)})
        for size in sizes
    ]
    best, best_cost = None, math.inf
    for edges in itertools.product(*options):
        cost = math.prod(math.ceil(n / e) for n, e in zip(sizes, edges, strict=True)) * sum(
            edges[normal] * math.prod(edges[a] + HALO for a in range(3) if a != normal)
            for normal in PLANE_NORMALS.values()
        )
        if cost < best_cost and bytes_of(edges) <= memory_bytes:
            best, best_cost = edges, cost
    if best is None:
        least = bytes_of(tuple(option[0] for option in options))
        raise InputError(
            f"needs at least {least / 1e9:.1f} GB more to be computed, where "
            f"{max(memory_bytes, 0) / 1e9:.1f} GB are left. Give a larger --memory-gb or "
            "--spacing-mm."
        )
    return best


def _tile_bytes(
    sizes: list[int], num_classes: int, precision: str, target_voxels_per_voxel: float
) -> int:
    voxels = math.prod(sizes)
    inputs = 2 * 4 * math.prod(n + 2 * HALO for n in sizes)  # NumPy's and TensorFlow's
    order = 3 * 4 * voxels
    features = voxels * NUM_FEATURES * {"float32": 4, "bfloat16": 2}[precision]
    probabilities = voxels * num_classes * 4
    # Three moments compete. The second plane's features are joined: the first's, the parts and
    # the whole are there. Then the probabilities are joined, beside both planes' features. Last,
    # a class at a time is brought to the target's grid and decided.
    return _FIXED_BYTES + max(
        inputs + order + 3 * features,
        inputs + order + 2 * features + 2 * probabilities,
        probabilities + int(4 * voxels + _DECIDING_BYTES * voxels * target_voxels_per_voxel),
    )


def count_flop(
    foreground: np.ndarray, num_classes: int, chunk_positions: int = CHUNK_POSITIONS
) -> int:
    """Operations that a tile with this foreground takes.

    Args:
        foreground: booleans (I, J, K).
        num_classes: classes of the network.
        chunk_positions: as the tile is computed with.
    """
    taps = KERNEL_SIZE**2 * NUM_FEATURES
    total = 0
    for normal in PLANE_NORMALS.values():
        slices = np.moveaxis(foreground, normal, 0)
        rows, columns = slices.any(axis=2), slices.any(axis=1)
        num_slices, num_rows, num_columns = slices.shape
        area = (num_rows + 2 * HALO) * (num_columns + 2 * HALO)
        thickness = max(2, chunk_positions // area)
        for start in range(0, num_slices, thickness):
            height = _extent(rows[start : start + thickness].any(axis=0))
            width = _extent(columns[start : start + thickness].any(axis=0))
            if not height:
                continue
            for layer in range(1, NUM_CONVOLUTIONS + 1):
                around = 2 * (HALO - layer)
                inputs = 1 if layer == 1 else NUM_FEATURES
                positions = thickness * (height + around) * (width + around)
                total += 2 * positions * taps * inputs
    units = NUM_HEAD_UNITS
    head = 2 * (3 * NUM_FEATURES * units + units * units + units * num_classes)
    return total + head * int(np.count_nonzero(foreground))


def _extent(occupied: np.ndarray) -> int:
    (numbers,) = np.nonzero(occupied)
    if not numbers.size:
        return 0
    length = numbers[-1] + 1 - numbers[0]
    return min(math.ceil(length / EXTENT_STEP) * EXTENT_STEP, occupied.size)
