"""Is one network as good as another? Paired statistics over test scans.

The paper claims that one network for several tasks is equivalent to one network per task, for every
task. Here this is a non-inferiority comparison, paired over the test scans.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

MARGIN = 0.02
"""How much Dice a network for several tasks may lose and still count as good as one for a single
task (this project's choice; the paper states no margin)."""


CONFIDENCE = 0.95


NUM_RESAMPLES = 9_999


def bootstrap_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the mean, 95 %.

    Args:
        values: a figure of each scan.
        seed: of the resampling.

    Returns:
        `(low, high)`; None for fewer than two values. With few scans such an interval is narrower
        than it should be: it cannot know of scans unlike those that were seen.
    """
    if len(values) < 2:
        return None
    if len(set(values)) == 1:
        return float(values[0]), float(values[0])
    result = stats.bootstrap(
        (np.asarray(values, float),),
        np.mean,
        n_resamples=NUM_RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    return float(low), float(high)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One network against another on the scans that both were tested on.

    Attributes:
        num_scans: that have a figure from both.
        difference: mean of the second's figure less the first's; None without a scan.
        interval: of that mean, 95 %; None for fewer than two scans.
        verdict: `not inferior` if the whole interval is above `-MARGIN`, `inferior` if it is
            below, else `undecided`.
    """

    num_scans: int
    difference: float | None
    interval: tuple[float, float] | None
    verdict: str


def compare(single: Mapping[str, float | None], multiple: Mapping[str, float | None]) -> Comparison:
    """Compares two networks, paired over scans.

    Args:
        single: scan -> figure of the network for one task, larger is better; None if undefined.
        multiple: the same of the network for several tasks.

    Example:
        >>> compare({"a": 0.8, "b": 0.9}, {"a": 0.81, "b": 0.91}).verdict
        'not inferior'
    """
    differences = [
        second - first
        for scan, first in single.items()
        if first is not None and (second := multiple.get(scan)) is not None
    ]
    if not differences:
        return Comparison(0, None, None, "undecided")
    interval = bootstrap_interval(differences)
    if interval is None:
        verdict = "undecided"
    elif interval[0] > -MARGIN:
        verdict = "not inferior"
    else:
        verdict = "inferior" if interval[1] < -MARGIN else "undecided"
    return Comparison(len(differences), float(np.mean(differences)), interval, verdict)


def mean_over_classes(
    figures: Sequence[Mapping[str, float | None]],
) -> dict[str, float | None]:
    """Scan -> mean over the classes of a task that the scan has; None if it has none."""
    scans = dict.fromkeys(scan for of_class in figures for scan in of_class)
    means: dict[str, float | None] = {}
    for scan in scans:
        known = [v for of_class in figures if (v := of_class.get(scan)) is not None]
        means[scan] = float(np.mean(known)) if known else None
    return means
