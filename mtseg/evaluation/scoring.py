"""Scores of a network on the test scans of its tasks.

`evaluate_model` scores all tasks, `evaluate_task` one. An `argmax` task is scored at the most
probable class. An `operating_point` task is scored at the threshold with the highest Dice over its
whole test set. That threshold is found from counts, so no probabilities are kept, and one scan is
in memory at a time. During training only Dice is computed; a complete evaluation also measures
surfaces and volumes.

Reference: Moeskops et al., MICCAI 2016, section 4.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mtseg.evaluation import metrics
from mtseg.evaluation.counts import ScanCounts, count_scan
from mtseg.evaluation.pictures import compare_slices, most_labelled_slice
from mtseg.evaluation.results import Evaluation, Row, join, known_classes
from mtseg.evaluation.stored_scan import StoredScan
from mtseg.evaluation.surfaces import surface_figures
from mtseg.inference.decision import decide
from mtseg.inference.dense import DenseNetwork
from mtseg.inference.tiling import Tile
from mtseg.records.reading import read_selection
from mtseg.sources.reading import PreparedSubject
from mtseg.tasks.label_space import LabelSpace
from mtseg.tasks.task import IGNORED, Task


class _Slice:
    """Probabilities in the one slice that a picture shows, kept until thresholds are known."""

    def __init__(self, subject: PreparedSubject, num_classes: int) -> None:
        self.subject = subject
        self.k = most_labelled_slice(known_classes(subject.class_index_map))
        self.probabilities = np.zeros((*subject.image.shape[:2], num_classes), np.float32)
        self.probabilities[..., 0] = 1

    def keep(self, tile: Tile, mask: np.ndarray, probabilities: np.ndarray) -> None:
        """Keeps what a tile has in the slice."""
        i, j, k = tile.core
        if k.start <= self.k < k.stop:
            in_slice = np.nonzero(mask)[2] == self.k - k.start
            self.probabilities[i, j][mask[..., self.k - k.start]] = probabilities[in_slice]

    def picture(
        self, to_combined: np.ndarray, is_thresholded: Sequence[bool], points: Mapping[int, float]
    ) -> np.ndarray:
        """Scan, reference and prediction side by side."""
        # Another task's operating point is chosen on other scans: 0.5 is close to argmax.
        thresholds = [
            points.get(c, 0.5) if is_one else None for c, is_one in enumerate(is_thresholded)
        ]
        labels = decide(np.moveaxis(self.probabilities, -1, 0), thresholds)
        reference = to_combined[known_classes(self.subject.class_index_map[..., self.k])]
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
        `operating_point` task also `dice_argmax`, its Dice by argmax, and
        `operating_point`, the threshold that would be best for that scan alone. If complete, also
        `hd95_mm`, `surface_dice`, `volume_reference_ml` and `volume_predicted_ml`. Per scan
        `alien_share`: the share of voxels > 0, of which it is known what they are, whose highest
        activation is a class of another task. A figure of a class that a scan does not have is
        None, but for its predicted volume.
    """
    to_combined = label_space.to_combined(task.name)
    is_thresholded = [rule == "operating_point" for rule in label_space.decisions]
    at_threshold = [c for c in label_space.class_indices(task.name) if is_thresholded[c]]
    aliens = label_space.alien_indices(task.name)
    counted: dict[str, ScanCounts] = {}
    surface_rows: list[Row] = []
    waiting: list[StoredScan] = []
    shown: _Slice | None = None

    def score_waiting(points: dict[int, float]) -> None:
        while waiting:
            scan = waiting.pop(0)
            labels = scan.labels(points)
            surface_rows.extend(_surface_rows(label_space, task, scan, labels))
            on_labels(scan, labels)

    for subject in subjects:
        observers: list[Any] = []
        if shown is None:
            shown = _Slice(subject, network.num_classes)
            observers.append(shown)
        if is_complete:
            waiting.append(StoredScan(subject, to_combined, is_thresholded))
            observers.append(waiting[-1])
        counted[subject.name] = count_scan(network, to_combined, is_thresholded, subject, observers)
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
        on_picture(shown.picture(to_combined, is_thresholded, points))
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
        "num_predicted": np.sum([n.reached[c] for n in counts], axis=0).tolist() if counts else [],
        "num_overlap": (
            np.sum([n.reached_overlap[c] for n in counts], axis=0).tolist() if counts else []
        ),
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
            at_argmax = metrics.overlap_figures(*counts.at_argmax(c))
            figures = at_argmax
            if task.decision == "operating_point":
                point = points.get(c)
                if point is not None:
                    figures = metrics.overlap_figures(*counts.at_threshold(c, point))
                own = _best(**_curve([counts], c))
                figures |= {"dice_argmax": at_argmax["dice"], "operating_point": own}
            rows += [Row(task.name, class_name, name, *figure) for figure in figures.items()]
    return rows


def _surface_rows(
    label_space: LabelSpace, task: Task, scan: StoredScan, labels: np.ndarray
) -> list[Row]:
    """The figures that need a whole scan: surface distances and volumes."""
    rows = []
    voxel_ml = float(np.prod(scan.spacing_mm)) / 1000
    is_known = scan.reference != IGNORED
    for c in label_space.class_indices(task.name):
        reference, predicted = np.asarray(scan.reference == c), labels == c
        num_predicted = int(np.count_nonzero(predicted))  # also where the reference is not known
        predicted &= is_known
        hd95_mm, surface_dice = surface_figures(reference, predicted, scan.spacing_mm)
        has_class = bool(reference.any())
        figures = {
            "hd95_mm": hd95_mm,
            "surface_dice": surface_dice,
            "volume_reference_ml": float(reference.sum() * voxel_ml) if has_class else None,
            "volume_predicted_ml": num_predicted * voxel_ml,
        }
        class_name = label_space.class_names[c]
        rows += [Row(task.name, class_name, scan.name, *figure) for figure in figures.items()]
    return rows


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
        network: from `mtseg.inference.dense.make_dense_network`.
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
