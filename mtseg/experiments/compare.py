"""The comparison of multi-task networks with single-task networks, scan by scan.

Reference: Moeskops et al., MICCAI 2016, section 4.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from mtseg.evaluation.statistics import CONFIDENCE, MARGIN, compare, mean_over_classes
from mtseg.experiments.plan import SCHEMA
from mtseg.experiments.results import Result
from mtseg.system.text_table import format_table


def compare_networks(results: Sequence[Result]) -> dict[str, Any]:
    """Compares, for every task and class, its own network with each other one for that task.

    Args:
        results: finished experiments.

    Returns:
        One JSON object: `margin`, `confidence`, and `rows` of `task`, `class` (`all` is the mean
        over a task's classes), `network` (the experiment compared with the task's own), the mean
        Dice of both, `difference`, `interval` and `verdict` as in
        `mtseg.evaluation.statistics.Comparison`.
    """
    rows = []
    own = {r.experiment.name: r for r in results if len(r.experiment.task_names) == 1}
    for single in own.values():
        if single.experiment.is_repeat:
            continue
        (task,) = single.experiment.task_names
        others = [r for r in results if task in r.experiment.task_names and r is not single]
        for other in others:
            names = [name for of, name in single.evaluation.classes if of == task]
            first, second = (
                [r.evaluation.values(task, name, "dice") for name in names] for r in (single, other)
            )
            pairs = [*zip(names, first, second, strict=True)]
            pairs.append(("all", mean_over_classes(first), mean_over_classes(second)))
            for name, a, b in pairs:
                comparison = dataclasses.asdict(compare(a, b))
                rows.append(
                    {"task": task, "class": name, "network": other.experiment.name}
                    | {"single": _mean(a), "multiple": _mean(b)}
                    | comparison
                )
    return {"schema": SCHEMA, "margin": MARGIN, "confidence": CONFIDENCE, "rows": rows}


def _mean(values: dict[str, float | None]) -> float | None:
    known = [value for value in values.values() if value is not None]
    return sum(known) / len(known) if known else None


def comparison_table(comparison: dict[str, Any]) -> str:
    """The comparison as a table for the terminal."""
    rows = [
        [
            row["task"],
            row["class"],
            row["network"],
            _figure(row["single"]),
            _figure(row["multiple"]),
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
    """A row's difference and interval, such as `+0.004 (-0.002 to +0.010)`."""
    if row["difference"] is None:
        return "–"
    text = f"{row['difference']:+.3f}"
    if row["interval"] is not None:
        text += " ({:+.3f} to {:+.3f})".format(*row["interval"])
    return text


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
