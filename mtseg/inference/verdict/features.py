"""The features by which a scan is compared with reference scans, and how they are put into words.

Features are logarithms to base 10, because shares and voxel sizes differ by factors. Each has a
name: `missing_confidence` is 1 minus the mean confidence, `other_tasks` the share of voxels with a
class of another task, `share_0`, `share_1`, … those of background and of each class of the task,
`intensity_10`, … the percentiles of the intensities, and `voxel_size` the scan's own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from mtseg.inference.verdict.scan_statistics import PERCENTILES, ScanStatistics

SMALLEST_SHARE = 1e-3
"""A smaller share of a class, or of missing confidence, counts as this much."""

SMALLEST_OTHER_TASKS_SHARE = 1e-4
"""The same for the share of voxels with a class of another task."""

MISSING_CONFIDENCE, OTHER_TASKS, VOXEL_SIZE = "missing_confidence", "other_tasks", "voxel_size"
_SHARE, _INTENSITY = "share_", "intensity_"


def scan_features(
    statistics: ScanStatistics, class_task: Sequence[str | None], task: str
) -> dict[str, float]:
    """The features of a scan that are compared with the reference scans of one task.

    Args:
        statistics: of the scan.
        class_task: the task of each combined class; None for background.
        task: name of the task.

    Returns:
        Name of the feature -> its logarithm to base 10. Intensities are left out if the statistics
        do not have them.
    """
    shares = statistics.shares
    is_own = np.array([name in (None, task) for name in class_task])
    values = {
        MISSING_CONFIDENCE: max(1 - statistics.mean_confidence, SMALLEST_SHARE),
        OTHER_TASKS: max(float(shares[~is_own].sum()), SMALLEST_OTHER_TASKS_SHARE),
    }
    for number, share in enumerate(shares[is_own].tolist()):
        values[f"{_SHARE}{number}"] = max(share, SMALLEST_SHARE)
    for percentile, value in zip(PERCENTILES, statistics.intensities or (), strict=False):
        values[f"{_INTENSITY}{percentile}"] = max(value, SMALLEST_SHARE)
    return {name: float(np.log10(value)) for name, value in values.items()}


def is_intensity(name: str) -> bool:
    """Whether a feature is a percentile of the intensities."""
    return name.startswith(_INTENSITY)


@dataclasses.dataclass(frozen=True)
class Feature:
    """A feature of a scan beside the usual range, both as logarithms to base 10.

    Attributes:
        name: see the module's docstring.
        value: of the scan.
        low, high: the usual range.
        deviation: distance from the middle of the range, in the unit of the check's threshold.
        is_unusual: whether the value is outside the range.
        class_name: the class of a share; empty for other features.
    """

    name: str
    value: float
    low: float
    high: float
    deviation: float
    is_unusual: bool
    class_name: str = ""

    def to_json(self) -> dict[str, Any]:
        """The feature in its natural unit, as the verdict file stores it."""
        value, low, high = (self._natural(number) for number in (self.value, self.low, self.high))
        if self.name == MISSING_CONFIDENCE:
            low, high = high, low
        name = "confidence" if self.name == MISSING_CONFIDENCE else self.name
        return {
            "feature": "share" if self.name.startswith(_SHARE) else name,
            "class": self.class_name or None,
            "value": value,
            "usual_low": low,
            "usual_high": high,
            "unusual": self.is_unusual,
        }

    def _natural(self, logarithm: float) -> float:
        if self.name == MISSING_CONFIDENCE:
            return float(max(1 - 10**logarithm, 0))
        is_share = self.name == OTHER_TASKS or self.name.startswith(_SHARE)
        return float(min(10**logarithm, 1)) if is_share else float(10**logarithm)

    def describe(self) -> str:
        """The value and the usual range in words."""
        value, low, high = (self._natural(number) for number in (self.value, self.low, self.high))
        if self.name == MISSING_CONFIDENCE:
            return f"confidence {value:.3f} (usual {high:.3f} to {low:.3f})"
        if self.name == OTHER_TASKS:
            return (
                f"{_percent(value, SMALLEST_OTHER_TASKS_SHARE)} of voxels with a class of another "
                f"task (usual up to {_percent(high, 0)})"
            )
        if self.name == VOXEL_SIZE:
            return f"voxel size {value:.3g} mm (usual {low:.2g} to {high:.2g} mm)"
        if is_intensity(self.name):
            percentile = self.name.removeprefix(_INTENSITY)
            return (
                f"intensities: {percentile} % of voxels are below {value:.2f} of the brightest "
                f"(usual {low:.2f} to {high:.2f})"
            )
        usual = f"{_percent(low, SMALLEST_SHARE)} to {_percent(high, 0)}"
        return f"{self.class_name} {_percent(value, SMALLEST_SHARE)} of the scan (usual {usual})"


def _percent(share: float, smallest: float) -> str:
    """A share with two digits; shares up to the smallest one count alike."""
    if share <= smallest:
        return f"at most {100 * smallest:g} %"
    return f"{100 * share:.2g} %" if share < 0.995 else "100 %"
