"""The record of an evaluation: one row per figure, and its JSON and CSV files.

`mtseg.evaluation.scoring` makes an `Evaluation`. Everything that reads one, such as tables, the
report and comparisons, works the same for one that was just computed and one from a file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mtseg.evaluation.surfaces import SURFACE_TOLERANCE_MM
from mtseg.inference.verdict import ScanStatistics
from mtseg.system.text_table import format_csv

SCHEMA = 1
"""Version of the JSON format."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure of an evaluation.

    Attributes:
        task: name of the task.
        class_name: name of the class; `all` for a figure of a whole scan.
        subject: name of the scan.
        metric: what was measured; `mtseg.evaluation.scoring.evaluate_task` lists the metrics.
        value: the figure; None if it is undefined.
    """

    task: str
    class_name: str
    subject: str
    metric: str
    value: float | None

    def to_json(self) -> dict[str, Any]:
        """The row as the JSON schema spells it."""
        row = dataclasses.asdict(self)
        row["class"] = row.pop("class_name")
        return row


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The figures of the scans of one split, most often the test scans.

    Attributes:
        rows: one per figure.
        operating_points: class name -> threshold, for the classes of `operating_point` tasks that
            the scans have on which they were chosen.
        curves: class name -> counts over the test set, for all classes of `operating_point` tasks:
            lists `num_predicted` and `num_overlap`, at each of `metrics.THRESHOLDS`, and the
            integer `num_reference`. `metrics.precision_recall` takes them.
        confusion: task name -> counts over its test scans, (num_classes, num_classes) nested
            lists: foreground voxels by class in the reference and by most probable class of all,
            whatever the thresholds. Voxels with the ignore label do not count.
        statistics: task name -> subject -> `ScanStatistics` of the scan.
        split: of which scans the figures are: `test`, `validation` or `train`.
        points_from: on which scans the operating points were chosen, likewise. Files from before
            there were validation scans do not say: they are of test scans, as in the paper.
    """

    rows: tuple[Row, ...]
    operating_points: dict[str, float]
    curves: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    confusion: dict[str, list[list[int]]] = dataclasses.field(default_factory=dict)
    statistics: dict[str, dict[str, ScanStatistics]] = dataclasses.field(
        default_factory=dict, compare=False
    )
    split: str = "test"
    points_from: str = "test"

    def values(self, task: str, class_name: str, metric: str) -> dict[str, float | None]:
        """The figures of one metric and class: subject -> value, None if undefined."""
        return {
            row.subject: row.value
            for row in self.rows
            if (row.task, row.class_name, row.metric) == (task, class_name, metric)
        }

    @property
    def is_complete(self) -> bool:
        """Whether surfaces and volumes were measured as well."""
        return any(row.metric == "surface_dice" for row in self.rows)

    @property
    def classes(self) -> list[tuple[str, str]]:
        """Task and name of each class that was scored."""
        scored = [(r.task, r.class_name) for r in self.rows if r.metric == "dice"]
        return list(dict.fromkeys(scored))

    def mean_dice(self) -> dict[str, float | None]:
        """`task/class` -> mean Dice over the scans that have the class; None if no scan has it."""
        values: dict[str, list[float]] = {}
        for row in self.rows:
            if row.metric == "dice":
                found = values.setdefault(f"{row.task}/{row.class_name}", [])
                if row.value is not None:
                    found.append(row.value)
        return {name: float(np.mean(v)) if v else None for name, v in values.items()}

    def overall_dice(self) -> float:
        """Mean of `mean_dice` over the classes that the scans have; 0 without such a class."""
        known = [value for value in self.mean_dice().values() if value is not None]
        return float(np.mean(known)) if known else 0.0

    def to_json(self, *, model: str, command: str) -> dict[str, Any]:
        """The evaluation as one JSON object.

        Args:
            model: path of the model that was evaluated.
            command: the command that was run.
        """
        return {
            "schema": SCHEMA,
            "model": model,
            "command": command,
            "split": self.split,
            "operating_points_from": self.points_from,
            "surface_tolerance_mm": SURFACE_TOLERANCE_MM,
            "operating_points": self.operating_points,
            "curves": self.curves,
            "confusion": self.confusion,
            "statistics": {
                task: {subject: of.to_json() for subject, of in scans.items()}
                for task, scans in self.statistics.items()
            },
            "rows": [row.to_json() for row in self.rows],
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Evaluation:
        """The evaluation that `to_json` wrote."""
        rows = [
            Row(r["task"], r["class"], r["subject"], r["metric"], r["value"])
            for r in stored["rows"]
        ]
        return cls(
            tuple(rows),
            stored["operating_points"],
            stored.get("curves", {}),
            stored.get("confusion", {}),
            {
                task: {subject: ScanStatistics.from_json(of) for subject, of in scans.items()}
                for task, scans in stored.get("statistics", {}).items()
            },
            stored.get("split", "test"),
            stored.get("operating_points_from", "test"),
        )

    def to_csv(self) -> str:
        """The rows as CSV text; an undefined figure is an empty field."""
        return format_csv(
            ("task", "class", "subject", "metric", "value"),
            [(row.task, row.class_name, row.subject, row.metric, row.value) for row in self.rows],
        )


def join(
    evaluations: Iterable[Evaluation], split: str = "test", points_from: str = "test"
) -> Evaluation:
    """Joins the evaluations of several tasks, on the same split, into one."""
    rows: tuple[Row, ...] = ()
    points: dict[str, float] = {}
    curves: dict[str, dict[str, Any]] = {}
    confusion: dict[str, list[list[int]]] = {}
    statistics: dict[str, dict[str, ScanStatistics]] = {}
    for part in evaluations:
        rows += part.rows
        points |= part.operating_points
        curves |= part.curves
        confusion |= part.confusion
        statistics |= part.statistics
    return Evaluation(rows, points, curves, confusion, statistics, split, points_from)
