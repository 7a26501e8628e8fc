"""How a volume is divided into tiles that fit into memory or into a message.

A tile is a block of voxels that is computed at once, together with the halo of voxels around it
that its patches reach. Only foreground is computed, so tiles cover the bounding box of the
foreground, and tiles without foreground are left out. Halos overlap: smaller tiles need less memory
but more operations. `plan_tiles` chooses the size.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.inference.tile_cost import (
    EXTENT_STEP,
    Message,
    TileCost,
    chunk_positions_for,
    count_flop,
)
from mtseg.network.architecture import HALO, PLANE_NORMALS

_SMALLEST_EDGE = 8
"""Tiles with a shorter edge would compute little but halos."""

_DENSITY_MARGIN = 1.2
"""Foreground is spread unevenly: tiles are planned for this many times the mean density."""

_KEPT_BETWEEN_TILES = 1.3
"""How much more memory several tiles take than the largest of them: they do not fit exactly into
the memory that TensorFlow keeps from those before. Measured."""

BELOW, ABOVE = 1, 2
"""Voxels beyond the ends of a core that interpolation between its voxels and the next ones needs:
the upper neighbours, and one more on each side for the second differences."""

Block = tuple[slice, slice, slice]
"""Index ranges along i, j and k, with start and stop."""

Edges = tuple[int, int, int]
"""Voxels along the edges of a tile's core."""


@dataclasses.dataclass(frozen=True)
class Tile:
    """A block that is computed at once.

    Attributes:
        core: the voxels that this tile provides. Cores do not overlap.
        computed: the core and, if results are interpolated, `BELOW` and `ABOVE` voxels beyond it.
        flop: floating-point operations of the tile, one addition or one multiplication each.
    """

    core: Block
    computed: Block
    flop: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """The tiles in which a volume is computed.

    Attributes:
        tiles: in the order of computing, those with most operations first.
        tile_bytes: highest memory that computing one of them takes; an estimate.
    """

    tiles: tuple[Tile, ...]
    tile_bytes: int

    @property
    def flop(self) -> int:
        """Operations of all tiles."""
        return sum(tile.flop for tile in self.tiles)


def plan_tiles(
    volume: npt.NDArray[np.float32],
    num_classes: int,
    precision: str,
    memory_bytes: float = math.inf,
    *,
    is_interpolated: bool = False,
    target_voxels_per_voxel: float = 1.0,
    chunk_positions: int | None = None,
    extent_step: int = EXTENT_STEP,
    message: Message | None = None,
) -> Plan:
    """Divides a volume into tiles that each fit into memory, with few operations done twice.

    Args:
        volume: (I, J, K), prepared intensities, exactly 0 outside the foreground.
        num_classes: classes of the network.
        precision: `float32`, `bfloat16` or `int8`, in which the convolutions run.
        memory_bytes: memory that computing a tile may take, beside the volume itself.
        is_interpolated: whether results between voxels are wanted. The cores then reach one voxel
            below the foreground, and every tile is computed some voxels beyond its core.
        target_voxels_per_voxel: voxels of the grid that results are interpolated to, per voxel of
            the volume.
        chunk_positions: voxels, including their halo, that will pass the convolutions at once; None
            is `chunk_positions_for`.
        extent_step: slices will be cut to a multiple of this many voxels.
        message: the messages, if a server computes the tiles; `memory_bytes` is then the memory of
            the client, for messages and decisions.

    Returns:
        The plan. A volume without foreground has no tiles.

    Raises:
        InputError: if not even the smallest tiles fit.
    """
    chunk_positions = chunk_positions or chunk_positions_for(precision)
    cost = TileCost(num_classes, precision, target_voxels_per_voxel, message)
    foreground = volume != 0
    box = bounding_box(foreground)
    if box is None:
        return Plan((), 0)
    below, above = (BELOW, ABOVE) if is_interpolated else (0, 0)
    if is_interpolated:
        i, j, k = (slice(max(part.start - 1, 0), part.stop) for part in box)
        box = (i, j, k)
    mean_density = np.count_nonzero(foreground[box]) / foreground[box].size
    # If tiles of about the mean density turn out not to fit, those that fit when full do.
    for density in (min(1.0, _DENSITY_MARGIN * mean_density), 1.0):
        edges = _cheapest_edges(box, below + above, cost, density, memory_bytes)
        blocks = [
            (core, _extend(core, below, above, box))
            for core in _divide(box, edges)
            if foreground[_extend(core, 0, int(is_interpolated), box)].any()
        ]
        masks = [foreground[computed] for _, computed in blocks]
        sizes = [(mask.shape, int(np.count_nonzero(mask))) for mask in masks]
        tile_bytes = _memory_of_several(max(cost.memory_bytes(*size) for size in sizes), len(sizes))
        fit = all(cost.fits_message(*size) and cost.fits_tensors(size[1]) for size in sizes)
        if tile_bytes <= memory_bytes and fit:
            break
    tiles = [
        Tile(core, computed, count_flop(mask, num_classes, chunk_positions, extent_step))
        for (core, computed), mask in zip(blocks, masks, strict=True)
    ]
    # The largest first: its memory serves the others, since TensorFlow keeps what it once took.
    return Plan(tuple(sorted(tiles, key=lambda tile: -tile.flop)), tile_bytes)


def bounding_box(foreground: npt.NDArray[np.bool_]) -> Block | None:
    """The smallest block that contains all foreground; None without foreground."""
    box = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        (occupied,) = np.nonzero(foreground.any(axis=others))
        if not occupied.size:
            return None
        box.append(slice(int(occupied[0]), int(occupied[-1]) + 1))
    i, j, k = box
    return i, j, k


def _divide(box: Block, edges: Edges) -> list[Block]:
    """The cores of tiles of a size that together cover a box; the last ones are cut at its end."""
    along_i, along_j, along_k = (
        [slice(n, min(n + edge, part.stop)) for n in range(part.start, part.stop, edge)]
        for part, edge in zip(box, edges, strict=True)
    )
    return list(itertools.product(along_i, along_j, along_k))


def _extend(core: Block, below: int, above: int, box: Block) -> Block:
    """A core and some voxels beyond its lower and upper ends, within a box."""
    i, j, k = (
        slice(max(c.start - below, b.start), min(c.stop + above, b.stop))
        for c, b in zip(core, box, strict=True)
    )
    return i, j, k


def _memory_of_several(tile_bytes: int, num_tiles: int) -> int:
    """Memory for tiles one after the other, by that of the largest of them."""
    return int(tile_bytes * _KEPT_BETWEEN_TILES) if num_tiles > 1 else tile_bytes


def _cheapest_edges(
    box: Block, beyond: int, cost: TileCost, density: float, memory_bytes: float
) -> Edges:
    """The tile size with the fewest operations that fits into memory and messages.

    Args:
        box: what the tiles cover.
        beyond: voxels that each tile is computed beyond its core along an axis, both ends together.
        cost: memory and message sizes of tiles.
        density: share of foreground in each tile.
        memory_bytes: memory that tiles may take.

    Raises:
        InputError: if no tile size fits.
    """
    sizes = [part.stop - part.start for part in box]
    along_i, along_j, along_k = (
        sorted({math.ceil(size / count) for count in range(1, max(1, size // _SMALLEST_EDGE) + 1)})
        for size in sizes
    )
    best: Edges | None = None
    fewest_operations, least_bytes = math.inf, math.inf
    for edges in itertools.product(along_i, along_j, along_k):
        num_tiles = math.prod(math.ceil(n / edge) for n, edge in zip(sizes, edges, strict=True))
        shape = [min(edge + beyond, n) for edge, n in zip(edges, sizes, strict=True)]
        operations = num_tiles * _relative_operations(shape)
        if operations >= fewest_operations:
            continue
        num_foreground = density * math.prod(shape)
        if not (cost.fits_message(shape, num_foreground) and cost.fits_tensors(num_foreground)):
            continue
        needed = _memory_of_several(cost.memory_bytes(shape, num_foreground), num_tiles)
        least_bytes = min(least_bytes, needed)
        if needed <= memory_bytes:
            best, fewest_operations = edges, operations
    if best is not None:
        return best
    if math.isinf(least_bytes):
        raise InputError(
            "not even a small part of the scan fits into a message. Give a larger --message-mb."
        )
    raise InputError(
        f"computing it needs at least {least_bytes / 1e9:.1f} GB of memory, but only "
        f"{max(memory_bytes, 0) / 1e9:.1f} GB are left. Give a larger --memory-gb or --spacing-mm."
    )


def _relative_operations(edges: Sequence[int]) -> int:
    """Operations of the convolutions of a tile with these edges, in an arbitrary unit.

    Each plane is as many slices as the tile is thick, of the tile's size and on average half of the
    halo on each side.
    """
    return sum(
        edges[normal] * math.prod(edges[axis] + HALO for axis in range(3) if axis != normal)
        for normal in PLANE_NORMALS.values()
    )
