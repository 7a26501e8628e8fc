"""Paired statistics over test scans: is one network as good as another?

The paper reports that one network for several tasks performs as well as one network per task
(section 5), without a statistical test. The test here is this project's: a non-inferiority
comparison, paired over the test scans. Its intervals are those of Student's t: with four scans, a
percentile bootstrap that claims 95 % covers the true mean in 80 % of cases. Scans of one person are
alike, so they count as one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

MARGIN = 0.02
"""A multi-task network may lose this much Dice and still count as not inferior to a single-task one
(this project's choice; the paper states no margin)."""

CONFIDENCE = 0.95
"""Confidence level of the intervals."""

MIN_SCANS = 6
"""With fewer scans a comparison is undecided: a few scans cannot show how much scans differ (this
project's choice)."""

_ROUNDING = 1e-9
"""Figures that differ by less are the same."""


def mean_interval(
    values: Sequence[float], limits: tuple[float, float] = (-math.inf, math.inf)
) -> tuple[float, float] | None:
    """95 % interval of the mean, by Student's t.

    Args:
        values: one figure per scan.
        limits: the lowest and highest possible figure; the interval is cut there.

    Returns:
        `(low, high)`; None for fewer than two values, and for fewer than `MIN_SCANS` that are all
        the same, which do not show how much scans differ.

    Example:
        >>> low, high = mean_interval([0.8, 0.9])
        >>> round(low, 2), round(high, 2)  # 12.7 standard errors of 0.05 to each side
        (0.21, 1.49)
    """
    is_equal = len(values) > 0 and float(np.ptp(values)) < _ROUNDING
    if len(values) < 2 or (len(values) < MIN_SCANS and is_equal):
        return None
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    low, high = _t_interval(float(np.mean(values)), error, len(values) - 1)
    return max(low, limits[0]), min(high, limits[1])


def _t_interval(mean: float, error: float, freedom: float) -> tuple[float, float]:
    """The interval of a mean with this standard error and these degrees of freedom."""
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    return mean - half, mean + half


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A multi-task network against a single-task network, on the scans that both were tested on.

    Attributes:
        num_scans: scans that have a figure from every run of both networks.
        num_persons: persons whom these scans show.
        num_runs: runs of both networks with different seeds, added up; 2 if each was trained once.
        difference: mean over persons of the multi-task figure minus the single-task figure; None
            without a scan. Of several scans of a person, the mean counts.
        interval: 95 % interval of that mean; None for fewer than two persons, and for fewer than
            `MIN_SCANS` whose differences are all the same.
        verdict: `not inferior` if the whole interval is above `-MARGIN`, `inferior` if the whole
            interval is below it, else `undecided`. Always `undecided` with scans of fewer than
            `MIN_SCANS` persons.
    """

    num_scans: int
    num_persons: int
    num_runs: int
    difference: float | None
    interval: tuple[float, float] | None
    verdict: str


_Figures = Mapping[str, float | None]
"""Scan -> figure; larger is better, None if undefined."""


def compare(
    single: Sequence[_Figures],
    multiple: Sequence[_Figures],
    person_of: Mapping[str, str] | None = None,
) -> Comparison:
    """Compares two networks, paired over scans.

    Scans without a figure from every run are left out. If a network was trained several times with
    other seeds, its figures are averaged over the runs, and what differs between runs enters the
    interval beside what differs between scans. If not, the interval is that of these two runs: it
    says nothing of how much another seed would change.

    Args:
        single: the figures of the single-task network, one mapping for each run.
        multiple: the same for the multi-task network.
        person_of: scan -> person; a scan that is not there is of a person of its own.

    Example:
        >>> scans = {"a": 0.8, "b": 0.9, "c": 0.7, "d": 0.8, "e": 0.9, "f": 0.7}
        >>> compare([scans], [{scan: dice + 0.01 for scan, dice in scans.items()}]).verdict
        'not inferior'
    """
    runs = [*single, *multiple]
    names = [scan for scan in runs[0] if all(run.get(scan) is not None for run in runs)]
    if not names:
        return Comparison(0, 0, len(runs), None, None, "undecided")
    scans_of: dict[str, list[str]] = {}
    for name in names:
        scans_of.setdefault((person_of or {}).get(name, name), []).append(name)
    first, second = (
        np.array([[np.mean([run[n] for n in scans]) for scans in scans_of.values()] for run in of])
        for of in (single, multiple)
    )
    differences = second.mean(axis=0) - first.mean(axis=0)
    interval = _interval_of_difference(differences, [first.mean(axis=1), second.mean(axis=1)])
    verdict = "undecided"
    if interval is not None and len(scans_of) >= MIN_SCANS:
        if interval[0] > -MARGIN:
            verdict = "not inferior"
        elif interval[1] < -MARGIN:
            verdict = "inferior"
    return Comparison(
        len(names), len(scans_of), len(runs), float(differences.mean()), interval, verdict
    )


def _interval_of_difference(
    differences: npt.NDArray[np.float64], run_means: Sequence[npt.NDArray[np.float64]]
) -> tuple[float, float] | None:
    """95 % interval of a mean difference, over scans and over runs.

    Args:
        differences: (persons,), of the networks' figures, averaged over scans and runs.
        run_means: for each network (runs,), the mean over persons of each run.

    Returns:
        `(low, high)`, with degrees of freedom by Satterthwaite if runs were repeated; None as for
        `mean_interval`.
    """
    freedom = sum(len(means) - 1 for means in run_means)
    by_scans = mean_interval(differences.tolist())
    if not freedom or by_scans is None:
        return by_scans
    between_runs = sum(((means - means.mean()) ** 2).sum() for means in run_means) / freedom
    of_runs = float(between_runs) * sum(1 / len(means) for means in run_means)
    of_scans = float(differences.var(ddof=1)) / len(differences)
    variance = of_scans + of_runs
    if variance == 0:
        return by_scans
    joint = variance**2 / (of_scans**2 / (len(differences) - 1) + of_runs**2 / freedom)
    return _t_interval(float(differences.mean()), math.sqrt(variance), joint)


def mean_over_classes(
    figures: Sequence[Mapping[str, float | None]],
) -> dict[str, float | None]:
    """Averages figures over the classes of a task, scan by scan.

    Args:
        figures: for each class, scan -> figure; None where it is undefined.

    Returns:
        Scan -> mean over the classes that the scan has; None if it has no class.
    """
    scans = dict.fromkeys(scan for of_class in figures for scan in of_class)
    means: dict[str, float | None] = {}
    for scan in scans:
        known = [v for of_class in figures if (v := of_class.get(scan)) is not None]
        means[scan] = float(np.mean(known)) if known else None
    return means
