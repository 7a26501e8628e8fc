"""Evaluation: probabilities of test scans come in, figures per scan and class leave.

One scan and the probabilities of one tile are in memory at a time. An `argmax` task is scored at
the class of highest activation; an `operating_point` task at the one threshold with the highest
Dice over its whole test set, found from counts, so that no probability has to be kept.

Reference: Moeskops et al., MICCAI 2016, section 4.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from mtseg import metrics
from mtseg.dense import DenseNetwork
from mtseg.pictures import compare_slices, most_labelled_slice
from mtseg.prepared import read_selection
from mtseg.subject import PreparedSubject
from mtseg.task import IGNORED, Task
from mtseg.tasks import LabelSpace
from mtseg.tiles import Tile

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


@dataclasses.dataclass(frozen=True)
class _Counts:
    """Voxels of one scan, counted. Arrays have a place for each combined class.

    Attributes:
        reference, activated, overlap: of the class in the reference, at highest activation, both.
        reached, reached_overlap: the same at each of `metrics.THRESHOLDS`, int64 (classes, 101).
        foreground: all voxels > 0 of which it is known what they are.
    """

    reference: np.ndarray
    activated: np.ndarray
    overlap: np.ndarray
    reached: np.ndarray
    reached_overlap: np.ndarray
    foreground: int

    def of_class(self, class_index: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Voxels predicted at each threshold, those of them in the reference, and all in it."""
        c = class_index
        return self.reached[c], self.reached_overlap[c], int(self.reference[c])

    def dice(self, class_index: int) -> float | None:
        """Dice at highest activation."""
        c = class_index
        sizes = self.reference[c] + self.activated[c]
        return float(2 * self.overlap[c] / sizes) if self.reference[c] else None


def _count(
    network: DenseNetwork, to_combined: np.ndarray, subject: PreparedSubject, shown: _Shown
) -> _Counts:
    """Computes a scan tile by tile, and counts each at once."""
    num_classes, num_thresholds = network.num_classes, len(metrics.THRESHOLDS)
    image = subject.image
    counts = np.zeros((3, num_classes), np.int64)
    reached = np.zeros((2, num_classes, num_thresholds), np.int64)
    foreground = 0
    for tile in network.plan(image).tiles:
        probabilities = network.run(image, tile)
        shown.keep(tile, image, probabilities)
        own_class = subject.class_index_map[tile.core][image[tile.core] != 0]
        is_known = own_class != IGNORED
        if not is_known.all():
            own_class, probabilities = own_class[is_known], probabilities[is_known]
        foreground += len(own_class)
        reference = to_combined[own_class]
        activated = probabilities.argmax(axis=-1)
        for row, classes in enumerate((reference, activated, reference[reference == activated])):
            counts[row] += np.bincount(classes, minlength=num_classes)
        for c in np.unique(to_combined[1:]):
            reached[:, c] += metrics.count_above_thresholds(reference == c, probabilities[:, c])
    return _Counts(*counts, *reached, foreground=foreground)


def _known_classes(class_index_map: np.ndarray) -> np.ndarray:
    return np.where(class_index_map == IGNORED, 0, class_index_map)


class _Shown:
    """Probabilities in the one slice that a picture shows, kept until thresholds are known."""

    def __init__(self, subject: PreparedSubject, num_classes: int) -> None:
        self.k = most_labelled_slice(_known_classes(subject.class_index_map))
        self.probabilities = np.zeros((*subject.image.shape[:2], num_classes), np.float32)
        self.probabilities[..., 0] = 1

    def keep(self, tile: Tile, image: np.ndarray, probabilities: np.ndarray) -> None:
        """Keeps what a tile has in the slice."""
        i, j, k = tile.core
        if k.start <= self.k < k.stop:
            foreground = image[tile.core] != 0
            in_slice = np.nonzero(foreground)[2] == self.k - k.start
            self.probabilities[i, j][foreground[..., self.k - k.start]] = probabilities[in_slice]


def evaluate_task(
    network: DenseNetwork,
    label_space: LabelSpace,
    task: Task,
    subjects: Iterable[PreparedSubject],
    *,
    on_picture: Callable[[np.ndarray], None] = lambda picture: None,
    on_scan: Callable[[str], None] = lambda name: None,
) -> Evaluation:
    """Scores the test scans of one task.

    Args:
        network: what computes their tiles.
        label_space: the network's classes.
        task: one of its tasks.
        subjects: the task's test scans.
        on_picture: called with a picture of the first scan.
        on_scan: called with the name of each scan when it has been scored.

    Returns:
        `dice` rows per scan and class, and an `alien_share` row per scan: the share of voxels > 0
        whose highest activation is a class of another task.
    """
    to_combined = label_space.to_combined(task.name)
    names, counted = [], []
    first: tuple[PreparedSubject, _Shown] | None = None
    for subject in subjects:
        shown = _Shown(subject, network.num_classes)
        first = first or (subject, shown)
        names.append(subject.name)
        counted.append(_count(network, to_combined, subject, shown))
        on_scan(subject.name)
    rows, operating_points = [], {}
    for class_index in label_space.class_indices(task.name):
        class_name = label_space.class_names[class_index]
        values = [counts.dice(class_index) for counts in counted]
        if task.decision != "argmax":
            values, threshold = _score_at_best([c.of_class(class_index) for c in counted])
            if threshold is not None:
                operating_points[class_name] = threshold
        rows += [
            Row(task.name, class_name, name, "dice", value)
            for name, value in zip(names, values, strict=True)
        ]
    aliens = list(label_space.alien_indices(task.name))
    for name, counts in zip(names, counted, strict=True):
        share = float(counts.activated[aliens].sum() / max(counts.foreground, 1))
        rows.append(Row(task.name, "all", name, "alien_share", share))
    if first is not None:
        subject, shown = first
        thresholds = [operating_points.get(name) for name in label_space.class_names]
        labels = metrics.decide(np.moveaxis(shown.probabilities, -1, 0), thresholds)
        reference = to_combined[_known_classes(subject.class_index_map[..., shown.k])]
        on_picture(compare_slices(subject.image[..., shown.k], reference, labels))
    return Evaluation(tuple(rows), operating_points)


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
    network: DenseNetwork,
    label_space: LabelSpace,
    data_dir: str,
    *,
    on_picture: Callable[[str, np.ndarray], None] = lambda task_name, picture: None,
    on_scan: Callable[[str], None] = lambda name: None,
) -> Evaluation:
    """Scores a network on the prepared test scans of every task of its label space.

    Args:
        network: from `mtseg.dense.make_dense_network`.
        label_space: its classes and the sources of the scans.
        data_dir: folder of prepared records.
        on_picture: called with a task's name and a picture of its first test scan.
        on_scan: called with the name of each scan when it has been scored.
    """
    return join(
        evaluate_task(
            network,
            label_space,
            selection.task,
            read_selection(data_dir, selection, "test"),
            on_picture=functools.partial(on_picture, selection.task.name),
            on_scan=on_scan,
        )
        for selection in label_space.selections
    )
