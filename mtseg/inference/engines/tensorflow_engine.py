"""Tiles computed by TensorFlow, on a processor or a GPU.

In float32, TensorFlow's TF32 is off on GPUs while a tile is computed, so that a GPU and a processor
agree to 1e-4 in probability.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from mtseg.errors import InputError
from mtseg.inference.dense import DenseNetwork
from mtseg.inference.tile_cost import CHUNK_BYTES, chunk_bytes_of_gpu, chunk_positions_for
from mtseg.inference.tile_graph import make_tile_function
from mtseg.system.devices import gpu_bytes

_GPU_SHARE = 0.8
"""Share of a GPU's memory that a tile may take."""


def open_patch_model(patch_model: keras.Model, precision: str) -> DenseNetwork:
    """Makes a network that computes with a patch model's own variables.

    Args:
        patch_model: from `mtseg.network.model.build_patch_model`.
        precision: one of `mtseg.inference.dense.PRECISIONS`.

    Raises:
        InputError: if Keras does not compute with TensorFlow in this process.
    """
    if (backend := keras.backend.backend()) != "tensorflow":
        raise InputError(
            f"KERAS_BACKEND: is {backend} in this process, but whole volumes are computed with "
            "TensorFlow. Use a new process without it; only training takes jax."
        )
    function = make_tile_function(patch_model, precision)
    return open_function(function, patch_model.output.shape[-1], precision)


def open_function(
    function: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], num_classes: int, precision: str
) -> DenseNetwork:
    """Makes a network of a function on tensors.

    Args:
        function: from `mtseg.inference.tile_graph.make_tile_function`, or the same function of a
            SavedModel.
        num_classes: number of combined classes, including background.
        precision: in which its convolutions run.
    """

    def compute(tile: npt.NDArray[np.float32], chunk_positions: int) -> npt.NDArray[np.float32]:
        try:
            with exact_float32 if precision == "float32" else contextlib.nullcontext():
                rows: npt.NDArray[np.float32] = function(
                    tf.constant(tile), tf.constant(chunk_positions)
                ).numpy()
        except tf.errors.ResourceExhaustedError as error:
            raise MemoryError(str(error)) from error
        return rows

    return DenseNetwork(
        compute,
        num_classes,
        precision,
        device_chunk_positions(precision),
        "tensorflow",
        _device_bytes(),
    )


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


exact_float32 = _ExactFloat32()
"""TF32 is off inside its `with` block."""


def _device_bytes() -> float:
    """Memory that a tile may take on its device: most of a GPU's, no limit on a processor."""
    of_gpu = gpu_bytes()
    return math.inf if of_gpu is None else _GPU_SHARE * of_gpu


def device_chunk_positions(precision: str) -> int:
    """Voxels, including their halo, that pass the convolutions at once on this machine.

    Args:
        precision: `float32` or `bfloat16`.
    """
    of_gpu = gpu_bytes()
    return chunk_positions_for(
        precision, CHUNK_BYTES if of_gpu is None else chunk_bytes_of_gpu(of_gpu)
    )
