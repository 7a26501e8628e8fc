"""Reading a weights file without Keras.

Keras writes HDF5 files in which a layer is named after its class and its place, and a weight after
its number. `read_folded` reads one as NumPy arrays, for the engines that compute without Keras.
"""

from __future__ import annotations

import math
import types
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.network.architecture import (
    BATCH_NORM_EPSILON,
    KERNEL_SIZE,
    NUM_CONVOLUTIONS,
    NUM_FEATURES,
    NUM_HEAD_UNITS,
)
from mtseg.network.folding import FoldedNetwork, LayerWeights, NetworkWeights, fold_weights
from mtseg.runs.weights import locate_weights, require_finite, require_plain
from mtseg.tasks.label_space import LabelSpace

_OPS = types.SimpleNamespace(
    abs=np.abs,
    erf=np.vectorize(math.erf, otypes=[np.float32]),
    exp=np.exp,
    max=np.max,
    minimum=np.minimum,
    reshape=np.reshape,
    sqrt=np.sqrt,
)
"""What `mtseg.network.folding.fold_weights` needs."""

_SHARED = "layers/sequential/layers"
"""Where the file has the shared convolutions."""


def read_folded(path: Path, which: str = "last") -> tuple[LabelSpace, FoldedNetwork]:
    """Reads a trained network with batch normalisation folded in.

    Args:
        path: folder of a run, or of an exported weights file.
        which: as for `mtseg.runs.weights.load_trained`.

    Returns:
        Its tasks and classes, and its weights as NumPy arrays, float32.

    Raises:
        InputError: if the folder is neither, has no such weights yet, or they are damaged.
    """
    config, label_space, weights, remedy = locate_weights(path, which)
    num_backgrounds = label_space.num_backgrounds(config.backgrounds)
    try:
        import h5py
    except ImportError as error:
        raise InputError(
            f"{weights}: cannot be read without h5py. Install it: pip install h5py"
        ) from error
    try:
        require_plain(weights)
        with h5py.File(weights) as file:
            network = _read(file, label_space.num_classes - 1, num_backgrounds)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise InputError(
            f"{weights}: cannot be read as weights of this network ({type(error).__name__}). "
            f"{remedy}"
        ) from error
    layers = [*network.stack, *network.head]
    arrays = [array for layer in layers for array in layer[:-1]]
    require_finite([*arrays, *network.logits], weights)
    return label_space, fold_weights(network, _OPS)


def _read(file: Any, num_foreground_classes: int, num_backgrounds: int) -> NetworkWeights:
    """Reads all weights of an open file; its errors are those of h5py, and ValueError."""

    def read(name: str, *shape: int) -> npt.NDArray[np.float32]:
        array = np.asarray(file[name])
        if array.shape != shape or array.dtype != np.float32:
            raise ValueError(f"{name}: {array.dtype} {array.shape}")
        return array

    def read_layer(folder: str, number: int, *kernel_shape: int) -> LayerWeights:
        suffix = f"_{number}" if number else ""  # Keras counts layers of a class from the second on
        norm = f"{folder}/fused_batch_normalization{suffix}/vars"
        return LayerWeights(
            read(f"{folder}/conv2d{suffix}/vars/0", *kernel_shape),
            gamma=read(f"{norm}/0", kernel_shape[-1]),
            beta=read(f"{norm}/1", kernel_shape[-1]),
            moving_mean=read(f"{norm}/2", kernel_shape[-1]),
            moving_variance=read(f"{norm}/3", kernel_shape[-1]),
            epsilon=BATCH_NORM_EPSILON,
        )

    size, features, units = KERNEL_SIZE, NUM_FEATURES, NUM_HEAD_UNITS
    num_logits = num_backgrounds + num_foreground_classes
    return NetworkWeights(
        stack=tuple(
            read_layer(_SHARED, n, size, size, features if n else 1, features)
            for n in range(NUM_CONVOLUTIONS)
        ),
        head=(
            read_layer("layers", 0, 1, 1, 3 * features, units),
            read_layer("layers", 1, 1, 1, units, units),
        ),
        logits=(
            read("layers/conv2d_2/vars/0", 1, 1, units, num_logits),
            read("layers/conv2d_2/vars/1", num_logits),
        ),
        num_backgrounds=num_backgrounds,
    )
