"""Dice, precision, recall and operating points, from masks and from counts of voxels.

All functions work on plain arrays. Counts of several scans add up, so a whole test set is scored
with one scan in memory at a time. A figure that is undefined is None, never 0 or 1.

Reference: Moeskops et al., MICCAI 2016, section 4 (Dice, and operating points by highest Dice).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

THRESHOLDS: npt.NDArray[np.float64] = np.linspace(0.0, 1.0, 101)
"""The operating points that are tried: 0.00, 0.01, … 1.00 (this project's choice; the paper gives
no number)."""


def dice(
    mask_reference: npt.NDArray[np.bool_], mask_predicted: npt.NDArray[np.bool_]
) -> float | None:
    """Dice coefficient of two masks: twice the overlap over the sum of both sizes.

    Args:
        mask_reference: booleans, any shape.
        mask_predicted: booleans, the same shape.

    Returns:
        0 to 1; None if the reference is empty, since such a scan has no such tissue to find.

    Example:
        >>> dice(np.array([True, True, False]), np.array([False, True, True]))
        0.5
    """
    overlap = int(np.count_nonzero(mask_reference & mask_predicted))
    sizes = int(np.count_nonzero(mask_predicted)), overlap, int(np.count_nonzero(mask_reference))
    return overlap_figures(*sizes)["dice"]


def count_above_thresholds(
    mask_reference: npt.NDArray[np.bool_], probabilities: npt.NDArray[np.floating[Any]]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Counts voxels at or above each of `THRESHOLDS`.

    Args:
        mask_reference: booleans, any shape.
        probabilities: floats 0 to 1, the same shape.

    Returns:
        `(num_predicted, num_overlap)`, int64 (101,) each: voxels predicted at the threshold, and
        those of them that are in the reference.
    """
    num_reached = thresholds_reached(probabilities.ravel())

    def count_at_least(reached: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        exactly = np.bincount(reached, minlength=len(THRESHOLDS) + 1)
        return exactly[::-1].cumsum()[::-1][1:]

    return count_at_least(num_reached), count_at_least(num_reached[mask_reference.ravel()])


def threshold_number(threshold: float) -> int:
    """The index in `THRESHOLDS` of the one nearest to a threshold."""
    return int(np.argmin(np.abs(THRESHOLDS - threshold)))


def thresholds_reached(probabilities: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int64]:
    """How many of `THRESHOLDS` each probability reaches, 0 to 101, in the same shape.

    They are compared in the precision of the probabilities, so the result agrees with
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
    num_predicted: Sequence[int] | npt.NDArray[np.int64],
    num_overlap: Sequence[int] | npt.NDArray[np.int64],
    num_reference: int,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Precision and recall at each of `THRESHOLDS`.

    Args:
        num_predicted: integers (101,), summed over the test set.
        num_overlap: integers (101,), summed over the test set.
        num_reference: voxels of the class in the whole test set, above 0.

    Returns:
        `(precision, recall)`, float64 (101,) each. At thresholds where nothing is predicted,
        precision is set to 1, so that the curve ends at recall 0.
    """
    predicted, overlap = np.asarray(num_predicted), np.asarray(num_overlap)
    precision = np.divide(overlap, predicted, out=np.ones(len(overlap)), where=predicted > 0)
    return precision, overlap / num_reference


def best_threshold(
    num_predicted: npt.NDArray[np.int64], num_overlap: npt.NDArray[np.int64], num_reference: int
) -> tuple[float, float] | None:
    """The operating point with the highest Dice (section 4 of the paper).

    Args:
        num_predicted: integers (101,), summed over the test set.
        num_overlap: integers (101,), summed over the test set.
        num_reference: voxels of the class in the whole test set.

    Returns:
        `(threshold, dice)`; the lowest such threshold above 0 if several are equally good: every
        voxel reaches 0, also one outside the body. None if the test set has no voxel of the class.
    """
    if num_reference == 0:
        return None
    dice_at = 2 * num_overlap / (num_predicted + num_reference)
    best = 1 + int(np.argmax(dice_at[1:]))
    return float(THRESHOLDS[best]), float(dice_at[best])
