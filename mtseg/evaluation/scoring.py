"""Scores of a network on scans of its tasks: the way from a network to an `Evaluation`.

`evaluate_model` scores all tasks of a network, `evaluate_task` one. A class of an `argmax` task is
scored where it is the most probable of all classes. A class of an `operating_point` task is scored
by the rule of `mtseg.inference.decision`, at a threshold that was chosen on other scans, or at that
with the highest Dice over all scans that are scored, as in the paper. That threshold is found from
counts, so no probabilities are kept, and one scan is in memory at a time. During training only
counts are scored; a complete evaluation also measures surfaces and volumes.

Reference: Moeskops et al., MICCAI 2016, section 4.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from mtseg.evaluation import metrics
from mtseg.evaluation.counts import ScanCounts, TileObserver, count_scan
from mtseg.evaluation.results import Evaluation, Row, join
from mtseg.evaluation.stored_scan import StoredScan, StoredSlice
from mtseg.evaluation.surfaces import mask_figures
from mtseg.inference.engines.averaging import Network
from mtseg.inference.postprocessing import class_rules, postprocess
from mtseg.records.reading import read_selection
from mtseg.sources.subject import PreparedSubject
from mtseg.tasks.label_space import LabelSpace
from mtseg.tasks.task import IGNORED, Task


class _Curve(TypedDict):
    """Counts of a class over some scans; lists of 101, at each of `metrics.THRESHOLDS`."""

    num_predicted: list[int]
    num_overlap: list[int]
    num_reference: int


def evaluate_task(
    network: Network,
    label_space: LabelSpace,
    task: Task,
    subjects: Iterable[PreparedSubject],
    *,
    operating_points: Mapping[str, float] | None = None,
    is_complete: bool = False,
    on_picture: Callable[[npt.NDArray[np.uint8]], None] = lambda picture: None,
    on_scan: Callable[[str], None] = lambda name: None,
    on_labels: Callable[[StoredScan, npt.NDArray[np.uint8]], None] = lambda scan, labels: None,
) -> Evaluation:
    """Scores a network on scans of one task.

    Args:
        network: computes the scans tile by tile.
        label_space: the network's classes.
        task: one of its tasks.
        subjects: the task's scans.
        operating_points: class name -> threshold, from `metrics.THRESHOLDS`, chosen on other scans;
            None chooses them on these scans.
        is_complete: whether to measure surfaces and volumes as well, which takes longer.
        on_picture: called with a picture of the first scan, uint8 RGB, when all are computed.
        on_scan: called with the name of each scan when it has been computed.
        on_labels: called with each scan and its label map, uint8 (I, J, K) of combined class
            indices, if the evaluation is complete.

    Returns:
        One `Row` per figure, with None for a figure that is undefined:

        - Per scan and class `dice`, `precision` and `recall`.
        - For a class of an `operating_point` task also `dice_argmax`, its Dice where it is the
          most probable of all classes, and `operating_point`, the threshold that would be best for
          that scan alone.
        - If complete, also `hd95_mm`, `surface_dice`, `volume_reference_ml` and
          `volume_predicted_ml`, by the decision rule at the operating points. The predicted volume
          is defined also for a class that the scan does not have; the others are then None.
        - If complete, for a class that the task file has post-processed also
          `dice_postprocessed`, `precision_postprocessed`, `recall_postprocessed`,
          `hd95_mm_postprocessed`, `surface_dice_postprocessed` and
          `volume_predicted_ml_postprocessed`. All other figures are without post-processing, as in
          the paper.
        - Per scan `alien_share`, the cross-task error: the share of foreground voxels whose most
          probable class is one of another task, whatever the thresholds. Voxels with the ignore
          label do not count.
    """
    to_combined = label_space.to_combined(task.name)
    is_thresholded = [rule == "operating_point" for rule in label_space.decisions]
    own_classes = label_space.class_indices(task.name)
    at_threshold = [c for c in own_classes if is_thresholded[c]]
    if not at_threshold:
        # Without an operating point of this task, a voxel's label is its most probable class:
        # thresholds of other tasks' classes are unknown here and need not be counted.
        is_thresholded = [False] * len(is_thresholded)
    rules = class_rules([selection.task for selection in label_space.selections])
    own_postprocessed = [r.class_index for r in rules if r.class_index in own_classes]
    counted: dict[str, ScanCounts] = {}
    surface_rows: list[Row] = []
    waiting: list[StoredScan] = []
    shown: StoredSlice | None = None

    def score_waiting(points: Mapping[int, float]) -> None:
        while waiting:
            scan = waiting.pop(0)
            labels = scan.labels(points)
            surface_rows.extend(_label_rows(label_space, task, scan, labels, own_classes))
            on_labels(scan, labels)
            if own_postprocessed:
                changed = labels.copy()  # `on_labels` may have kept the others
                postprocess(changed, rules)
                surface_rows.extend(
                    _label_rows(
                        label_space, task, scan, changed, own_postprocessed, is_postprocessed=True
                    )
                )

    for subject in subjects:
        observers: list[TileObserver] = []
        if shown is None:
            shown = StoredSlice(subject, to_combined, is_thresholded)
            observers.append(shown)
        if is_complete:
            waiting.append(StoredScan(subject, to_combined, is_thresholded))
            observers.append(waiting[-1])
        counted[subject.name] = count_scan(network, to_combined, is_thresholded, subject, observers)
        on_scan(subject.name)
        if not at_threshold:  # nothing to wait for
            score_waiting({})
    curves = {c: _sum_curve(list(counted.values()), c) for c in at_threshold}
    names = label_space.class_names
    if operating_points is None:
        chosen = {c: _best_threshold(curve) for c, curve in curves.items()}
    else:
        chosen = {c: operating_points.get(names[c]) for c in curves}
    points = {c: point for c, point in chosen.items() if point is not None}
    score_waiting(points)
    if shown is not None:
        on_picture(shown.picture(points))
    rows = _count_rows(label_space, task, counted, points) + surface_rows
    others = label_space.indices_of_other_tasks(task.name)
    for name, counts in counted.items():
        rows.append(Row(task.name, "all", name, "alien_share", counts.argmax_share(others)))
    confusion = np.zeros((len(names), len(names)), np.int64)
    for counts in counted.values():
        confusion += counts.confusion
    return Evaluation(
        tuple(rows),
        {names[c]: threshold for c, threshold in points.items()},
        {names[c]: dict(curve) for c, curve in curves.items()},
        {task.name: confusion.tolist()},
        {task.name: {name: counts.statistics for name, counts in counted.items()}},
    )


def _sum_curve(counts: Sequence[ScanCounts], class_index: int) -> _Curve:
    """Counts of a class over some scans, at each threshold; empty lists without a scan."""
    c = class_index
    predicted = np.sum([scan.predicted[c] for scan in counts], axis=0) if counts else np.array([])
    overlap = np.sum([scan.overlap[c] for scan in counts], axis=0) if counts else np.array([])
    return {
        "num_predicted": predicted.tolist(),
        "num_overlap": overlap.tolist(),
        "num_reference": int(sum(scan.confusion[c].sum() for scan in counts)),
    }


def _best_threshold(curve: _Curve) -> float | None:
    """The operating point with the highest Dice; None if no scan has the class."""
    best = metrics.best_threshold(
        np.array(curve["num_predicted"]), np.array(curve["num_overlap"]), curve["num_reference"]
    )
    return None if best is None else best[0]


def _count_rows(
    label_space: LabelSpace,
    task: Task,
    counted: Mapping[str, ScanCounts],
    points: Mapping[int, float],
) -> list[Row]:
    """The figures that follow from counts.

    A class without an operating point, because no scan had it on which it would have been chosen,
    is scored where it is the most probable of all classes.
    """
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
                own = _best_threshold(_sum_curve([counts], c))
                figures |= {"dice_argmax": at_argmax["dice"], "operating_point": own}
            rows += [Row(task.name, class_name, name, *figure) for figure in figures.items()]
    return rows


def _label_rows(
    label_space: LabelSpace,
    task: Task,
    scan: StoredScan,
    labels: npt.NDArray[np.uint8],
    class_indices: Sequence[int],
    *,
    is_postprocessed: bool = False,
) -> list[Row]:
    """The figures of classes that need a whole label map.

    Args:
        label_space: the network's classes.
        task: one of its tasks.
        scan: the reference.
        labels: uint8 (I, J, K), combined class index.
        class_indices: the classes.
        is_postprocessed: whether the label map is post-processed. Counts give no Dice, precision
            and recall of such a map, and its reference is the same as without.
    """
    names: tuple[str, ...]
    names = ("hd95_mm", "surface_dice", "volume_reference_ml", "volume_predicted_ml")
    suffix = ""
    if is_postprocessed:
        names = ("dice", "precision", "recall", "hd95_mm", "surface_dice", "volume_predicted_ml")
        suffix = "_postprocessed"
    rows = []
    for c in class_indices:
        class_name, figures = label_space.class_names[c], _label_figures(scan, labels, c)
        rows += [Row(task.name, class_name, scan.name, n + suffix, figures[n]) for n in names]
    return rows


def _label_figures(
    scan: StoredScan, labels: npt.NDArray[np.uint8], class_index: int
) -> dict[str, float | None]:
    """Figures of a class in a label map; voxels with the ignore label count in the volume alone."""
    return mask_figures(
        np.asarray(scan.reference == class_index),
        labels == class_index,
        scan.spacing_mm,
        float(np.prod(scan.spacing_mm)) / 1000,
        np.asarray(scan.reference != IGNORED),
    )


def evaluate_model(
    network: Network,
    label_space: LabelSpace,
    data_dir: str,
    *,
    split: str = "test",
    operating_points: Mapping[str, float] | None = None,
    points_from: str = "",
    is_complete: bool = False,
    on_picture: Callable[[str, npt.NDArray[np.uint8]], None] = lambda task_name, picture: None,
    on_scan: Callable[[str], None] = lambda name: None,
    on_labels: Callable[[str, StoredScan, npt.NDArray[np.uint8]], None] = (
        lambda task_name, scan, labels: None
    ),
) -> Evaluation:
    """Scores a network on the prepared scans of every task of its label space.

    A task without a scan of the split has no figures.

    Args:
        network: computes the scans, from `mtseg.inference.dense.make_dense_network`.
        label_space: its classes, and the sources of each task's scans.
        data_dir: folder of prepared records.
        split: which scans: `test`, `validation` or `train`.
        operating_points: class name -> threshold chosen on other scans; None chooses them on these.
        points_from: the split of those scans.
        is_complete: whether to measure surfaces and volumes as well.
        on_picture: called with a task's name and a picture of its first scan.
        on_scan: called with the name of each scan when it has been computed.
        on_labels: called with a task's name, a scan and its label map, if complete.

    Returns:
        The figures of all tasks; see `evaluate_task`.

    Raises:
        InputError: if records are missing or damaged, or there is no room for temporary files.
    """
    evaluations = (
        evaluate_task(
            network,
            label_space,
            selection.task,
            read_selection(data_dir, selection, split),
            operating_points=operating_points,
            is_complete=is_complete,
            on_picture=functools.partial(on_picture, selection.task.name),
            on_scan=on_scan,
            on_labels=functools.partial(on_labels, selection.task.name),
        )
        for selection in label_space.selections
    )
    return join(evaluations, split, split if operating_points is None else points_from)
