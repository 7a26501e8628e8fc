"""The decision rule: which class a voxel gets, given the probabilities of all classes.

A network for several tasks has classes of two kinds (the paper's section 4). The classes of an
`argmax` task compete by probability. A class of an `operating_point` task is found where its
probability reaches a threshold that the evaluation chose. A scan's task is unknown, so both kinds
may claim one voxel. Prediction, serving, evaluation and pictures all use this rule:

1. If the most probable class of all is a foreground class of an argmax task, the voxel gets it.
2. Otherwise, the candidate is the most probable class among those with an operating point. The
   voxel gets the candidate if its probability reaches its operating point.
3. Otherwise the voxel is background.

Of equally probable classes the first counts. Example: background 0.1, white matter 0.5, pectoral
muscle 0.4 with an operating point of 0.3 gives white matter.

Why argmax classes come first: being the most probable of all classes is stronger evidence than
reaching a threshold that was chosen on other scans, and argmax tasks keep exactly the paper's
figures, whatever thresholds other tasks have. Steps 1 and 2 rank the classes without any
threshold, so an evaluation can rank each voxel once and choose the thresholds afterwards. For the
paper's networks of one task the rule is the paper's: argmax, or `p >= threshold`.

The order of the steps is this project's choice; the paper evaluates each task by itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import tensorflow as tf


@dataclasses.dataclass(frozen=True, eq=False)
class Ranking:
    """What steps 1 and 2 of the rule need to know of each voxel.

    Attributes:
        most_probable: uint8, any shape, the most probable of all classes.
        candidate: uint8, same shape, the most probable class with an operating point; 0 if the
            network has no such class.
        candidate_probability: float, same shape, its probability.
    """

    most_probable: npt.NDArray[np.uint8]
    candidate: npt.NDArray[np.uint8]
    candidate_probability: npt.NDArray[np.floating[Any]]


def rank(
    class_probabilities: Iterable[npt.NDArray[np.floating[Any]]], is_thresholded: Sequence[bool]
) -> Ranking:
    """Ranks the classes of each voxel.

    Args:
        class_probabilities: the probability map of each combined class in turn, background first,
            floats of one shape. The maps are taken one at a time, so they need not be in memory
            together.
        is_thresholded: for each combined class, whether it has an operating point.
    """
    maps = iter(zip(class_probabilities, is_thresholded, strict=True))
    background, _ = next(maps)
    best = np.array(background)
    most_probable = np.zeros(best.shape, np.uint8)
    candidate = np.zeros(best.shape, np.uint8)
    candidate_probability = np.full_like(best, -1)
    for class_index, (probability, is_candidate) in enumerate(maps, start=1):
        most_probable[probability > best] = class_index
        np.maximum(best, probability, out=best)
        if is_candidate:
            candidate[probability > candidate_probability] = class_index
            np.maximum(candidate_probability, probability, out=candidate_probability)
    return Ranking(most_probable, candidate, candidate_probability)


def is_argmax_class(
    most_probable: npt.NDArray[np.uint8], is_thresholded: Sequence[bool]
) -> npt.NDArray[np.bool_]:
    """Whether step 1 decides a voxel: its most probable class is an argmax task's.

    Args:
        most_probable: uint8 combined class index, any shape.
        is_thresholded: for each combined class, whether it has an operating point.
    """
    decides = ~np.array(is_thresholded, bool)
    decides[0] = False
    return decides[most_probable]


def decide(
    class_probabilities: Iterable[npt.NDArray[np.floating[Any]]],
    thresholds: Sequence[float | None],
) -> npt.NDArray[np.uint8]:
    """Turns probabilities into labels; the module's docstring has the rule.

    Args:
        class_probabilities: as for `rank`.
        thresholds: for each combined class its operating point, or None for background and for
            the classes of argmax tasks.

    Returns:
        uint8 combined class index, in the shape of the maps.

    Example:
        >>> maps = [np.array([p]) for p in (0.1, 0.5, 0.4)]
        >>> decide(maps, (None, None, 0.3))
        array([1], dtype=uint8)
        >>> maps = [np.array([p]) for p in (0.5, 0.1, 0.4)]
        >>> decide(maps, (None, None, 0.3))
        array([2], dtype=uint8)
    """
    is_thresholded = [threshold is not None for threshold in thresholds]
    ranking = rank(class_probabilities, is_thresholded)
    points = np.array([np.inf if t is None else t for t in thresholds])
    # Compared in the precision of the probabilities, as `probability >= threshold` would be.
    needed = points.astype(ranking.candidate_probability.dtype)[ranking.candidate]
    at_threshold = np.where(ranking.candidate_probability >= needed, ranking.candidate, 0)
    return np.where(
        is_argmax_class(ranking.most_probable, is_thresholded), ranking.most_probable, at_threshold
    ).astype(np.uint8)


def decide_in_graph(probabilities: tf.Tensor, thresholds: Sequence[float | None]) -> tf.Tensor:
    """`decide` as TensorFlow operations, for SavedModels.

    Args:
        probabilities: float32 (..., num_classes).
        thresholds: as for `decide`.

    Returns:
        uint8 (...), combined class index.
    """
    import tensorflow as tf

    most_probable = tf.argmax(probabilities, axis=-1, output_type=tf.int32)
    decides = tf.constant([c > 0 and t is None for c, t in enumerate(thresholds)])
    labels = tf.where(tf.gather(decides, most_probable), most_probable, 0)
    thresholded = [c for c, t in enumerate(thresholds) if t is not None]
    if thresholded:
        candidates = tf.gather(probabilities, thresholded, axis=-1)
        place = tf.argmax(candidates, axis=-1, output_type=tf.int32)
        points = tf.constant([thresholds[c] for c in thresholded], probabilities.dtype)
        is_reached = tf.reduce_max(candidates, axis=-1) >= tf.gather(points, place)
        at_threshold = tf.where(is_reached, tf.gather(tf.constant(thresholded), place), 0)
        labels = tf.where(labels > 0, labels, at_threshold)
    return tf.cast(labels, tf.uint8)
