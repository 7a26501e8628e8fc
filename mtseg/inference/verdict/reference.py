"""The out-of-distribution check: how the reference scans of each task look to a network.

A scan is compared with the reference scans of each task, feature by feature. Its deviation from a
feature's mean is counted in standard deviations of the reference scans. A feature is unusual if it
deviates by more than the threshold, and a scan gets a warning if it has an unusual feature even for
the task that it is most like.

The score of a scan without an unusual feature is its largest deviation; of any other scan it is the
root of the sum of squares of all unusual deviations. So it is above the threshold exactly if there
is a warning, and grows with how unusual each feature is and with how many are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtseg.errors import InputError
from mtseg.inference.verdict.features import MISSING_CONFIDENCE, OTHER_TASKS, scan_features
from mtseg.inference.verdict.scan_statistics import ScanStatistics

FEW_SCANS = 10
"""With fewer reference scans of a task, the usual ranges are rough, and the check says so."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """How the reference scans of a task look to a network.

    Attributes:
        features: name of a feature -> its mean and standard deviation (see
            `mtseg.inference.verdict.features`).
        num_scans: number of the reference scans; None in models of earlier versions.
    """

    features: dict[str, tuple[float, float]]
    num_scans: int | None = None

    def deviations(self, features: Mapping[str, float]) -> dict[str, float]:
        """How far features are from their means, in standard deviations, never below 0.

        Features that only one side has are left out. Fewer voxels of other tasks than in the test
        scans is no deviation.
        """
        found = {}
        for name, (mean, deviation) in self.features.items():
            if name in features:
                distance = (features[name] - mean) / deviation
                found[name] = max(distance, 0.0) if name == OTHER_TASKS else abs(distance)
        return found


@dataclasses.dataclass(frozen=True)
class OutOfDistributionCheck:
    """Detects scans that are unlike the reference scans of all tasks.

    Attributes:
        tasks: task name -> the reference of its reference scans.
        threshold: a feature with a larger deviation is unusual.
        num_scans: number of reference scans that the threshold was chosen from.
        false_alarms: how many of them get a warning from the check that is made of all others.
    """

    tasks: dict[str, Reference]
    threshold: float
    num_scans: int = 0
    false_alarms: int = 0

    @property
    def is_small(self) -> bool:
        """Whether a task has so few reference scans that the usual ranges are rough."""
        mean = self.num_scans / max(len(self.tasks), 1)
        counts = (reference.num_scans for reference in self.tasks.values())
        return any((mean if count is None else count) < FEW_SCANS for count in counts)

    def score_of(self, deviations: Iterable[float]) -> float:
        """The score of a scan from the deviations of its features; see the module's docstring."""
        values = list(deviations)
        unusual = [value for value in values if value > self.threshold]
        return float(np.sqrt(np.sum(np.square(unusual)))) if unusual else max(values, default=0.0)

    def score(
        self,
        statistics: ScanStatistics,
        class_task: Sequence[str | None],
        tasks: Iterable[str] | None = None,
    ) -> tuple[float, str]:
        """Compares a scan with the reference scans of each task.

        Args:
            statistics: of the scan.
            class_task: the task of each combined class; None for background.
            tasks: names of the tasks to compare with, at least one; None is all.

        Returns:
            `(score, task)`: the closest task, and the scan's score compared with it.
        """
        scores = {
            task: self.score_of(
                self.tasks[task].deviations(scan_features(statistics, class_task, task)).values()
            )
            for task in (self.tasks if tasks is None else tasks)
        }
        closest = min(scores, key=lambda task: scores[task])
        return scores[closest], closest

    def describe(self) -> str:
        """What the check was made from and how often it was wrong there, in one line."""
        line = (
            f"Out-of-distribution check: made from {self.num_scans} reference scans of "
            f"{', '.join(self.tasks)}; {self.false_alarms} of them would be warned of if left out."
        )
        return line + " So few scans give rough usual ranges." * self.is_small

    def to_json(self) -> dict[str, Any]:
        """The values as the manifest stores them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], path: Path | str) -> OutOfDistributionCheck:
        """The check that `to_json` wrote, in this version or an earlier one.

        Args:
            stored: the values.
            path: the model that they are of, named in an error.

        Raises:
            InputError: if the values are not those of a check.
        """
        try:
            fields = dict(stored)
            tasks = {name: _read_reference(of) for name, of in fields.pop("tasks").items()}
            return cls(tasks=tasks, **fields)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: this version of mtseg cannot read the out-of-distribution check in its "
                "manifest. Export the model again."
            ) from error


def _read_reference(stored: Mapping[str, Any]) -> Reference:
    if "features" in stored:
        features = {
            name: (mean, deviation) for name, (mean, deviation) in stored["features"].items()
        }
        return Reference(features, stored["num_scans"])
    # Earlier versions stored lists, whose order was this one.
    names = [MISSING_CONFIDENCE, OTHER_TASKS]
    names += [f"share_{number}" for number in range(len(stored["mean"]) - len(names))]
    pairs = zip(names, stored["mean"], stored["deviation"], strict=True)
    return Reference({name: (mean, deviation) for name, mean, deviation in pairs})
