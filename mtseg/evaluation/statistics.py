"""Paired statistics over test scans: is one network as good as another?

The paper reports that one network for several tasks performs as well as one network per task
(section 5), without a statistical test. The test here is this project's: a non-inferiority
comparison, paired over the test scans.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

MARGIN = 0.02
"""A multi-task network may lose this much Dice and still count as not inferior to a single-task one
(this project's choice; the paper states no margin)."""

CONFIDENCE = 0.95
"""Confidence level of the intervals."""

NUM_RESAMPLES = 9_999
"""Resamples of each bootstrap."""


def bootstrap_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float] | None:
    """95 % interval of the mean, by the percentile bootstrap.

    With few scans such an interval is too narrow: resampling cannot show scans that differ from
    those of the test set.

    Args:
        values: one figure per scan.
        seed: seed of the resampling.

    Returns:
        `(low, high)`; None for fewer than two values.
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
    """A multi-task network against a single-task network, on the scans that both were tested on.

    Attributes:
        num_scans: scans that have a figure from both networks.
        difference: mean over scans of the multi-task figure minus the single-task figure; None
            without a scan.
        interval: 95 % interval of that mean; None for fewer than two scans.
        verdict: `not inferior` if the whole interval is above `-MARGIN`, `inferior` if the whole
            interval is below it, else `undecided`.
    """

    num_scans: int
    difference: float | None
    interval: tuple[float, float] | None
    verdict: str


def compare(single: Mapping[str, float | None], multiple: Mapping[str, float | None]) -> Comparison:
    """Compares two networks, paired over scans.

    Scans without a figure from both networks are left out.

    Args:
        single: scan -> figure of the single-task network; larger is better, None if undefined.
        multiple: the same for the multi-task network.

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
