"""The report's section on confusion between tasks: voxels that get a class of another task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mtseg.evaluation.results import Evaluation
from mtseg.evaluation.tables import known_values
from mtseg.experiments.plan import label_of
from mtseg.experiments.report.figures import confusion_matrix, confusion_percent
from mtseg.experiments.report.page import Block, Heading, Paragraph, Picture, Table
from mtseg.experiments.results import Result
from mtseg.tasks.label_space import TaskSelection

if TYPE_CHECKING:  # it imports TensorFlow
    from mtseg.experiments.unlabelled import UnlabelledScan


def cross_task_percent(evaluation: Evaluation, task: str) -> list[float]:
    """Cross-task error of each test scan of a task, in percent of its voxels > 0."""
    return [100 * share for share in known_values(evaluation, task, "all", "alien_share")]


def median_cross_task_percent(evaluation: Evaluation, task: str) -> float | None:
    """Cross-task error of the median test scan of a task, in percent; None if it is undefined."""
    percent = cross_task_percent(evaluation, task)
    return float(np.median(percent)) if percent else None


def confusion_section(largest: Result, selections: Sequence[TaskSelection]) -> list[Block]:
    """Which classes the scans of each task get, and the cross-task error of each task."""
    names = [name.replace("_", " ") for name in largest.label_space.class_names]
    shares = confusion_percent(largest)
    rows = []
    for selection in selections:
        percent = cross_task_percent(largest.evaluation, selection.task.name)
        if percent:
            median, highest = f"{np.median(percent):.5f}", f"{max(percent):.5f}"
            rows.append([selection.task.name, str(len(percent)), median, highest])
    return [
        Heading("Confusion between tasks"),
        Picture(
            "confusion",
            confusion_matrix(largest),
            "A matrix: for the scans of each task, the percentage of voxels that get each class. "
            "The table below has the same values.",
            f"The network for {label_of(largest.experiment.name)} on the test scans of each task. "
            "Classes of other tasks are bold; the colour bar is theirs.",
        ),
        Table(
            "The same values, in percent of the voxels > 0.",
            ("scans of", *names),
            [
                [task, *(f"{share:.4f}" for share in of_classes)]
                for task, of_classes in shares.items()
            ],
        ),
        Table(
            "Cross-task error: percent of a scan's voxels > 0 that get a class of another task, "
            "which the paper calls alien (`alien_share` in CSV files).",
            ("scans of", "scans", "median", "highest"),
            rows,
        ),
    ]


def unlabelled_blocks(scans: Sequence[UnlabelledScan]) -> list[Block]:
    """The table of scans without labels; empty if there are none."""
    if not scans:
        return []
    rows = [
        [
            scan.name,
            scan.task,
            scan.recognised_as or "background only",
            f"{scan.num_voxels:,}",
            f"{100 * scan.cross_task_share:.4f}",
            f"{100 * scan.own_share:.2f}",
            f"{scan.mean_confidence:.3f}",
        ]
        for scan in scans
    ]
    return [
        Paragraph(
            "Scans without labels: whether the labels of the network are right cannot be said, but "
            "a class of another task is wrong."
        ),
        Table(
            "Scans without labels, segmented by the same network at the voxel size that "
            "`mtseg-predict` uses. Own classes are those of the scan's task.",
            ("scan", "task", "recognised as", "voxels > 0", "cross-task error, %",
             "own classes, %", "mean confidence"),
            rows,
            num_text_columns=3,
        ),
    ]  # fmt: skip
