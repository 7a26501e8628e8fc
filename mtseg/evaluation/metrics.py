"""Dice, precision, recall and operating points, from masks and counts.

A figure that is undefined is None, never 0 or 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

THRESHOLDS = np.linspace(0.0, 1.0, 101)
"""The operating points that are tried (this project's choice; the paper gives no number)."""


def dice(mask_reference: np.ndarray, mask_predicted: np.ndarray) -> float | None:
    """Dice coefficient of two masks: twice the overlap over the sum of both sizes.

    Args:
        mask_reference: booleans, any shape.
        mask_predicted: booleans, the same shape.

    Returns:
        0 to 1; None if the reference is empty, since such a scan has no such tissue to find.
    """
    size_reference = np.count_nonzero(mask_reference)
    if size_reference == 0:
        return None
    overlap = np.count_nonzero(mask_reference & mask_predicted)
    return 2 * overlap / (size_reference + np.count_nonzero(mask_predicted))


def count_above_thresholds(
    mask_reference: np.ndarray, probabilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Counts voxels at or above each of `THRESHOLDS`.

    The counts of several scans add up, so a whole test set is analysed a scan at a time.

    Args:
        mask_reference: booleans, any shape.
        probabilities: floats 0 to 1, the same shape.

    Returns:
        `(num_predicted, num_overlap)`, int64 (101,) each: voxels predicted at the threshold, and
        those of them that are in the reference.
    """
    reached = thresholds_reached(probabilities.ravel())
    overlap = reached[mask_reference.ravel()]

    def at_least(counts: np.ndarray) -> np.ndarray:
        return counts[::-1].cumsum()[::-1][1:]

    size = len(THRESHOLDS) + 1
    return (
        at_least(np.bincount(reached, minlength=size)),
        at_least(np.bincount(overlap, minlength=size)),
    )


def threshold_number(threshold: float) -> int:
    """The place in `THRESHOLDS` of the one nearest to a threshold."""
    return int(np.argmin(np.abs(THRESHOLDS - threshold)))


def thresholds_reached(probabilities: np.ndarray) -> np.ndarray:
    """How many of `THRESHOLDS` each probability reaches, 0 to 101, int64 in the same shape.

    Compared in the probabilities' own precision, so that it agrees with
    `probabilities >= threshold`.
    """
    thresholds = THRESHOLDS.astype(probabilities.dtype)
    return np.searchsorted(thresholds, probabilities, side="right")


def overlap_figures(
    num_predicted: int, num_overlap: int, num_reference: int
) -> dict[str, float | None]:
    """Dice, precision and recall from counts of voxels.

    Args:
        num_predicted: voxels predicted.
        num_overlap: those of them that are in the reference.
        num_reference: voxels in the reference.

    Returns:
        `dice`, `precision` and `recall`. All are None if the reference is empty, since such a scan
        has no such tissue to find; precision also if nothing is predicted.
    """
    if not num_reference:
        return {"dice": None, "precision": None, "recall": None}
    return {
        "dice": 2 * num_overlap / (num_predicted + num_reference),
        "precision": num_overlap / num_predicted if num_predicted else None,
        "recall": num_overlap / num_reference,
    }


def precision_recall(
    num_predicted: Sequence[int], num_overlap: Sequence[int], num_reference: int
) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall at each of `THRESHOLDS`.

    Args:
        num_predicted: integers (101,), summed over the test set.
        num_overlap: integers (101,), summed over the test set.
        num_reference: voxels of the class in the whole test set, above 0.

    Returns:
        `(precision, recall)`, float64 (101,) each. Where nothing is predicted any more precision is
        taken as 1, so that the curve ends at recall 0.
    """
    predicted, overlap = np.asarray(num_predicted), np.asarray(num_overlap)
    precision = np.divide(overlap, predicted, out=np.ones(len(overlap)), where=predicted > 0)
    return precision, overlap / num_reference


def best_threshold(
    num_predicted: np.ndarray, num_overlap: np.ndarray, num_reference: int
) -> tuple[float, float] | None:
    """The operating point with the highest Dice (section 4 of the paper).

    Args:
        num_predicted: integers (101,), summed over the test set.
        num_overlap: integers (101,), summed over the test set.
        num_reference: voxels of the class in the whole test set.

    Returns:
        `(threshold, dice)`; the lowest such threshold if several tie. None if the test set has
        no voxel of the class.
    """
    if num_reference == 0:
        return None
    dice_at = 2 * num_overlap / (num_predicted + num_reference)
    best = int(np.argmax(dice_at))
    return float(THRESHOLDS[best]), float(dice_at[best])
