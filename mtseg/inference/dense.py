"""Whole-volume inference: class probabilities at every foreground voxel of a prepared volume.

At a foreground voxel the result equals that of the patch model: the convolutions are valid, with
zeros outside the scan. A voxel outside the foreground is background, because training never draws
such voxels. Neighbouring patches share their convolutions, so a voxel needs 833 times fewer
operations than patch by patch.

An evaluation during training uses `make_dense_network`, which follows the current weights;
`mtseg.models.loading` makes a `DenseNetwork` from an exported model with the same graph.

In float32, TensorFlow's TF32 is off on GPUs while a tile is computed, so that a GPU and a processor
agree to 1e-4 in probability.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from mtseg.errors import DeviceMemoryError, InputError
from mtseg.inference.tile_cost import CHUNK_BYTES, chunk_positions_for
from mtseg.inference.tile_graph import make_tile_function
from mtseg.inference.tiling import Plan, Tile, plan_tiles
from mtseg.network.model import HALO
from mtseg.system.devices import gpu_bytes, has_fast_bfloat16
from mtseg.system.hardware import free_bytes

PRECISIONS = ("float32", "bfloat16")
"""Number types that the convolutions may run in."""

_GPU_SHARE = 0.8
"""Share of a GPU's memory that a tile may take."""


@dataclasses.dataclass(frozen=True)
class DenseNetwork:
    """A network that computes the tiles of a volume in this process.

    Attributes:
        function: from `mtseg.inference.tile_graph.make_tile_function`, or the same function of a
            SavedModel.
        num_classes: number of combined classes, including background.
        precision: one of `PRECISIONS`, in which its convolutions run.
        chunk_positions: voxels, including their halo, that pass the convolutions at once.
    """

    function: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    num_classes: int
    precision: str
    chunk_positions: int

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
            min(memory_bytes, _device_bytes()),
            chunk_positions=self.chunk_positions,
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
            with _exact_float32 if self.precision == "float32" else contextlib.nullcontext():
                rows: npt.NDArray[np.float32] = self.function(
                    tf.constant(with_halo(volume, tile)), tf.constant(self.chunk_positions)
                ).numpy()
        except (tf.errors.ResourceExhaustedError, MemoryError) as error:
            raise DeviceMemoryError(
                "the memory of the device is too small for a tile. Close other programs that use "
                "it, or give a smaller --memory-gb."
            ) from error
        return rows

    def with_smaller_chunks(self) -> DenseNetwork:
        """The same network with a quarter of the voxels passing the convolutions at once."""
        return dataclasses.replace(self, chunk_positions=max(1, self.chunk_positions // 4))

    def run_all(
        self, volume: npt.NDArray[np.float32], plan: Plan
    ) -> Iterator[tuple[Tile, npt.NDArray[np.float32]]]:
        """Computes the tiles of a plan one after the other; see `run`."""
        for tile in plan.tiles:
            yield tile, self.run(volume, tile)


class _ExactFloat32:
    """Keeps GPUs from rounding float32 numbers to ten bits of fraction (TF32) within a block.

    TensorFlow has one switch for the whole process, and two threads may compute tiles at once: the
    first one turns it off, the last one restores it.
    """

    def __init__(self) -> None:
        self._lock, self._num_inside, self._was_on = threading.Lock(), 0, False

    def __enter__(self) -> None:
        with self._lock:
            if not self._num_inside:
                self._was_on = tf.config.experimental.tensor_float_32_execution_enabled()
                tf.config.experimental.enable_tensor_float_32_execution(False)
            self._num_inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._num_inside -= 1
            if not self._num_inside:
                tf.config.experimental.enable_tensor_float_32_execution(self._was_on)


_exact_float32 = _ExactFloat32()


def _device_bytes() -> float:
    """Memory that a tile may take on its device: most of a GPU's, no limit on a processor."""
    of_gpu = gpu_bytes()
    return math.inf if of_gpu is None else _GPU_SHARE * of_gpu


def device_chunk_positions(precision: str) -> int:
    """Voxels, including their halo, that pass the convolutions at once on this machine.

    Args:
        precision: one of `PRECISIONS`.
    """
    of_gpu = gpu_bytes()
    # A GPU's cores need many more. Its memory has room for several layers' inputs and outputs.
    return chunk_positions_for(precision, CHUNK_BYTES if of_gpu is None else of_gpu // 32)


def choose_precision() -> str:
    """The faster precision: `bfloat16` if the device that computes has instructions for it."""
    return "bfloat16" if has_fast_bfloat16() else "float32"


def make_dense_network(patch_model: keras.Model, precision: str | None = None) -> DenseNetwork:
    """Makes a network for whole volumes that shares a patch model's weights.

    Args:
        patch_model: from `mtseg.network.model.build_patch_model`. If it is trained further, the
            dense network changes with it.
        precision: one of `PRECISIONS`; None is the faster one on this machine.

    Raises:
        InputError: if Keras does not compute with TensorFlow in this process.
    """
    if (backend := keras.backend.backend()) != "tensorflow":
        raise InputError(
            f"KERAS_BACKEND: is {backend} in this process, but whole volumes are computed with "
            "TensorFlow. Use a new process without it; only training takes jax."
        )
    precision = precision or choose_precision()
    num_classes = patch_model.output.shape[-1]
    return DenseNetwork(
        make_tile_function(patch_model, precision),
        num_classes,
        precision,
        device_chunk_positions(precision),
    )


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
