"""The out-of-distribution check: does a scan resemble those that the network was tested on?

A network labels any scan, even one unlike everything it has learnt. Such a scan shows in sums over
all its voxels: how sure the network is, how many voxels get a class of another task than the rest,
and the share of each class. They are compared with the same sums of the test scans, task by task.
The check is this project's; the paper has none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtseg.errors import InputError
from mtseg.inference.scan_statistics import ScanStatistics

SMALLEST_SHARE = 1e-3
"""Shares of classes are compared as logarithms; what is below this counts as none."""


SMALLEST_MIXTURE = 1e-4
"""The same for voxels with a class of another task than most."""


SMALLEST_DEVIATION = 0.1
"""Of a logarithm (to base 10), so a factor of 1.26: a few scans may happen to be more alike than
others will be."""


FEWEST_SCANS = 3
"""Of each task, to say what its scans have in common."""


SAFETY = 1.25
"""How much more unlike than any scan that was seen a scan has to be for a warning."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """How scans of a task look to a network: mean and deviation of each of their features."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class OutOfDistributionCheck:
    """What scans like those of training look like, and from where on a scan is unlike them.

    Attributes:
        tasks: task name -> its scans.
        threshold: a score above it is a warning.
        num_scans: that the threshold follows from.
        false_alarms: how many of them would be warned of, were they left out.
    """

    tasks: dict[str, Reference]
    threshold: float
    num_scans: int = 0
    false_alarms: int = 0

    def score(
        self, statistics: ScanStatistics, class_task: Sequence[str | None]
    ) -> tuple[float, str]:
        """How unlike the most similar task a scan is, and that task.

        Returns:
            The largest deviation of a feature, in standard deviations, and the task's name.
        """
        scores = {}
        for name, familiar in self.tasks.items():
            features = scan_features(statistics, class_task, name)
            apart = np.abs(features - familiar.mean) / familiar.deviation
            scores[name] = float(apart.max())
        name = min(scores, key=lambda task: scores[task])
        return scores[name], name

    def to_json(self) -> dict[str, Any]:
        """The values as the manifest has them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> OutOfDistributionCheck:
        """What `to_json` gave.

        Raises:
            InputError: if it is something else.
        """
        try:
            fields = dict(stored)
            tasks = {
                name: Reference(tuple(of["mean"]), tuple(of["deviation"]))
                for name, of in fields.pop("tasks").items()
            }
            return cls(tasks=tasks, **fields)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                "the stored resemblance is not one of this version of mtseg. Export the model "
                "again."
            ) from error


def scan_features(
    statistics: ScanStatistics, class_task: Sequence[str | None], task: str
) -> np.ndarray:
    """What is compared of a scan, if it is taken for one of a task.

    Args:
        statistics: of the scan.
        class_task: the task of each combined class; None for the background.
        task: a task's name.

    Returns:
        float64, logarithms to base 10: how unsure the network is on average, the share of voxels
        with classes of other tasks, and the share of each class of the task and the background.
    """
    shares = statistics.shares
    is_own = np.array([name in (None, task) for name in class_task])
    unsure = 1 - statistics.mean_confidence
    return np.concatenate(
        [
            [np.log10(max(unsure, SMALLEST_SHARE))],
            [np.log10(max(float(shares[~is_own].sum()), SMALLEST_MIXTURE))],
            np.log10(np.maximum(shares[is_own], SMALLEST_SHARE)),
        ]
    )


def fit_reference(
    scans: Mapping[str, Sequence[ScanStatistics]], class_task: Sequence[str | None]
) -> dict[str, Reference]:
    """Mean and deviation of the features of every task's scans.

    Args:
        scans: task name -> its scans, at least one.
        class_task: the task of each combined class; None for the background.
    """
    familiar = {}
    for task, statistics in scans.items():
        features = np.array([scan_features(each, class_task, task) for each in statistics])
        deviation = np.maximum(features.std(axis=0), SMALLEST_DEVIATION)
        familiar[task] = Reference(tuple(features.mean(axis=0).tolist()), tuple(deviation.tolist()))
    return familiar


def calibrate(
    scans: Mapping[str, Sequence[ScanStatistics]], class_task: Sequence[str | None]
) -> OutOfDistributionCheck | None:
    """Learns what familiar scans look like, and how unlike each other they are.

    Every scan is scored against the others of all tasks, as a new one will be; the threshold is
    `SAFETY` times the highest such score.

    Args:
        scans: task name -> its test scans.
        class_task: the task of each combined class; None for the background.

    Returns:
        None if a task has fewer than `FEWEST_SCANS` scans, which say too little.
    """
    if not scans or min(map(len, scans.values())) < FEWEST_SCANS:
        return None
    familiar = fit_reference(scans, class_task)
    scores = []
    for task, of_task in scans.items():
        for number, statistics in enumerate(of_task):
            others = [*of_task[:number], *of_task[number + 1 :]]
            without = familiar | fit_reference({task: others}, class_task)
            scores.append(OutOfDistributionCheck(without, 0.0).score(statistics, class_task)[0])
    # A scan left out altogether would have changed the threshold as well.
    highest = sorted(scores)
    limits = [highest[-2] if score == highest[-1] else highest[-1] for score in scores]
    alarms = sum(score > SAFETY * limit for score, limit in zip(scores, limits, strict=True))
    return OutOfDistributionCheck(familiar, SAFETY * highest[-1], len(scores), alarms)


@dataclasses.dataclass(frozen=True)
class Assessment:
    """What to think of a scan's labels.

    Attributes:
        task: the task of most labelled voxels; None if no voxel has a label.
        task_shares: task name -> share of the voxels > 0 with one of its classes.
        mean_confidence: of the class that is most probable, over the voxels > 0.
        mixture_share: share of the voxels > 0 with a class of another task than `task`.
        score: how unlike the scans of training it is; None if the model was not calibrated.
        threshold: of the score.
        resembles: the task whose scans it is least unlike; None likewise.
    """

    task: str | None
    task_shares: dict[str, float]
    mean_confidence: float
    mixture_share: float
    score: float | None = None
    threshold: float | None = None
    resembles: str | None = None

    @property
    def warning(self) -> str | None:
        """A sentence if the labels should not be trusted, else None."""
        if self.score is None or self.threshold is None or self.score <= self.threshold:
            return None
        return (
            f"this scan resembles none of the scans that the network was trained for (score "
            f"{self.score:.1f}, more than {self.threshold:.1f}; least unlike: {self.resembles}). "
            "Do not trust its labels without looking."
        )

    def to_json(self) -> dict[str, Any]:
        """The verdict as plain values."""
        return dataclasses.asdict(self) | {"warning": self.warning}

    def describe(self) -> str:
        """The verdict in a few words."""
        if self.task is None:
            return f"background only, confidence {self.mean_confidence:.2f}"
        return (
            f"taken for {self.task}, confidence {self.mean_confidence:.2f}, "
            f"{100 * self.mixture_share:.3f} % of other tasks"
        )


def assess(
    statistics: ScanStatistics,
    class_task: Sequence[str | None],
    resemblance: OutOfDistributionCheck | None = None,
) -> Assessment:
    """Puts a verdict together.

    Args:
        statistics: of the scan.
        class_task: the task of each combined class; None for the background.
        resemblance: what the model knows of familiar scans.
    """
    shares = statistics.shares
    task_shares: dict[str, float] = {}
    for name, share in zip(class_task, shares, strict=True):
        if name is not None:
            task_shares[name] = task_shares.get(name, 0.0) + float(share)
    task = max(task_shares, key=lambda name: task_shares[name])
    mixture = sum(share for name, share in task_shares.items() if name != task)
    verdict = Assessment(
        task if task_shares[task] > 0 else None,
        task_shares,
        statistics.mean_confidence,
        mixture,
    )
    if resemblance is None:
        return verdict
    score, resembles = resemblance.score(statistics, class_task)
    return dataclasses.replace(
        verdict, score=score, threshold=resemblance.threshold, resembles=resembles
    )
