"""Figures of a segmentation: masks or probabilities come in, numbers leave.

A figure that is undefined is None, never 0 or 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf


def decide(
    class_probabilities: Iterable[np.ndarray], thresholds: Sequence[float | None]
) -> np.ndarray:
    """Turns probabilities into labels without knowing a scan's task.

    A voxel whose most probable class is a foreground class of an `argmax` task gets that class,
    as in the paper. Any other voxel gets the class of an `operating_point` task whose
    probability reaches its threshold (by the largest factor, if several do), else background.

    Args:
        class_probabilities: the probability map of each combined class in turn, background
            first, any one shape. Taken one at a time, so they need not be in memory together.
        thresholds: for each combined class its operating point, or None for background and for
            the classes of `argmax` tasks.

    Returns:
        uint8 combined class index, in the maps' shape.
    """
    maps = iter(zip(class_probabilities, thresholds, strict=True))
    background, _ = next(maps)
    at_threshold = np.zeros(background.shape, np.uint8)
    at_argmax = np.zeros(background.shape, np.uint8)
    best_argmax = np.zeros_like(background)
    best_factor = np.zeros_like(background)
    best_other = background.copy()
    for class_index, (probability, threshold) in enumerate(maps, start=1):
        if threshold is None:
            at_argmax[probability > best_argmax] = class_index
            np.maximum(best_argmax, probability, out=best_argmax)
        else:
            np.maximum(best_other, probability, out=best_other)
            factor = probability / max(threshold, 1e-6)
            is_reached = probability >= np.asarray(threshold, probability.dtype)
            is_better = is_reached & (factor > best_factor)
            at_threshold[is_better] = class_index
            best_factor[is_better] = factor[is_better]
    return np.where(best_argmax > best_other, at_argmax, at_threshold)


def decide_in_graph(probabilities: tf.Tensor, thresholds: list[float | None]) -> tf.Tensor:
    """The rule of `mtseg.inference.decision.decide`, inside a graph.

    Args:
        probabilities: float32 (..., classes).
        thresholds: for each class its operating point, or None.

    Returns:
        uint8 (...), combined class index.
    """
    at_argmax = [c for c, t in enumerate(thresholds) if t is None and c > 0]
    at_threshold = [c for c, t in enumerate(thresholds) if t is not None]
    others = tf.gather(probabilities, [0, *at_threshold], axis=-1)
    labels = tf.zeros(tf.shape(probabilities)[:-1], tf.uint8)
    if at_threshold:
        points = tf.constant([thresholds[c] for c in at_threshold], probabilities.dtype)
        candidates = others[..., 1:]
        factors = tf.where(candidates >= points, candidates / tf.maximum(points, 1e-6), 0.0)
        best = tf.gather(tf.constant(at_threshold, tf.uint8), tf.argmax(factors, axis=-1))
        labels = tf.where(tf.reduce_max(factors, axis=-1) > 0, best, labels)
    if at_argmax:
        candidates = tf.gather(probabilities, at_argmax, axis=-1)
        best = tf.gather(tf.constant(at_argmax, tf.uint8), tf.argmax(candidates, axis=-1))
        is_higher = tf.reduce_max(candidates, axis=-1) > tf.reduce_max(others, axis=-1)
        labels = tf.where(is_higher, best, labels)
    return labels
