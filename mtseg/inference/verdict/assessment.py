"""The verdict on a scan's labels, in words.

A network labels any scan, even one unlike everything that it was trained on. `assess` says as what
a scan was recognised, how confident the network is in each structure, and which features are
unusual for the reference scans of the task that the scan is most like. Those are scans with labels
that were set aside in training. The state of a scan is one of

- `ok`: it was compared with the reference scans, and nothing is unusual;
- `warning`: something is unusual, so look at the labels before you use them;
- `not assessed`: it could not be compared, which is not the same as ok.

The check is this project's; the paper has none.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mtseg.inference.verdict.features import VOXEL_SIZE, Feature, scan_features
from mtseg.inference.verdict.reference import OutOfDistributionCheck
from mtseg.inference.verdict.scan_statistics import ScanStatistics

OK, WARNING, NOT_ASSESSED = "ok", "warning", "not assessed"

FEWEST_VOXELS = 1000
"""Foreground voxels that a scan needs; shares of fewer depend on chance."""

VOXEL_SIZE_FACTOR = 2.5
"""A scan whose in-plane voxels are larger or smaller than those of the reference scans by more than
this is unusual: resampling cannot bring back what it does not show."""

LIKE_TRAINED = 0.25
"""How far the voxel size of a computation may be from that of the reference scans, relative to the
latter; a network sees other structures at other voxel sizes."""

_MOST_NAMED = 4
"""Unusual features that the line of a warning names; the verdict file has all."""


@dataclasses.dataclass(frozen=True)
class Assessment:
    """The verdict on a scan's labels.

    Attributes:
        task: the recognised task, that of most labelled voxels; None if no voxel has a label.
        task_shares: task name -> share of the foreground voxels with one of its classes.
        mean_confidence: mean probability of the most probable class over the foreground voxels.
        other_tasks_share: share of the foreground voxels with a class of another task than `task`.
        confidence: class name -> mean probability of the class over the voxels that the decision
            rule gives it, for the classes that were found.
        given_task: the task that the user named; None if the network decided.
        likeliest_task: the task of most voxels by their most probable class, if no operating point
            is heeded and no task excluded; None if that is background for all.
        not_assessed: why the scan could not be compared; empty if it was.
        score: see `mtseg.inference.verdict.reference`; None if the scan was not assessed.
        threshold: a higher score is a warning; None likewise.
        closest_task: the task whose reference scans are most like this one; None likewise.
        features: all that was compared, the most unusual first.
    """

    task: str | None
    task_shares: dict[str, float]
    mean_confidence: float
    other_tasks_share: float
    confidence: dict[str, float] = dataclasses.field(default_factory=dict)
    given_task: str | None = None
    likeliest_task: str | None = None
    not_assessed: str = ""
    score: float | None = None
    threshold: float | None = None
    closest_task: str | None = None
    features: tuple[Feature, ...] = ()

    @property
    def status(self) -> str:
        """`ok`, `warning` or `not assessed`."""
        if self.not_assessed:
            return NOT_ASSESSED
        return WARNING if any(feature.is_unusual for feature in self.features) else OK

    @property
    def warning(self) -> str | None:
        """A sentence that warns of the labels; None if there is no reason to."""
        unusual = [feature.describe() for feature in self.features if feature.is_unusual]
        if self.status != WARNING:
            return None
        more = len(unusual) - _MOST_NAMED
        named = "; ".join(unusual[:_MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")
        return (
            f"unlike the reference scans of {self.closest_task}, which it is closest to: {named}. "
            "Check the labels before you use them."
        )

    def describe(self) -> str:
        """As what the scan was recognised, and how sure that is."""
        confidence = f"confidence {self.mean_confidence:.2f}"
        likeliest = self.likeliest_task
        if None not in (likeliest, self.given_task) and likeliest != self.given_task:
            return (
                f"recognised as {likeliest} ({confidence}), but --task {self.given_task} was given"
            )
        if self.task is None:
            return f"background only, {confidence}"
        labelled = sum(self.task_shares.values())
        share = 100 * self.task_shares[self.task] / labelled
        shown = f"{min(share, 99.9):.1f}" if self.other_tasks_share else "100"
        return f"recognised as {self.task} ({shown} % of labelled voxels, {confidence})"

    def describe_confidence(self) -> str:
        """The confidence of each structure that was found; empty if none was."""
        found = ", ".join(f"{name} {value:.2f}" for name, value in self.confidence.items())
        return f"confidence: {found}" if found else ""

    def to_json(self) -> dict[str, Any]:
        """The values of the verdict file, under the names that its format has."""
        return {
            "status": self.status,
            "warning": self.warning,
            "not_assessed": self.not_assessed or None,
            "task": self.task,
            "given_task": self.given_task,
            "likeliest_task": self.likeliest_task,
            "task_shares": self.task_shares,
            "mean_confidence": self.mean_confidence,
            "confidence": {name: round(value, 4) for name, value in self.confidence.items()},
            "mixture_share": self.other_tasks_share,
            "score": self.score,
            "threshold": self.threshold,
            "resembles": self.closest_task,
            "features": [feature.to_json() for feature in self.features],
        }


def assess(
    statistics: ScanStatistics,
    class_task: Sequence[str | None],
    check: OutOfDistributionCheck | None = None,
    *,
    class_names: Sequence[str] = (),
    decided: ScanStatistics | None = None,
    trained_mm: Mapping[str, float] | None = None,
    in_plane_mm: float | None = None,
    given_task: str | None = None,
    excluded_tasks: Collection[str | None] = (),
) -> Assessment:
    """Makes the verdict on a scan.

    Args:
        statistics: of the scan.
        class_task: the task of each combined class; None for background.
        check: the model's; None if it has none, and then the scan is not assessed.
        class_names: the name of each combined class; empty if `class_task` alone is known.
        decided: sums over the voxels that the decision rule gives to each class; None if they are
            not known.
        trained_mm: task name -> typical voxel size of its prepared reference scans.
        in_plane_mm: the scan's own voxel size, the mean of the two axes that are most alike; None
            if it is not known.
        given_task: the task that the user named, which alone the scan is compared with.
        excluded_tasks: tasks whose classes no voxel may get, as those of another modality; the scan
            is not compared with them.
    """
    names = list(class_names)
    if not names:
        names = ["background", *(f"class {number}" for number in range(1, len(class_task)))]
    # The task is that of the labels; the check compares what the network finds by itself.
    task_shares = _share_tasks(class_task, statistics if decided is None else decided)
    task = _most_frequent(task_shares)
    of_classes = [] if decided is None else decided.class_confidence
    verdict = Assessment(
        task=task,
        task_shares=task_shares,
        mean_confidence=statistics.mean_confidence,
        other_tasks_share=sum(share for name, share in task_shares.items() if name != task),
        confidence={
            name: value
            for name, value in zip(names[1:], of_classes[1:], strict=False)
            if value is not None
        },
        given_task=given_task,
        likeliest_task=_most_frequent(_share_tasks(class_task, statistics)),
    )
    if check is None:
        reason = "the model has no check, because it was evaluated on too few scans"
        return dataclasses.replace(verdict, not_assessed=reason)
    num_voxels = int(statistics.num_voxels.sum())
    if num_voxels < FEWEST_VOXELS:
        reason = f"it has {num_voxels} foreground voxels, and {FEWEST_VOXELS} are needed"
        return dataclasses.replace(verdict, not_assessed=reason)
    tasks = [
        name for name in check.tasks if given_task in (None, name) and name not in excluded_tasks
    ]
    if not tasks:
        reason = f"the model's check has no reference scans of {given_task or 'its modality'}"
        return dataclasses.replace(verdict, not_assessed=reason)
    comparable = [
        name
        for name in tasks
        if _is_like_trained(statistics.spacing_mm, (trained_mm or {}).get(name))
    ]
    if not comparable:
        sizes = ", ".join(f"{mm:.3g} mm ({name})" for name, mm in (trained_mm or {}).items())
        own_mm = f"{statistics.spacing_mm:.3g} mm"
        reason = f"it was computed at {own_mm}, the reference scans at {sizes}"
        return dataclasses.replace(verdict, not_assessed=reason)
    _, closest = check.score(statistics, class_task, comparable)
    features = _compare(statistics, class_task, check, closest, names)
    if in_plane_mm is not None and trained_mm and closest in trained_mm:
        features.append(_voxel_size(in_plane_mm, trained_mm[closest], check.threshold))
    features.sort(key=lambda feature: -feature.deviation)
    return dataclasses.replace(
        verdict,
        score=check.score_of(feature.deviation for feature in features),
        threshold=check.threshold,
        closest_task=closest,
        features=tuple(features),
    )


def _share_tasks(class_task: Sequence[str | None], statistics: ScanStatistics) -> dict[str, float]:
    """Task name -> share of the foreground voxels with one of its classes."""
    task_shares: dict[str, float] = {}
    for name, share in zip(class_task, statistics.shares, strict=True):
        if name is not None:
            task_shares[name] = task_shares.get(name, 0.0) + float(share)
    return task_shares


def _most_frequent(task_shares: Mapping[str, float]) -> str | None:
    """The task of most voxels; None if no voxel has one."""
    task = max(task_shares, key=lambda name: task_shares[name])
    return task if task_shares[task] > 0 else None


def _is_like_trained(spacing_mm: float | None, trained_mm: float | None) -> bool:
    """Whether a scan was computed at about the voxel size of reference scans; True if not known."""
    if spacing_mm is None or trained_mm is None:
        return True
    # Sizes that differ by a rounding error of a header count as one in the recognition.
    return abs(spacing_mm - trained_mm) <= (LIKE_TRAINED + 0.01) * trained_mm


def _compare(
    statistics: ScanStatistics,
    class_task: Sequence[str | None],
    check: OutOfDistributionCheck,
    task: str,
    class_names: Sequence[str],
) -> list[Feature]:
    """The features of a scan beside the usual ranges of a task."""
    values = scan_features(statistics, class_task, task)
    own = [name for name, of in zip(class_names, class_task, strict=True) if of in (None, task)]
    found = []
    for name, deviation in check.tasks[task].deviations(values).items():
        mean, standard_deviation = check.tasks[task].features[name]
        reach = check.threshold * standard_deviation
        class_name = own[int(name.removeprefix("share_"))] if name.startswith("share_") else ""
        is_unusual = deviation > check.threshold
        found.append(
            Feature(
                name, values[name], mean - reach, mean + reach, deviation, is_unusual, class_name
            )
        )
    return found


def _voxel_size(own_mm: float, trained_mm: float, threshold: float) -> Feature:
    """The scan's own voxel size; its usual range is that of the reference scans times a factor."""
    reach = math.log10(VOXEL_SIZE_FACTOR)
    value, middle = math.log10(own_mm), math.log10(trained_mm)
    # A size that was rounded in a header is not unusual at the very end of the range.
    deviation = threshold * abs(value - middle) / (reach + 1e-6)
    return Feature(
        VOXEL_SIZE, value, middle - reach, middle + reach, deviation, deviation > threshold
    )
