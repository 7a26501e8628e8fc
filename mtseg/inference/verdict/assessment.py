"""The verdict on a scan's labels: the out-of-distribution check and what it is made of.

A network labels any scan, even one unlike everything that it was trained on. Such a scan can be
told by sums over its voxels: how confident the network is, the share of each class, and the share
of voxels with a class of another task than the rest. The check compares these features with those
of the test scans, task by task. `calibrate` makes it when a model is exported; `assess` applies it
to a scan when a prediction is written.

The check is this project's; the paper has none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.inference.verdict.scan_statistics import ScanStatistics

SMALLEST_SHARE = 1e-3
"""Shares are compared as logarithms; a smaller share of a class, or of missing confidence, counts
as this much."""

SMALLEST_OTHER_TASKS_SHARE = 1e-4
"""The same for the share of voxels with a class of another task."""

SMALLEST_DEVIATION = 0.1
"""Lower limit of a feature's standard deviation, in its logarithm to base 10, so a factor of 1.26.
A few test scans may by chance be more alike than later scans will be."""

FEWEST_SCANS = 3
"""Test scans that each task needs for the check."""

SAFETY_FACTOR = 1.25
"""The threshold over the highest score of a test scan."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """How the test scans of a task look to a network.

    Attributes:
        mean: of each feature (see `scan_features`).
        deviation: standard deviation of each feature, at least `SMALLEST_DEVIATION`.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class OutOfDistributionCheck:
    """Detects scans that are unlike the test scans of all tasks.

    Attributes:
        tasks: task name -> the reference of its test scans.
        threshold: a scan with a higher score gets a warning.
        num_scans: number of test scans that the threshold was chosen from.
        false_alarms: how many of them would get a warning if they had been left out.
    """

    tasks: dict[str, Reference]
    threshold: float
    num_scans: int = 0
    false_alarms: int = 0

    def score(
        self, statistics: ScanStatistics, class_task: Sequence[str | None]
    ) -> tuple[float, str]:
        """Compares a scan with the test scans of each task.

        Args:
            statistics: of the scan.
            class_task: the task of each combined class; None for background.

        Returns:
            `(score, task)`: the closest task, and the scan's distance from it. A distance is the
            largest deviation of a feature from its mean, in standard deviations.
        """
        distances = {}
        for task, reference in self.tasks.items():
            deviation = np.abs(scan_features(statistics, class_task, task) - reference.mean)
            distances[task] = float((deviation / reference.deviation).max())
        closest = min(distances, key=lambda task: distances[task])
        return distances[closest], closest

    def to_json(self) -> dict[str, Any]:
        """The values as the manifest stores them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], path: Path | str) -> OutOfDistributionCheck:
        """The check that `to_json` wrote.

        Args:
            stored: the values.
            path: the model that they are of, named in an error.

        Raises:
            InputError: if the values are not those of a check.
        """
        try:
            fields = dict(stored)
            tasks = {
                name: Reference(tuple(of_task["mean"]), tuple(of_task["deviation"]))
                for name, of_task in fields.pop("tasks").items()
            }
            return cls(tasks=tasks, **fields)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: this version of mtseg cannot read the out-of-distribution check in its "
                "manifest. Export the model again."
            ) from error


def scan_features(
    statistics: ScanStatistics, class_task: Sequence[str | None], task: str
) -> npt.NDArray[np.float64]:
    """The features of a scan that are compared with the test scans of one task.

    Args:
        statistics: of the scan.
        class_task: the task of each combined class; None for background.
        task: name of the task.

    Returns:
        float64 (num_features,), logarithms to base 10: of 1 minus the mean confidence, of the share
        of voxels with a class of another task, and of the share of background and of each class of
        the task.
    """
    shares = statistics.shares
    is_own = np.array([name in (None, task) for name in class_task])
    missing_confidence = max(1 - statistics.mean_confidence, SMALLEST_SHARE)
    other_tasks_share = max(float(shares[~is_own].sum()), SMALLEST_OTHER_TASKS_SHARE)
    own_shares = np.maximum(shares[is_own], SMALLEST_SHARE)
    return np.log10([missing_confidence, other_tasks_share, *own_shares])


def fit_reference(
    scans: Mapping[str, Sequence[ScanStatistics]], class_task: Sequence[str | None]
) -> dict[str, Reference]:
    """Mean and standard deviation of the features of each task's scans.

    Args:
        scans: task name -> its scans, at least one.
        class_task: the task of each combined class; None for background.

    Returns:
        Task name -> its reference.
    """
    references = {}
    for task, of_task in scans.items():
        features = np.array([scan_features(scan, class_task, task) for scan in of_task])
        deviation = np.maximum(features.std(axis=0), SMALLEST_DEVIATION)
        references[task] = Reference(
            tuple(features.mean(axis=0).tolist()), tuple(deviation.tolist())
        )
    return references


def calibrate(
    scans: Mapping[str, Sequence[ScanStatistics]], class_task: Sequence[str | None]
) -> OutOfDistributionCheck | None:
    """Makes the check from test scans.

    Each scan is scored with itself left out of the reference, as a new scan will be. The threshold
    is `SAFETY_FACTOR` times the highest such score.

    Args:
        scans: task name -> its test scans.
        class_task: the task of each combined class; None for background.

    Returns:
        The check; None if there is no task or a task has fewer than `FEWEST_SCANS` scans.
    """
    if not scans or min(map(len, scans.values())) < FEWEST_SCANS:
        return None
    references = fit_reference(scans, class_task)
    scores = []
    for task, of_task in scans.items():
        for number, scan in enumerate(of_task):
            others = [*of_task[:number], *of_task[number + 1 :]]
            without = references | fit_reference({task: others}, class_task)
            scores.append(OutOfDistributionCheck(without, 0.0).score(scan, class_task)[0])
    return OutOfDistributionCheck(
        references, SAFETY_FACTOR * max(scores), len(scores), _count_false_alarms(scores)
    )


def _count_false_alarms(scores: Sequence[float]) -> int:
    """How many scans score above the threshold that follows from the others."""
    *_, second, highest = sorted(scores)
    return sum(
        score > SAFETY_FACTOR * (second if score == highest else highest) for score in scores
    )


@dataclasses.dataclass(frozen=True)
class Assessment:
    """The verdict on a scan's labels.

    Attributes:
        task: the recognised task, that of most labelled voxels; None if no voxel has a label.
        task_shares: task name -> share of the foreground voxels with one of its classes.
        mean_confidence: mean probability of the most probable class over the foreground voxels.
        other_tasks_share: share of the foreground voxels with a class of another task than `task`.
        score: distance from the closest task's test scans; None if the model has no check.
        threshold: a higher score is a warning; None likewise.
        closest_task: the task whose test scans are most like this one; None likewise.
    """

    task: str | None
    task_shares: dict[str, float]
    mean_confidence: float
    other_tasks_share: float
    score: float | None = None
    threshold: float | None = None
    closest_task: str | None = None

    @property
    def warning(self) -> str | None:
        """A sentence that warns of the labels; None if there is no reason to."""
        if self.score is None or self.threshold is None or self.score <= self.threshold:
            return None
        return (
            "this scan does not resemble the test scans of any task of the model (score "
            f"{self.score:.1f}, threshold {self.threshold:.1f}; closest known task: "
            f"{self.closest_task}). Check its labels before you use them."
        )

    def to_json(self) -> dict[str, Any]:
        """The values of the verdict file, under the names that its format has."""
        return {
            "task": self.task,
            "task_shares": self.task_shares,
            "mean_confidence": self.mean_confidence,
            "mixture_share": self.other_tasks_share,
            "score": self.score,
            "threshold": self.threshold,
            "resembles": self.closest_task,
            "warning": self.warning,
        }

    def describe(self) -> str:
        """The verdict in a few words."""
        if self.task is None:
            return f"background only, confidence {self.mean_confidence:.2f}"
        return (
            f"recognised as {self.task}, confidence {self.mean_confidence:.2f}, "
            f"{100 * self.other_tasks_share:.3f} % of voxels with classes of other tasks"
        )


def assess(
    statistics: ScanStatistics,
    class_task: Sequence[str | None],
    check: OutOfDistributionCheck | None = None,
) -> Assessment:
    """Makes the verdict on a scan.

    Args:
        statistics: of the scan.
        class_task: the task of each combined class; None for background.
        check: the model's; None if it has none, and then there is no score and no warning.
    """
    task_shares: dict[str, float] = {}
    for name, share in zip(class_task, statistics.shares, strict=True):
        if name is not None:
            task_shares[name] = task_shares.get(name, 0.0) + float(share)
    task = max(task_shares, key=lambda name: task_shares[name])
    score, closest_task = (None, None) if check is None else check.score(statistics, class_task)
    return Assessment(
        task=task if task_shares[task] > 0 else None,
        task_shares=task_shares,
        mean_confidence=statistics.mean_confidence,
        other_tasks_share=sum(share for name, share in task_shares.items() if name != task),
        score=score,
        threshold=None if check is None else check.threshold,
        closest_task=closest_task,
    )
