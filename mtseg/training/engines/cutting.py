"""Cutting patches on the device that trains, from a buffer of all volumes in its memory.

The same function serves TensorFlow and JAX, inside their compiled steps. Its patches are those of
`mtseg.scans.patches.cut_patches`, bit for bit.

Reference: Moeskops et al., MICCAI 2016, sections 3.1 and 3.2.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from mtseg.batches.placed_samples import Places
from mtseg.scans.patches import PATCH_SIZE, PLANE_AXES


def cut_from_buffer(volumes: Any, places: Places) -> Any:
    """Cuts the three orthogonal patches of some samples.

    Args:
        volumes: tensor float16 (voxels,), from `PlacedSamples.make_buffer`.
        places: tensors (n, 4) and float16 (n,). The integers are int64 on TensorFlow, which
            computes with int32 on the processor even if the tensors are on a GPU, and int32 on JAX,
            which has no other.

    Returns:
        Tensor float16 (n, 3, 51, 51), see `mtseg.scans.patches.cut_patches`.
    """
    steps, factors = places
    half = PATCH_SIZE // 2
    # A constant of NumPy: TensorFlow's own range is computed by the processor.
    offsets = np.arange(-half, half + 1, dtype=keras.backend.standardize_dtype(steps.dtype))
    along = [steps[:, axis + 1, None] * offsets for axis in range(3)]  # each (n, 51)
    centre = steps[:, 0, None, None]
    where = [
        centre + along[rows][:, :, None] + along[columns][:, None, :]
        for rows, columns in PLANE_AXES
    ]
    patches = ops.take(volumes, ops.stack(where, axis=1), axis=0)
    return patches * factors[:, None, None, None]
