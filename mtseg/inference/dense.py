"""Whole-volume inference: class probabilities at every foreground voxel of a prepared volume.

At a foreground voxel the result equals that of the patch model: the convolutions are valid, with
zeros outside the scan. A voxel outside the foreground is background, because training never draws
such voxels. Neighbouring patches share their convolutions, so a voxel needs 833 times fewer
operations than patch by patch.

An evaluation during training uses `make_dense_network`, which follows the current weights;
`mtseg.models.loading` makes a `DenseNetwork` from an exported model, on TensorFlow or another
engine of `mtseg.inference.engines`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mtseg.errors import DeviceMemoryError
from mtseg.inference.tile_cost import EXTENT_STEP
from mtseg.inference.tiling import Plan, Tile, plan_tiles
from mtseg.network.architecture import HALO
from mtseg.system.devices import has_fast_bfloat16
from mtseg.system.hardware import free_bytes

if TYPE_CHECKING:
    import keras

PRECISIONS = ("float32", "bfloat16")
"""Number types that the convolutions may run in on TensorFlow."""


@dataclasses.dataclass(frozen=True)
class DenseNetwork:
    """A network that computes the tiles of a volume in this process.

    Attributes:
        function: from an engine of `mtseg.inference.engines`. It takes a tile, float32 (I + 50,
            J + 50, K + 50), from `with_halo`, and `chunk_positions`. It returns float32 (voxels,
            num_classes): the probabilities of the tile's foreground voxels in C order.
        num_classes: number of combined classes, including background.
        precision: in which its convolutions run, one of
            `mtseg.inference.engines.choice.PRECISIONS`.
        chunk_positions: voxels, including their halo, that pass the convolutions at once.
        engine: what computes, one of `mtseg.inference.engines.choice.ENGINES`.
        device_bytes: memory of the device that a tile may take; infinite on a processor, which has
            no memory of its own.
        extent_step: slices are cut to a multiple of this many voxels.
    """

    function: Callable[[npt.NDArray[np.float32], int], Any]
    num_classes: int
    precision: str
    chunk_positions: int
    engine: str = "tensorflow"
    device_bytes: float = math.inf
    extent_step: int = EXTENT_STEP

    def plan(
        self, volume: npt.NDArray[np.float32], memory_bytes: float | None = None, **how: Any
    ) -> Plan:
        """Divides a volume into tiles that fit into the memory of this network's device.

        Args:
            volume: float32 (I, J, K), prepared intensities, exactly 0 outside the foreground.
            memory_bytes: memory that a tile may take; None is half of what is free.
            **how: as for `mtseg.inference.tiling.plan_tiles`.

        Raises:
            InputError: if not even small tiles fit.
        """
        if memory_bytes is None:
            memory_bytes = free_bytes() / 2
        return plan_tiles(
            volume,
            self.num_classes,
            self.precision,
            min(memory_bytes, self.device_bytes),
            chunk_positions=self.chunk_positions,
            extent_step=self.extent_step,
            **how,
        )

    def run(self, volume: npt.NDArray[np.float32], tile: Tile) -> npt.NDArray[np.float32]:
        """Computes a tile.

        Args:
            volume: float32 (I, J, K), RAS+, the one that the tile was planned for.
            tile: one of a plan's tiles.

        Returns:
            The probabilities of the foreground voxels of `tile.computed`, float32 (voxels,
            num_classes), in C order.

        Raises:
            DeviceMemoryError: if the device has not enough memory for it.
        """
        try:
            return np.asarray(self.function(with_halo(volume, tile), self.chunk_positions))
        except MemoryError as error:
            raise DeviceMemoryError(
                "the memory of the device is too small for a tile. Close other programs that use "
                "it, or give a smaller --memory-gb."
            ) from error

    def with_smaller_chunks(self) -> DenseNetwork:
        """The same network with a quarter of the voxels passing the convolutions at once."""
        return dataclasses.replace(self, chunk_positions=max(1, self.chunk_positions // 4))

    def run_all(
        self, volume: npt.NDArray[np.float32], plan: Plan
    ) -> Iterator[tuple[Tile, npt.NDArray[np.float32]]]:
        """Computes the tiles of a plan one after the other; see `run`."""
        for tile in plan.tiles:
            yield tile, self.run(volume, tile)


def choose_precision() -> str:
    """The faster precision of TensorFlow: `bfloat16` if its device has instructions for it."""
    return "bfloat16" if has_fast_bfloat16() else "float32"


def make_dense_network(patch_model: keras.Model, precision: str | None = None) -> DenseNetwork:
    """Makes a network for whole volumes on TensorFlow that shares a patch model's weights.

    Args:
        patch_model: from `mtseg.network.model.build_patch_model`. If it is trained further, the
            dense network changes with it.
        precision: one of `PRECISIONS`; None is the faster one on this machine.

    Raises:
        InputError: if Keras does not compute with TensorFlow in this process.
    """
    from mtseg.inference.engines.tensorflow_engine import open_patch_model

    return open_patch_model(patch_model, precision or choose_precision())


def dense_probabilities(
    network: DenseNetwork, volume: npt.NDArray[np.float32], memory_bytes: float | None = None
) -> npt.NDArray[np.float32]:
    """Computes class probabilities at every voxel of a volume, all in memory at once.

    Args:
        network: computes the tiles.
        volume: float32 (I, J, K), RAS+, prepared intensities, exactly 0 outside the foreground.
        memory_bytes: memory that a tile may take; None is half of what is free.

    Returns:
        float32 (I, J, K, num_classes). Outside the foreground, background has probability 1; in a
        volume of zeros, everywhere.

    Raises:
        InputError: if not even small tiles fit into the memory.
    """
    probabilities = np.zeros((*volume.shape, network.num_classes), np.float32)
    probabilities[..., 0] = 1
    for tile, rows in network.run_all(volume, network.plan(volume, memory_bytes)):
        probabilities[tile.core][volume[tile.core] != 0] = rows
    return probabilities


def with_halo(volume: npt.NDArray[np.float32], tile: Tile) -> npt.NDArray[np.float32]:
    """Cuts a tile and the voxels that its patches reach; beyond the volume they are 0.

    Args:
        volume: float32 (I, J, K).
        tile: one of its tiles.

    Returns:
        float32, the size of `tile.computed` and 25 voxels more on each side.
    """
    low = [max(s.start - HALO, 0) for s in tile.computed]
    high = [min(s.stop + HALO, n) for s, n in zip(tile.computed, volume.shape, strict=True)]
    inside = volume[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    missing = [
        (a - (s.start - HALO), (s.stop + HALO) - b)
        for a, b, s in zip(low, high, tile.computed, strict=True)
    ]
    return np.pad(inside, missing)
