"""Compares single-task networks with multi-task networks, paired over the test scans.

`compare_networks` makes the contents of `comparison.json`; `comparison_table` prints them.

Reference: Moeskops et al., MICCAI 2016, section 4. The paper shows Dice in figures only; the margin
and the intervals are this project's choice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mtseg.evaluation.statistics import CONFIDENCE, MARGIN, compare, mean_over_classes
from mtseg.experiments.plan import SCHEMA
from mtseg.experiments.results import Result
from mtseg.sources.splits import group_by_name, group_persons, person_in
from mtseg.system.text_table import format_table
from mtseg.tasks.label_space import parse_tasks

UNDEFINED = "–"
"""Stands in tables for a value that is not defined."""


def compare_networks(results: Sequence[Result]) -> dict[str, Any]:
    """Compares the single-task network of each task with every other network for that task.

    Args:
        results: finished experiments. A task without a finished single-task network is left out.

    Returns:
        One JSON object: `margin`, `confidence`, and `rows` with `task`, `class` (`all` is the mean
        over the classes of a task), `network` (name of the experiment that is compared), `single`
        and `multiple` (mean Dice of the single-task network and of `network`; None if undefined),
        and `num_scans`, `num_persons`, `num_runs`, `difference`, `interval` and `verdict` as in
        `mtseg.evaluation.statistics.Comparison`.
    """
    rows = [
        row
        for single in results
        if len(single.experiment.task_names) == 1 and not single.experiment.is_repeat
        for other in results
        if single.experiment.task_names[0] in other.experiment.task_names and other is not single
        for row in _compare_pair(_runs_of(single, other, results), _runs_of(other, single, results))
    ]
    return {"schema": SCHEMA, "margin": MARGIN, "confidence": CONFIDENCE, "rows": rows}


def _runs_of(network: Result, other: Result, results: Sequence[Result]) -> list[Result]:
    """A network and its repeats with other seeds, unless a repeat is what it is compared with."""
    if network.experiment.is_repeat or other.experiment.is_repeat:
        return [network]
    names = network.experiment.task_names
    repeats = [r for r in results if r.experiment.is_repeat and r.experiment.task_names == names]
    return [network, *repeats]


def _compare_pair(single: Sequence[Result], other: Sequence[Result]) -> Iterator[dict[str, Any]]:
    """Yields a row for each class of the task, and one for their mean.

    Args:
        single: the runs of the single-task network.
        other: the runs of the network that is compared with it.
    """
    (task,) = single[0].experiment.task_names
    names = [name for class_task, name in single[0].evaluation.classes if class_task == task]
    person_of = _find_persons(single[0], task)
    dice_single, dice_other = (
        [[run.evaluation.values(task, name, "dice") for name in names] for run in runs]
        for runs in (single, other)
    )
    for place, name in enumerate([*names, "all"]):
        first, second = (
            [mean_over_classes(of) if name == "all" else of[place] for of in dice]
            for dice in (dice_single, dice_other)
        )
        yield {
            "task": task,
            "class": name,
            "network": other[0].experiment.name,
            "single": _mean(first),
            "multiple": _mean(second),
            **dataclasses.asdict(compare(first, second, person_of)),
        }


def mean_dice_of_scans(result: Result, task: str) -> float | None:
    """Mean over the scans of a task of each scan's mean over its classes; None if undefined."""
    names = [name for class_task, name in result.evaluation.classes if class_task == task]
    of_classes = [result.evaluation.values(task, name, "dice") for name in names]
    return _mean([mean_over_classes(of_classes)])


def _find_persons(result: Result, task: str) -> dict[str, str]:
    """Scan -> person, as far as the task file and the layouts of its sources say it."""
    (selection,) = (
        s for s in parse_tasks(result.experiment.config.tasks).selections if s.task.name == task
    )
    scans = {row.subject for row in result.evaluation.rows if row.task == task}
    persons = {}
    for source in selection.sources:
        labels = selection.task.source(source)
        prefix = "" if len(selection.sources) == 1 else f"{source}/"
        names = [scan.removeprefix(prefix) for scan in scans if scan.startswith(prefix)]
        # As `choose_split` does, with those whom the task file names beyond the scored scans.
        known = {*names, *(name for group in labels.split.same_person for name in group)}
        groups = (*labels.split.same_person, *group_by_name(sorted(known), labels))
        for name, first in group_persons(names, groups).items():
            persons[prefix + name] = prefix + person_in(first, labels)
    return persons


def _mean(runs: Sequence[Mapping[str, float | None]]) -> float | None:
    """Mean over the scans of all runs; None if there is no figure."""
    known = [value for run in runs for value in run.values() if value is not None]
    return sum(known) / len(known) if known else None


def comparison_table(comparison: dict[str, Any]) -> str:
    """The result of `compare_networks` as a table for the terminal."""
    rows = [
        [
            row["task"],
            row["class"],
            row["network"],
            format_dice(row["single"]),
            format_dice(row["multiple"]),
            format_difference(row),
            row["verdict"],
        ]
        for row in comparison["rows"]
    ]
    header = (
        "task", "class", "network", "single-task", "this one", "difference, 95 % interval",
        "verdict",
    )  # fmt: skip
    return format_table(header, rows, left=("task", "class", "network", "verdict"))


def format_difference(row: dict[str, Any]) -> str:
    """A row's difference with its interval, such as `+0.004 (-0.002 to +0.010)`."""
    if row["difference"] is None:
        return UNDEFINED
    text = f"{row['difference']:+.3f}"
    if row["interval"] is not None:
        text += " ({:+.3f} to {:+.3f})".format(*row["interval"])
    return text


def format_dice(value: float | None) -> str:
    """A Dice value with three digits; `–` if it is undefined."""
    return UNDEFINED if value is None else f"{value:.3f}"
