"""Evaluation: probabilities of test scans come in, figures per scan and class leave.

One scan and the probabilities of one tile are in memory at a time. An `argmax` task is scored at
the class of highest activation; an `operating_point` task at the one threshold with the highest
Dice over its whole test set, found from counts, so that no probability has to be kept. Training
looks at Dice alone; a complete evaluation also measures surfaces and volumes.

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
from mtseg.scan_counts import ScanCounts, count_scan
from mtseg.scan_statistics import ScanStatistics
from mtseg.stored_scan import StoredScan
from mtseg.subject import PreparedSubject
from mtseg.surfaces import SURFACE_TOLERANCE_MM, surface_figures
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
        curves: class name -> counts over the test set at each of `metrics.THRESHOLDS`, for the same
            classes: lists `num_predicted` and `num_overlap`, and `num_reference`.
        confusion: task name -> voxels > 0 of its test scans, if it is known what they are, a list
            (num_classes) of lists (num_classes): of a class in the reference and of a class at
            highest activation.
        statistics: task name -> subject -> `mtseg.scan_statistics.ScanStatistics` of the scan.
    """

    rows: tuple[Row, ...]
    operating_points: dict[str, float]
    curves: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    confusion: dict[str, list[list[int]]] = dataclasses.field(default_factory=dict)
    statistics: dict[str, dict[str, ScanStatistics]] = dataclasses.field(
        default_factory=dict, compare=False
    )

    def values(self, task: str, class_name: str, metric: str) -> dict[str, float | None]:
        """One metric of one class: subject -> value."""
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
    def from_json(cls, stored: dict[str, Any]) -> Evaluation:
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
        )

    def to_csv(self) -> str:
        """The rows as CSV text; an undefined figure is an empty field."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["task", "class", "subject", "metric", "value"])
        for row in self.rows:
            writer.writerow([row.task, row.class_name, row.subject, row.metric, row.value])
        return text.getvalue()


def _known_classes(class_index_map: np.ndarray) -> np.ndarray:
    return np.where(class_index_map == IGNORED, 0, class_index_map)


class _Slice:
    """Probabilities in the one slice that a picture shows, kept until thresholds are known."""

    def __init__(self, subject: PreparedSubject, num_classes: int) -> None:
        self.subject = subject
        self.k = most_labelled_slice(_known_classes(subject.class_index_map))
        self.probabilities = np.zeros((*subject.image.shape[:2], num_classes), np.float32)
        self.probabilities[..., 0] = 1

    def keep(self, tile: Tile, mask: np.ndarray, probabilities: np.ndarray) -> None:
        """Keeps what a tile has in the slice."""
        i, j, k = tile.core
        if k.start <= self.k < k.stop:
            in_slice = np.nonzero(mask)[2] == self.k - k.start
            self.probabilities[i, j][mask[..., self.k - k.start]] = probabilities[in_slice]

    def picture(self, to_combined: np.ndarray, thresholds: list[float | None]) -> np.ndarray:
        """Scan, reference and prediction side by side."""
        labels = metrics.decide(np.moveaxis(self.probabilities, -1, 0), thresholds)
        reference = to_combined[_known_classes(self.subject.class_index_map[..., self.k])]
        return compare_slices(self.subject.image[..., self.k], reference, labels)


def evaluate_task(
    network: DenseNetwork,
    label_space: LabelSpace,
    task: Task,
    subjects: Iterable[PreparedSubject],
    *,
    is_complete: bool = False,
    on_picture: Callable[[np.ndarray], None] = lambda picture: None,
    on_scan: Callable[[str], None] = lambda name: None,
    on_labels: Callable[[StoredScan, np.ndarray], None] = lambda scan, labels: None,
) -> Evaluation:
    """Scores the test scans of one task.

    Args:
        network: what computes their tiles.
        label_space: the network's classes.
        task: one of its tasks.
        subjects: the task's test scans.
        is_complete: whether to measure surfaces and volumes as well, which takes longer.
        on_picture: called with a picture of the first scan.
        on_scan: called with the name of each scan when it has been computed.
        on_labels: called with each scan and its label map, if the evaluation is complete.

    Returns:
        A row per scan and class of `dice`, `precision` and `recall`. For a class of an
        `operating_point` task also `dice_argmax`, its Dice by highest activation, and
        `operating_point`, the threshold that would be best for that scan alone. If complete, also
        `hd95_mm`, `surface_dice`, `volume_reference_ml` and `volume_predicted_ml`. Per scan
        `alien_share`: the share of voxels > 0, of which it is known what they are, whose highest
        activation is a class of another task. A figure of a class that a scan does not have is
        None, but for its predicted volume.
    """
    to_combined = label_space.to_combined(task.name)
    indices = label_space.class_indices(task.name)
    at_threshold = indices if task.decision == "operating_point" else ()
    aliens = label_space.alien_indices(task.name)
    counted: dict[str, ScanCounts] = {}
    surface_rows: list[Row] = []
    waiting: list[StoredScan] = []
    shown: _Slice | None = None

    def score_waiting(points: dict[int, float]) -> None:
        while waiting:
            scan = waiting.pop(0)
            surface_rows.extend(_surface_rows(label_space, task, scan, points))
            on_labels(scan, scan.labels(points))

    for subject in subjects:
        observers: list[Any] = []
        if shown is None:
            shown = _Slice(subject, network.num_classes)
            observers.append(shown)
        if is_complete:
            waiting.append(StoredScan(subject, to_combined, at_threshold))
            observers.append(waiting[-1])
        counted[subject.name] = count_scan(network, to_combined, subject, observers)
        on_scan(subject.name)
        if not at_threshold:
            score_waiting({})
    curves = {c: _curve(counted.values(), c) for c in at_threshold}
    points = {c: t for c, curve in curves.items() if (t := _best(**curve)) is not None}
    score_waiting(points)
    rows = _count_rows(label_space, task, counted, points) + surface_rows
    for name, counts in counted.items():
        rows.append(Row(task.name, "all", name, "alien_share", counts.share_of(aliens)))
    names = label_space.class_names
    if shown is not None:
        on_picture(shown.picture(to_combined, [points.get(c) for c in range(len(names))]))
    total = sum((c.confusion for c in counted.values()), np.zeros((len(names),) * 2, np.int64))
    return Evaluation(
        tuple(rows),
        {names[c]: threshold for c, threshold in points.items()},
        {names[c]: curve for c, curve in curves.items()},
        {task.name: total.tolist()},
        {task.name: {name: counts.statistics for name, counts in counted.items()}},
    )


def _curve(counts: Iterable[ScanCounts], class_index: int) -> dict[str, Any]:
    """Counts of a class over some scans, at each threshold."""
    c, counts = class_index, list(counts)
    return {
        "num_predicted": sum(n.reached[c] for n in counts).tolist() if counts else [],
        "num_overlap": sum(n.reached_overlap[c] for n in counts).tolist() if counts else [],
        "num_reference": int(sum(n.confusion[c].sum() for n in counts)),
    }


def _best(num_predicted: list, num_overlap: list, num_reference: int) -> float | None:
    best = metrics.best_threshold(np.array(num_predicted), np.array(num_overlap), num_reference)
    return None if best is None else best[0]


def _count_rows(
    label_space: LabelSpace,
    task: Task,
    counted: dict[str, ScanCounts],
    points: dict[int, float],
) -> list[Row]:
    """The figures that follow from counts."""
    rows = []
    for c in label_space.class_indices(task.name):
        class_name = label_space.class_names[c]
        for name, counts in counted.items():
            at_activation = metrics.overlap_figures(*counts.at_activation(c))
            figures = at_activation
            if task.decision == "operating_point":
                point = points.get(c)
                if point is not None:
                    figures = metrics.overlap_figures(*counts.at_threshold(c, point))
                own = _best(**_curve([counts], c))
                figures |= {"dice_argmax": at_activation["dice"], "operating_point": own}
            rows += [Row(task.name, class_name, name, *figure) for figure in figures.items()]
    return rows


def _surface_rows(
    label_space: LabelSpace, task: Task, scan: StoredScan, points: dict[int, float]
) -> list[Row]:
    """The figures that need a whole scan."""
    rows = []
    voxel_ml = float(np.prod(scan.spacing_mm)) / 1000
    for c in label_space.class_indices(task.name):
        reference, predicted = scan.masks(c, points.get(c))
        hd95_mm, surface_dice = surface_figures(reference, predicted, scan.spacing_mm)
        has_class = bool(reference.any())
        figures = {
            "hd95_mm": hd95_mm,
            "surface_dice": surface_dice,
            "volume_reference_ml": float(reference.sum() * voxel_ml) if has_class else None,
            "volume_predicted_ml": scan.count_predicted(c, points.get(c)) * voxel_ml,
        }
        class_name = label_space.class_names[c]
        rows += [Row(task.name, class_name, scan.name, *figure) for figure in figures.items()]
    return rows


def join(evaluations: Iterable[Evaluation]) -> Evaluation:
    """The evaluations of several tasks as one."""
    rows: tuple[Row, ...] = ()
    points, curves, confusion, statistics = {}, {}, {}, {}
    for part in evaluations:
        rows += part.rows
        points |= part.operating_points
        curves |= part.curves
        confusion |= part.confusion
        statistics |= part.statistics
    return Evaluation(rows, points, curves, confusion, statistics)


def evaluate_model(
    network: DenseNetwork,
    label_space: LabelSpace,
    data_dir: str,
    *,
    on_picture: Callable[[str, np.ndarray], None] = lambda task_name, picture: None,
    on_labels: Callable[[str, StoredScan, np.ndarray], None] = lambda task_name, scan, labels: None,
    **how: Any,
) -> Evaluation:
    """Scores a network on the prepared test scans of every task of its label space.

    Args:
        network: from `mtseg.dense.make_dense_network`.
        label_space: its classes and the sources of the scans.
        data_dir: folder of prepared records.
        on_picture: called with a task's name and a picture of its first test scan.
        on_labels: called with a task's name, a scan and its label map.
        how: as for `evaluate_task`.
    """
    return join(
        evaluate_task(
            network,
            label_space,
            selection.task,
            read_selection(data_dir, selection, "test"),
            on_picture=functools.partial(on_picture, selection.task.name),
            on_labels=functools.partial(on_labels, selection.task.name),
            **how,
        )
        for selection in label_space.selections
    )
