"""Whole-volume inference: a prepared volume comes in, class probabilities of every voxel leave.

The result at a foreground voxel is the patch model's there. A voxel outside the foreground is
background, since such voxels are never sampled in training.

Reference: Moeskops et al., MICCAI 2016, section 3.1: 1×1 convolutions and no subsampling let
images of any size be processed at once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from mtseg.model import HALO, NUM_FEATURES, build_dense_model

BLOCK_FEATURE_BYTES = 1_500_000_000
"""Memory for the features of the largest block that is computed at once. With their copies and the
slices under way a block holds about three and a half times as much."""

_FEATURE_BYTES = 3 * NUM_FEATURES * 4
"""Memory for the features of one voxel: three planes, float32."""

_Block = tuple[slice, ...]


def dense_probabilities(
    dense_model: keras.Model | Callable[[np.ndarray], np.ndarray],
    volume: np.ndarray,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Computes class probabilities at every voxel of a volume, in bounded memory.

    Only the foreground's bounding box is computed: there are zeros beyond it, as there are beyond
    the volume's border. A large box is divided into blocks, each computed with the voxels around
    it that its patches reach, so the result does not depend on the division.

    Args:
        dense_model: from `mtseg.model.build_dense_model`, or a function from a volume, float32
            (I, J, K), to probabilities (I, J, K, num_classes), such as an exported model's.
        volume: float32 (I, J, K), RAS+, intensities as prepared, exactly 0 outside the foreground.
        on_progress: called after every block with the number of blocks done and of all blocks.

    Returns:
        float32 (I, J, K, num_classes). Background has probability 1 outside the foreground, so
        everywhere if the volume is all zero.
    """
    run = _run_model(dense_model) if isinstance(dense_model, keras.Model) else dense_model
    volume = np.asarray(volume, np.float32)
    foreground = volume != 0
    box = _bounding_box(foreground)
    # In a volume without foreground one voxel still tells how many classes there are.
    cores = [c for c in _divide(box) if foreground[c].any()] or [(slice(0, 1),) * 3]
    probabilities: np.ndarray | None = None
    for done, core in enumerate(cores, start=1):
        around = tuple(
            slice(max(c.start - HALO, b.start), min(c.stop + HALO, b.stop))
            for c, b in zip(core, box, strict=True)
        )
        inside = tuple(
            slice(c.start - a.start, c.stop - a.start) for c, a in zip(core, around, strict=True)
        )
        computed = run(np.ascontiguousarray(volume[around]))[inside]
        if probabilities is None:
            probabilities = np.zeros((*volume.shape, computed.shape[-1]), np.float32)
            probabilities[..., 0] = 1
        is_foreground = foreground[core]
        probabilities[core][is_foreground] = computed[is_foreground]
        if on_progress is not None:
            on_progress(done, len(cores))
    assert probabilities is not None
    return probabilities


def make_dense_function(patch_model: keras.Model) -> tf.types.experimental.PolymorphicFunction:
    """Makes whole-volume inference one graph, for a SavedModel.

    The function reads the patch model's own variables, so what exports it has to track the patch
    model. It computes the volume as it is, in one piece: the memory grows with the volume.

    Args:
        patch_model: from `mtseg.model.build_patch_model`.

    Returns:
        A `tf.function` with one signature: `volume`, float32 (I, J, K) of any size, to
        probabilities, float32 (I, J, K, num_classes), as `dense_probabilities` gives them.
    """
    dense_model = build_dense_model(patch_model)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None], tf.float32, name="volume")])
    def dense(volume: tf.Tensor) -> tf.Tensor:
        probabilities = dense_model(volume[None, ..., None], training=False)[0]
        background = tf.one_hot(0, probabilities.shape[-1])
        return tf.where(volume[..., None] != 0, probabilities, background)

    return dense


def _run_model(dense_model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    return lambda volume: dense_model.predict_on_batch(volume[None, ..., None])[0]


def _bounding_box(foreground: np.ndarray) -> _Block:
    """The smallest block that holds all of the foreground; one voxel if there is none."""
    box = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        (occupied,) = np.nonzero(foreground.any(axis=others))
        box.append(slice(occupied[0], occupied[-1] + 1) if occupied.size else slice(0, 1))
    return tuple(box)


def _divide(box: _Block) -> list[_Block]:
    """Divides a block until the features of each part, with its halo, fit in their memory.

    Parts no thicker than the halo stay whole: thinner ones would compute far more than they save.
    """
    sizes = [s.stop - s.start for s in box]
    counts = [1, 1, 1]
    while True:
        edges = [math.ceil(size / count) for size, count in zip(sizes, counts, strict=True)]
        with_halo = [min(e + 2 * HALO, size) for e, size in zip(edges, sizes, strict=True)]
        if math.prod(with_halo) * _FEATURE_BYTES <= BLOCK_FEATURE_BYTES or max(edges) <= HALO:
            break
        counts[edges.index(max(edges))] += 1
    return list(
        itertools.product(
            *(
                [slice(n, min(n + edge, s.stop)) for n in range(s.start, s.stop, edge)]
                for s, edge in zip(box, edges, strict=True)
            )
        )
    )
