"""Whole-volume inference: class probabilities at every foreground voxel of a prepared volume.

At a foreground voxel the result equals that of the patch model: the convolutions are valid, with
zeros outside the scan. A voxel outside the foreground is background, because such voxels are never
drawn in training. Neighbouring patches share their convolutions, which makes a voxel 833 times
cheaper than patch by patch.

Evaluation uses the graph with the current weights of a training; `mtseg.prediction` loads the same
graph from a SavedModel.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.client import device_lib

from mtseg.inference.tile_cost import CHUNK_BYTES, chunk_positions_for
from mtseg.inference.tile_graph import make_tile_function
from mtseg.inference.tiling import Plan, Tile, plan_tiles
from mtseg.network.model import HALO
from mtseg.system.hardware import free_bytes, has_bfloat16_instructions

PRECISIONS = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class DenseNetwork:
    """A network that computes tiles.

    Attributes:
        function: from `mtseg.inference.tile_graph.make_tile_function`, or the same out of a
            SavedModel.
        num_classes: its classes.
        precision: in which its convolutions run.
        chunk_positions: voxels that pass the convolutions at once.
    """

    function: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    num_classes: int
    precision: str
    chunk_positions: int

    def plan(self, volume: np.ndarray, memory_bytes: float | None = None, **how: Any) -> Plan:
        """`mtseg.inference.tiling.plan_tiles` for this network, in the memory of its device.

        Args:
            volume: float32 (I, J, K), intensities as prepared, exactly 0 outside the foreground.
            memory_bytes: what a tile may take; None is half of what is free.
            how: as for `plan_tiles`.
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

    def run(self, volume: np.ndarray, tile: Tile) -> np.ndarray:
        """Computes a tile.

        Args:
            volume: float32 (I, J, K), RAS+, as the plan was made for.
            tile: one of the plan's.

        Returns:
            The probabilities of the foreground voxels of `tile.computed`, float32 (voxels,
            num_classes), in C order.
        """
        block = tf.constant(with_halo(volume, tile))
        return self.function(block, tf.constant(self.chunk_positions)).numpy()

    def run_all(self, volume: np.ndarray, plan: Plan) -> Iterator[tuple[Tile, np.ndarray]]:
        """Computes the tiles of a plan one after the other; see `run`."""
        for tile in plan.tiles:
            yield tile, self.run(volume, tile)


def _gpu_bytes() -> int | None:
    """Memory of the GPU that TensorFlow computes on; None without one."""
    if not tf.config.list_physical_devices("GPU"):
        return None
    devices = device_lib.list_local_devices()
    return max(device.memory_limit for device in devices if device.device_type == "GPU")


def _device_bytes() -> float:
    """Memory that a tile may take on its device: most of a GPU's, all where the host computes."""
    gpu_bytes = _gpu_bytes()
    return math.inf if gpu_bytes is None else 0.8 * gpu_bytes


def device_chunk_positions(precision: str) -> int:
    """Voxels that pass the convolutions at once on this machine's device."""
    gpu_bytes = _gpu_bytes()
    # Many more fill a GPU's cores; its memory holds a layer's input and output several times over.
    return chunk_positions_for(precision, CHUNK_BYTES if gpu_bytes is None else gpu_bytes // 32)


def fastest_precision() -> str:
    """`bfloat16` where this machine multiplies it by itself, else `float32`."""
    if gpus := tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(gpus[0])
        is_fast = details.get("compute_capability", (0, 0)) >= (8, 0)
    else:
        is_fast = has_bfloat16_instructions()
    return "bfloat16" if is_fast else "float32"


def make_dense_network(patch_model: keras.Model, precision: str | None = None) -> DenseNetwork:
    """Makes a network for whole volumes that follows a patch model's weights.

    Args:
        patch_model: from `mtseg.network.model.build_patch_model`. Training it further changes what
            the dense network gives.
        precision: `float32` or `bfloat16`; None is the faster one on this machine.
    """
    precision = precision or fastest_precision()
    num_classes = patch_model.output.shape[-1]
    return DenseNetwork(
        make_tile_function(patch_model, precision),
        num_classes,
        precision,
        device_chunk_positions(precision),
    )


def dense_probabilities(
    network: DenseNetwork, volume: np.ndarray, memory_bytes: float | None = None
) -> np.ndarray:
    """Class probabilities at every voxel of a volume, all of them in memory.

    Args:
        network: what computes tiles.
        volume: float32 (I, J, K), RAS+, intensities as prepared, exactly 0 outside the foreground.
        memory_bytes: what computing a tile may take; None is half of what is free.

    Returns:
        float32 (I, J, K, num_classes). Background has probability 1 outside the foreground, so
        everywhere if the volume is all zero.
    """
    probabilities = np.zeros((*volume.shape, network.num_classes), np.float32)
    probabilities[..., 0] = 1
    for tile, rows in network.run_all(volume, network.plan(volume, memory_bytes)):
        probabilities[tile.core][volume[tile.core] != 0] = rows
    return probabilities


def with_halo(volume: np.ndarray, tile: Tile) -> np.ndarray:
    """A tile's voxels and those that its patches reach, zeros beyond the volume."""
    low = [max(s.start - HALO, 0) for s in tile.computed]
    high = [min(s.stop + HALO, n) for s, n in zip(tile.computed, volume.shape, strict=True)]
    inside = volume[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    missing = [
        (a - (s.start - HALO), (s.stop + HALO) - b)
        for a, b, s in zip(low, high, tile.computed, strict=True)
    ]
    return np.pad(inside, missing)
