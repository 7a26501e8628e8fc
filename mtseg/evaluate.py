"""Evaluation: probabilities of test scans come in, figures per scan and class leave.

One scan is in memory at a time. An `argmax` task is scored at the class of highest activation; an
`operating_point` task at the one threshold with the highest Dice over its whole test set, found
from counts, so that no probability has to be kept.

Reference: Moeskops et al., MICCAI 2016, section 4.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from mtseg import metrics
from mtseg.dense import dense_probabilities
from mtseg.pictures import compare_slices
from mtseg.prepared import read_volumes
from mtseg.subject import PreparedSubject
from mtseg.task import Task
from mtseg.tasks import LabelSpace

SCHEMA = 1


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure; `class_name` is `all` for a figure of a whole scan, `value` None if undefined."""

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
    """The figures of a test set.

    Attributes:
        rows: a figure each.
        operating_points: class name -> threshold, for the classes of `operating_point` tasks.
    """

    rows: tuple[Row, ...]
    operating_points: dict[str, float]

    def mean_dice(self) -> dict[str, float | None]:
        """`task/class` -> mean Dice over the scans that have the class; None if none has."""
        values: dict[str, list[float]] = {}
        for row in self.rows:
            if row.metric == "dice":
                found = values.setdefault(f"{row.task}/{row.class_name}", [])
                if row.value is not None:
                    found.append(row.value)
        return {name: float(np.mean(v)) if v else None for name, v in values.items()}

    def to_json(self, *, model: str, command: str) -> dict[str, Any]:
        """The evaluation as one JSON object."""
        return {
            "schema": SCHEMA,
            "model": model,
            "command": command,
            "operating_points": self.operating_points,
            "rows": [row.to_json() for row in self.rows],
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Evaluation:
        """The evaluation that `to_json` wrote."""
        rows = [
            Row(r["task"], r["class"], r["subject"], r["metric"], r["value"])
            for r in stored["rows"]
        ]
        return cls(tuple(rows), stored["operating_points"])

    def to_csv(self) -> str:
        """The rows as CSV text; an undefined figure is an empty field."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["task", "class", "subject", "metric", "value"])
        for row in self.rows:
            writer.writerow([row.task, row.class_name, row.subject, row.metric, row.value])
        return text.getvalue()

    def table(self) -> str:
        """Dice per class for people: mean, lowest and highest scan, and how it was decided."""
        lines = [f"{'task':<10}{'class':<24}{'Dice':>6}{'min':>7}{'max':>7}{'scans':>7}  decision"]
        for name, mean in self.mean_dice().items():
            task, class_name = name.split("/")
            values = [
                row.value
                for row in self.rows
                if (row.task, row.class_name, row.metric) == (task, class_name, "dice")
                and row.value is not None
            ]
            threshold = self.operating_points.get(class_name)
            decision = "highest activation" if threshold is None else f"p >= {threshold:.2f}"
            figures = (
                f"{'absent':>6}{'':>14}"
                if mean is None
                else f"{mean:>6.3f}{min(values):>7.3f}{max(values):>7.3f}"
            )
            lines.append(f"{task:<10}{class_name:<24}{figures}{len(values):>7}  {decision}")
        return "\n".join(lines)


def evaluate_task(
    probabilities_of: Callable[[np.ndarray], np.ndarray],
    label_space: LabelSpace,
    task: Task,
    subjects: Iterable[PreparedSubject],
    on_scan: Callable[[PreparedSubject, np.ndarray], None] | None = None,
) -> Evaluation:
    """Scores the test scans of one task.

    Args:
        probabilities_of: image (I, J, K) -> probabilities (I, J, K, num_classes).
        label_space: the network's classes.
        task: one of its tasks.
        subjects: the task's test scans.
        on_scan: called with each scan and its probabilities, before they are let go.

    Returns:
        `dice` rows per scan and class, and an `alien_share` row per scan: the share of voxels > 0
        whose highest activation is a class of another task.
    """
    class_indices = label_space.class_indices(task.name)
    alien_indices = label_space.alien_indices(task.name)
    is_argmax = task.decision == "argmax"
    names, dice_rows, alien_rows, counts = [], [], [], []
    for subject in subjects:
        probabilities = probabilities_of(subject.image)
        activated = probabilities.argmax(axis=-1).astype(np.uint8)
        foreground = subject.image > 0
        alien_share = float(np.isin(activated[foreground], alien_indices).mean())
        alien_rows.append(Row(task.name, "all", subject.name, "alien_share", alien_share))
        names.append(subject.name)
        for own_index, class_index in enumerate(class_indices, start=1):
            reference = subject.class_index_map == own_index
            if is_argmax:
                value = metrics.dice(reference, activated == class_index)
                name = label_space.class_names[class_index]
                dice_rows.append(Row(task.name, name, subject.name, "dice", value))
            else:
                above = metrics.count_above_thresholds(reference, probabilities[..., class_index])
                counts.append((class_index, *above, np.count_nonzero(reference)))
        if on_scan is not None:
            on_scan(subject, probabilities)
    operating_points = {}
    for class_index in () if is_argmax else class_indices:
        of_class = [c[1:] for c in counts if c[0] == class_index]
        rows, threshold = _score_at_best(of_class)
        name = label_space.class_names[class_index]
        if threshold is not None:
            operating_points[name] = threshold
        dice_rows += [
            Row(task.name, name, subject_name, "dice", value)
            for subject_name, value in zip(names, rows, strict=True)
        ]
    return Evaluation((*dice_rows, *alien_rows), operating_points)


def _score_at_best(
    counts: list[tuple[np.ndarray, np.ndarray, int]],
) -> tuple[list[float | None], float | None]:
    """Dice of each scan at the threshold that is best over all of them, and that threshold."""
    if not counts:
        return [], None
    predicted, overlap, reference = (sum(column) for column in zip(*counts, strict=True))
    best = metrics.best_threshold(predicted, overlap, reference)
    if best is None:
        return [None] * len(counts), None
    threshold, _ = best
    at = int(np.argmin(np.abs(metrics.THRESHOLDS - threshold)))
    return [float(2 * o[at] / (p[at] + r)) if r else None for p, o, r in counts], threshold


def join(evaluations: Iterable[Evaluation]) -> Evaluation:
    """The evaluations of several tasks as one."""
    parts = list(evaluations)
    points = {name: t for part in parts for name, t in part.operating_points.items()}
    return Evaluation(tuple(row for part in parts for row in part.rows), points)


def evaluate_model(
    dense_model: keras.Model,
    label_space: LabelSpace,
    data_dir: str,
    *,
    on_first_scan: Callable[[str, np.ndarray], None] | None = None,
    on_scan: Callable[[str], None] | None = None,
) -> Evaluation:
    """Scores a dense model on the prepared test scans of every task of its label space.

    Args:
        dense_model: from `mtseg.model.build_dense_model`.
        label_space: its classes and the sources of the scans.
        data_dir: folder of prepared records.
        on_first_scan: called with a task's name and a picture of its first test scan.
        on_scan: called with the name of each scan when it has been scored.
    """
    evaluations = []
    for selection in label_space.selections:
        task = selection.task
        first: list[tuple[PreparedSubject, np.ndarray]] = []

        def look(subject: PreparedSubject, probabilities: np.ndarray, first: Any = first) -> None:
            if on_first_scan is not None and not first:
                first.append((subject, probabilities))
            if on_scan is not None:
                on_scan(subject.name)

        evaluation = evaluate_task(
            lambda image: dense_probabilities(dense_model, image),
            label_space,
            task,
            read_volumes(data_dir, task.name, selection.source, "test"),
            look,
        )
        for subject, probabilities in first:
            thresholds = [evaluation.operating_points.get(c) for c in label_space.class_names]
            labels = metrics.decide(np.moveaxis(probabilities, -1, 0), thresholds)
            reference = label_space.to_combined(task.name)[subject.class_index_map]
            on_first_scan(task.name, compare_slices(subject.image, reference, labels))
        evaluations.append(evaluation)
    return join(evaluations)
