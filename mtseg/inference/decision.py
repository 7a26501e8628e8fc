"""The decision rule: which class a voxel gets, given the probabilities of all classes.

A network for several tasks has classes of two kinds (the paper's section 4). The classes of an
`argmax` task compete by probability. A class of an `operating_point` task is found where its
probability reaches a threshold that the evaluation chose. A scan's task is unknown, so a voxel may
qualify for one class of each kind. Prediction, serving, evaluation and pictures all use this rule:

1. If the most probable class of all is a foreground class of an argmax task, the voxel gets it.
2. Otherwise, the candidate is the most probable class among those with an operating point. The
   voxel gets the candidate if its probability reaches its operating point.
3. Otherwise the voxel is background.

Of equally probable classes, the one with the lowest index counts as the most probable. Example:
background 0.1, white matter 0.5, pectoral muscle 0.4 with an operating point of 0.3 gives white
matter.

Why argmax classes come first: being the most probable of all classes is stronger evidence than
reaching a threshold that was chosen on other scans, and argmax tasks keep exactly the paper's
figures, whatever thresholds other tasks have. Steps 1 and 2 rank the classes without any
threshold, so an evaluation can `rank` each voxel once, choose the thresholds afterwards, and
`apply_thresholds` without computing the scan again. For the paper's networks of one task the rule
is the paper's: argmax, or `p >= threshold`.

The order of the steps is this project's choice; the paper evaluates each task by itself.

Reference: Moeskops et al., MICCAI 2016, section 4.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import tensorflow as tf


@dataclasses.dataclass(frozen=True, eq=False)
class Ranking:
    """The result of `rank`: what the rule needs to know of each voxel, without any threshold.

    Attributes:
        most_probable: uint8, any shape, combined class index of the most probable of all classes.
        candidate: uint8, same shape, combined class index of the most probable class with an
            operating point; 0 if the network has no such class.
        candidate_probability: floats of the same shape, its probability; -1 if there is no
            candidate.
    """

    most_probable: npt.NDArray[np.uint8]
    candidate: npt.NDArray[np.uint8]
    candidate_probability: npt.NDArray[np.floating[Any]]

    def __getitem__(self, voxels: Any) -> Ranking:
        """The ranking of some voxels, by any NumPy index such as a mask."""
        return Ranking(
            self.most_probable[voxels], self.candidate[voxels], self.candidate_probability[voxels]
        )


def rank(
    class_probabilities: Iterable[npt.NDArray[np.floating[Any]]], is_thresholded: Sequence[bool]
) -> Ranking:
    """Finds each voxel's most probable class and its candidate (the rule's steps 1 and 2).

    Args:
        class_probabilities: the probability map of each combined class in turn, background first,
            floats of one shape. The maps are taken one at a time, so they need not be in memory
            together. For rows (voxels, num_classes) give `np.moveaxis(rows, -1, 0)`.
        is_thresholded: for each combined class, whether it has an operating point.

    Raises:
        ValueError: if there is not one map per class.
    """
    maps = iter(zip(class_probabilities, is_thresholded, strict=True))
    background, _ = next(maps)
    best = np.array(background)
    del background  # a map of a large tile is large
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
    """Whether step 1 decides a voxel: its most probable class is one of an argmax task.

    Args:
        most_probable: uint8, any shape, combined class index.
        is_thresholded: for each combined class, whether it has an operating point.

    Returns:
        Booleans in the same shape; False where background is the most probable.
    """
    decides = ~np.array(is_thresholded, bool)
    decides[0] = False
    return decides[most_probable]


def apply_thresholds(
    ranking: Ranking, is_thresholded: Sequence[bool], thresholds: Mapping[int, float]
) -> npt.NDArray[np.uint8]:
    """Turns a ranking into labels.

    Args:
        ranking: from `rank`, of any shape.
        is_thresholded: for each combined class, whether it has an operating point.
        thresholds: combined class index -> operating point. An operating point may be unknown: an
            evaluation of one task does not choose those of the others. Such a class is found where
            it is the most probable of all classes.

    Returns:
        uint8 combined class index, in the ranking's shape.
    """
    # Infinity is never reached: background, where there is no candidate, and unknown points.
    points = np.full(len(is_thresholded), np.inf)
    for class_index, threshold in thresholds.items():
        points[class_index] = threshold
    # Compared in the precision of the probabilities, as `probability >= threshold` would be.
    needed = points.astype(ranking.candidate_probability.dtype)[ranking.candidate]
    is_found = ranking.candidate_probability >= needed
    unknown = [c for c, is_one in enumerate(is_thresholded) if is_one and c not in thresholds]
    if unknown:  # the most probable of all classes is then the candidate
        is_found |= np.isin(ranking.most_probable, unknown)
    labels = np.where(is_found, ranking.candidate, np.uint8(0))
    is_decided = is_argmax_class(ranking.most_probable, is_thresholded)
    np.copyto(labels, ranking.most_probable, where=is_decided)
    return labels


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
    points = {c: t for c, t in enumerate(thresholds) if t is not None}
    return apply_thresholds(rank(class_probabilities, is_thresholded), is_thresholded, points)


def decide_rows(
    rows: npt.NDArray[np.floating[Any]],
    most_probable: npt.NDArray[np.integer],
    thresholds: Sequence[float | None],
) -> npt.NDArray[np.uint8]:
    """`decide` for rows of which the most probable class is known already, which is faster.

    Args:
        rows: floats (voxels, num_classes), probabilities.
        most_probable: integers (voxels,), `rows.argmax(axis=-1)`.
        thresholds: as for `decide`.

    Returns:
        uint8 combined class index, (voxels,).
    """
    labels = most_probable.astype(np.uint8)
    labels[~is_argmax_class(labels, [threshold is not None for threshold in thresholds])] = 0
    thresholded = [c for c, threshold in enumerate(thresholds) if threshold is not None]
    if thresholded:
        candidates = rows[:, thresholded]
        place = candidates.argmax(axis=-1)
        points = np.array([thresholds[c] for c in thresholded], rows.dtype)
        is_found = candidates[np.arange(len(rows)), place] >= points[place]
        at_threshold = np.where(is_found, np.array(thresholded, np.uint8)[place], np.uint8(0))
        np.copyto(labels, at_threshold, where=labels == 0)
    return labels


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
