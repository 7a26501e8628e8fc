"""Making the out-of-distribution check from the reference scans of a network.

Every scan is compared with the others of its task, as a new scan will be. The threshold is a little
above the largest deviation that occurs. Of many scans, one in forty has no say in it: a network may
fail on a reference scan too, and what is warned of must not follow from that. False alarms are
counted on scans that had no part in the check: for each scan, references and threshold are made
again without it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from mtseg.inference.verdict.features import OTHER_TASKS, is_intensity, scan_features
from mtseg.inference.verdict.reference import OutOfDistributionCheck, Reference
from mtseg.inference.verdict.scan_statistics import ScanStatistics

FEWEST_SCANS = 3
"""Reference scans that each task needs for the check."""

SAFETY_FACTOR = 1.25
"""The threshold over the highest deviation of a reference scan from the others."""

SCANS_PER_OUTLIER = 40
"""For every so many reference scans, the one of the highest deviation is left out of account."""

_SMALLEST_DEVIATION, _SMALLEST_INTENSITY_DEVIATION = 0.1, 0.05
"""Lower limits of a feature's standard deviation, in its logarithm to base 10: factors of 1.26 and
1.12. A few reference scans may by chance be more alike than later scans will be."""

_SMALLEST_THRESHOLD = 2.0
"""Lower limit of the threshold, for the same reason."""

_Array = npt.NDArray[np.float64]


def calibrate(
    scans: Mapping[str, Sequence[ScanStatistics]], class_task: Sequence[str | None]
) -> OutOfDistributionCheck | None:
    """Makes the check; the module's docstring says how.

    Args:
        scans: task name -> its reference scans.
        class_task: the task of each combined class; None for background.

    Returns:
        The check; None if there is no task or a task has fewer than `FEWEST_SCANS` scans.
    """
    if not scans or min(map(len, scans.values())) < FEWEST_SCANS:
        return None
    tables = {task: _make_table(scans, class_task, task) for task in scans}
    false_alarms = 0
    for task, of_task in scans.items():
        for number in range(len(of_task)):
            others = {name: table.without(task, number) for name, table in tables.items()}
            distances = [
                table.distances(tables[name].of_scans[task][number : number + 1])[0]
                for name, table in others.items()
            ]
            false_alarms += bool(min(distances) > _threshold(others))
    return OutOfDistributionCheck(
        fit_reference(scans, class_task),
        _threshold(tables),
        sum(map(len, scans.values())),
        false_alarms,
    )


def fit_reference(
    scans: Mapping[str, Sequence[ScanStatistics]], class_task: Sequence[str | None]
) -> dict[str, Reference]:
    """Mean and standard deviation of the features of each task's scans.

    Args:
        scans: task name -> its scans, at least one.
        class_task: the task of each combined class; None for background.

    Returns:
        Task name -> its reference. A feature that one of the scans does not have is left out.
    """
    references = {}
    for task, of_task in scans.items():
        table = _make_table(scans, class_task, task)
        pairs = zip(table.mean.tolist(), table.deviation.tolist(), strict=True)
        references[task] = Reference(dict(zip(table.names, pairs, strict=True)), len(of_task))
    return references


def _threshold(tables: Mapping[str, _Table]) -> float:
    """`SAFETY_FACTOR` times the largest deviation of a scan from the others of its task.

    A scan that is more like another task counts with its deviation from that one.
    """
    of_scans = []
    for own in tables:
        distances = [
            table.distances_to_others() if task == own else table.distances(table.of_scans[own])
            for task, table in tables.items()
        ]
        of_scans.append(np.min(distances, axis=0))
    ascending = np.sort(np.concatenate(of_scans))
    largest = float(ascending[-1 - len(ascending) // SCANS_PER_OUTLIER])
    return max(SAFETY_FACTOR * largest, _SMALLEST_THRESHOLD)


@dataclasses.dataclass(frozen=True, eq=False)
class _Table:
    """The features of all scans as they are compared with one task.

    Attributes:
        task: the task that the scans are compared with.
        names: the features that all scans have.
        of_scans: task name -> the features of its scans, (num_scans, num_features).
    """

    task: str
    names: tuple[str, ...]
    of_scans: Mapping[str, _Array]

    @property
    def mean(self) -> _Array:
        """Of the scans of `task`, (num_features,)."""
        mean: _Array = self.of_scans[self.task].mean(axis=0)
        return mean

    @property
    def deviation(self) -> _Array:
        """Standard deviation of the scans of `task`, at least the smallest, (num_features,)."""
        deviation: _Array = np.maximum(self.of_scans[self.task].std(axis=0), self._smallest)
        return deviation

    @property
    def _smallest(self) -> _Array:
        smallest = (_SMALLEST_DEVIATION, _SMALLEST_INTENSITY_DEVIATION)
        return np.array([smallest[is_intensity(name)] for name in self.names])

    def without(self, task: str, number: int) -> _Table:
        """The table without one scan."""
        rest = np.delete(self.of_scans[task], number, axis=0)
        return dataclasses.replace(self, of_scans={**self.of_scans, task: rest})

    def distances(self, features: _Array) -> _Array:
        """Largest deviation of each scan from the means, (num_scans,)."""
        return self._largest(features, self.mean, self.deviation)

    def distances_to_others(self) -> _Array:
        """The same of the task's own scans, each compared with the others."""
        own = self.of_scans[self.task]
        others = [np.delete(own, number, axis=0) for number in range(len(own))]
        mean = np.array([rest.mean(axis=0) for rest in others])
        deviation = np.array([rest.std(axis=0) for rest in others])
        return self._largest(own, mean, np.maximum(deviation, self._smallest))

    def _largest(self, features: _Array, mean: _Array, deviation: _Array) -> _Array:
        deviations = (features - mean) / deviation
        place = self.names.index(OTHER_TASKS)  # fewer voxels of other tasks are not unusual
        deviations[:, place] = np.maximum(deviations[:, place], 0)
        return np.asarray(np.abs(deviations).max(axis=1))


def _make_table(
    scans: Mapping[str, Sequence[ScanStatistics]], class_task: Sequence[str | None], task: str
) -> _Table:
    """The features of scans, by their own task, as they are compared with `task`."""
    found = {
        own: [scan_features(scan, class_task, task) for scan in of_task]
        for own, of_task in scans.items()
    }
    every = [features for of_task in found.values() for features in of_task]
    names = tuple(name for name in every[0] if all(name in features for features in every))
    return _Table(
        task,
        names,
        {
            own: np.array([[features[name] for name in names] for features in of_task])
            for own, of_task in found.items()
        },
    )
