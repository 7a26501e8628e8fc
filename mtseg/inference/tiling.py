"""How a volume is divided into tiles that fit in memory or in a message.

A tile is a block of voxels that is computed at once, together with the voxels around it that its
patches reach. Only foreground is needed, so tiles cover the bounding box of the foreground and
empty tiles are left out. Within a tile, planes are computed a few slices at a time, each such chunk
cut to its own foreground. `count_flop` counts the operations that `mtseg.inference.dense` then
needs.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from mtseg.errors import InputError
from mtseg.network.model import (
    HALO,
    KERNEL_SIZE,
    NUM_CONVOLUTIONS,
    NUM_FEATURES,
    NUM_HEAD_UNITS,
    PLANE_NORMALS,
)

CHUNK_BYTES = 8_000_000
"""Size of a feature map of the few slices that pass the convolutions at once: enough to keep every
core busy, few enough to stay near the processor's caches."""


EXTENT_STEP = 16
"""Slices are cut to a multiple of this many voxels, so that chunks have few different shapes: for
each new one TensorFlow compiles 25 convolutions."""


_ITEM_BYTES = {"float32": 4, "bfloat16": 2}


_FIXED_BYTES = 210_000_000
"""What running the network takes whatever the volume: compiled kernels, a chunk's feature maps and
what the allocators keep. Measured."""


_FEATURES_AT_ONCE = 3.3
"""Planes' features that are in memory when the second plane's are joined: the first's, the parts,
the whole, and what is lost between the parts. Measured."""


_KEPT_BETWEEN_TILES = 1.3
"""How much more is taken by several tiles in turn, since they do not fit exactly into the memory
that TensorFlow keeps from those before. Measured."""


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
        tiles: those with most work first.
        tile_bytes: highest memory that computing one of them takes, an estimate.
    """

    tiles: tuple[Tile, ...]
    tile_bytes: int

    @property
    def flop(self) -> int:
        """Operations of all tiles."""
        return sum(tile.flop for tile in self.tiles)


@dataclasses.dataclass(frozen=True)
class Message:
    """What a server and its client exchange for a tile.

    Attributes:
        most_bytes: largest message.
        value_bytes: of a number; 4, or more where numbers are written as text.
        label_bytes: of a voxel's label, where answers hold them unasked for.
        in_flight: requests that are under way at once.
        fixed_bytes: beside numbers and labels.
    """

    most_bytes: int
    value_bytes: float = 4
    label_bytes: float = 0
    in_flight: int = 1
    fixed_bytes: int = 1000


def plan_tiles(
    volume: np.ndarray,
    num_classes: int,
    precision: str,
    memory_bytes: float = math.inf,
    *,
    is_interpolated: bool = False,
    target_voxels_per_voxel: float = 1.0,
    chunk_positions: int | None = None,
    message: Message | None = None,
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
        chunk_positions: as the tiles will be computed with; None is `chunk_positions_for`.
        message: where a server computes them, in what its messages are; `memory_bytes` is then for
            what is done with its answers.

    Returns:
        The plan. A volume without foreground has no tiles.

    Raises:
        InputError: if not even the smallest tiles fit.
    """
    chunk_positions = chunk_positions or chunk_positions_for(precision)
    foreground = volume != 0
    box = _bounding_box(foreground)
    if box is None:
        return Plan((), 0)
    if is_interpolated:
        i, j, k = (slice(max(s.start - 1, 0), s.stop) for s in box)
        box = (i, j, k)
    beyond = int(is_interpolated)

    def bytes_of(shape: Sequence[int], num_foreground: float) -> int:
        sizes = (shape, num_foreground, num_classes)
        if message is None:
            return _tile_bytes(*sizes, precision, target_voxels_per_voxel)
        return _answer_bytes(*sizes, target_voxels_per_voxel, message.in_flight)

    def fits(shape: Sequence[int], num_foreground: float) -> bool:
        return message is None or (
            _message_bytes(shape, num_foreground, num_classes, message) <= message.most_bytes
        )

    # Foreground is spread unevenly. If tiles of its mean density turn out not to fit, those that
    # fit when full do.
    mean_density = np.count_nonzero(foreground[box]) / foreground[box].size
    for density in (min(1.0, 1.2 * mean_density), 1.0):
        edges = _cheapest_edges(box, beyond, bytes_of, fits, density, memory_bytes)
        tiles, most, is_within = [], 0, True
        for core in _divide(box, edges):
            i, j, k = (
                slice(c.start, min(c.stop + beyond, b.stop)) for c, b in zip(core, box, strict=True)
            )
            computed = (i, j, k)
            mask = foreground[computed]
            if num_foreground := int(np.count_nonzero(mask)):
                tiles.append(Tile(core, computed, count_flop(mask, num_classes, chunk_positions)))
                most = max(most, bytes_of(mask.shape, num_foreground))
                is_within = is_within and fits(mask.shape, num_foreground)
        if len(tiles) > 1:
            most = int(most * _KEPT_BETWEEN_TILES)
        if most <= memory_bytes and is_within:
            break
    # The largest first: what it took serves the others, since TensorFlow keeps what it has got.
    return Plan(tuple(sorted(tiles, key=lambda tile: -tile.flop)), most)


def _bounding_box(foreground: np.ndarray) -> Block | None:
    """The smallest block that holds all of the foreground."""
    box = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        (occupied,) = np.nonzero(foreground.any(axis=others))
        if not occupied.size:
            return None
        box.append(slice(int(occupied[0]), int(occupied[-1]) + 1))
    i, j, k = box
    return i, j, k


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
    box: Block,
    beyond: int,
    bytes_of: Callable[[Sequence[int], float], int],
    fits: Callable[[Sequence[int], float], bool],
    density: float,
    memory_bytes: float,
) -> tuple[int, ...]:
    """The tile size with the fewest operations that fits in memory at a density of foreground."""
    sizes = [s.stop - s.start for s in box]
    # Tiles smaller than this would compute little but halos.
    options = [
        sorted({math.ceil(size / count) for count in range(1, max(1, size // 8) + 1)})
        for size in sizes
    ]
    best, best_cost, least = None, math.inf, math.inf
    for edges in itertools.product(*options):
        count = math.prod(math.ceil(n / e) for n, e in zip(sizes, edges, strict=True))
        cost = count * sum(
            edges[normal] * math.prod(edges[a] + HALO for a in range(3) if a != normal)
            for normal in PLANE_NORMALS.values()
        )
        if cost >= best_cost:
            continue
        shape = [min(e + beyond, n) for e, n in zip(edges, sizes, strict=True)]
        num_foreground = density * math.prod(shape)
        if not fits(shape, num_foreground):
            continue
        needed = bytes_of(shape, num_foreground)
        if count > 1:
            needed = int(needed * _KEPT_BETWEEN_TILES)
        least = min(least, needed)
        if needed <= memory_bytes:
            best, best_cost = edges, cost
    if best is None and math.isinf(least):
        raise InputError(
            "not even a small part of the scan fits into a message. Give a larger --message-mb."
        )
    if best is None:
        raise InputError(
            f"needs at least {least / 1e9:.1f} GB more to be computed, where "
            f"{max(memory_bytes, 0) / 1e9:.1f} GB are left. Give a larger --memory-gb or "
            "--spacing-mm."
        )
    return best


def _tile_bytes(
    sizes: Sequence[int],
    num_foreground: float,
    num_classes: int,
    precision: str,
    target_voxels_per_voxel: float,
) -> int:
    voxels, with_halo = math.prod(sizes), math.prod(n + 2 * HALO for n in sizes)
    order = 3 * 4 * voxels
    features = num_foreground * NUM_FEATURES * _ITEM_BYTES[precision]
    in_graph = 4 * with_halo + order + _FEATURES_AT_ONCE * features
    # TensorFlow keeps that, while a class at a time is brought to the target's grid and decided.
    rows = num_foreground * num_classes * 4
    deciding = rows + 4 * voxels + int(_DECIDING_BYTES * voxels * target_voxels_per_voxel)
    return int(_FIXED_BYTES + in_graph + max(4 * with_halo, deciding))


def _message_bytes(
    sizes: Sequence[int], num_foreground: float, num_classes: int, message: Message
) -> float:
    """The larger one of a tile's request and its answer."""
    request = message.value_bytes * math.prod(n + 2 * HALO for n in sizes)
    answer = message.value_bytes * num_classes * num_foreground
    answer += message.label_bytes * math.prod(sizes)
    return max(request, answer) + message.fixed_bytes


def _answer_bytes(
    sizes: Sequence[int],
    num_foreground: float,
    num_classes: int,
    target_voxels_per_voxel: float,
    in_flight: int,
) -> int:
    """Highest memory that a client takes for tiles under way and the one that it decides."""
    voxels, with_halo = math.prod(sizes), math.prod(n + 2 * HALO for n in sizes)
    rows = 4 * num_foreground * num_classes
    # A message is there as arrays, as a protocol buffer and as bytes.
    messages = (in_flight + 1) * 3 * max(4 * with_halo, rows)
    deciding = rows + 4 * voxels + int(_DECIDING_BYTES * voxels * target_voxels_per_voxel)
    return int(messages + deciding)


def chunk_positions_for(precision: str, chunk_bytes: int = CHUNK_BYTES) -> int:
    """Voxels, with their halo, whose features take so much memory."""
    return chunk_bytes // (NUM_FEATURES * _ITEM_BYTES[precision])


def count_flop(foreground: np.ndarray, num_classes: int, chunk_positions: int) -> int:
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
        rows = np.asarray(slices.any(axis=2))
        columns = np.asarray(slices.any(axis=1))
        num_slices, num_rows, num_columns = slices.shape
        area = (num_rows + 2 * HALO) * (num_columns + 2 * HALO)
        thickness = max(2, chunk_positions // area)
        for start in range(0, num_slices, thickness):
            height = _extent(np.asarray(rows[start : start + thickness].any(axis=0)))
            width = _extent(np.asarray(columns[start : start + thickness].any(axis=0)))
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
