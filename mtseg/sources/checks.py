"""Checks of a data set before anything is written: `mtseg-check`, and the start of `mtseg-prepare`.

Each subject is read once. Issues are collected, not raised, so that the user can correct all of
them at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.scans.intensities import NARROW_HU
from mtseg.scans.label_files import whole_labels
from mtseg.scans.reading import read_voxels, require_finite
from mtseg.scans.volume import Volume, match_grid
from mtseg.sources.scan_figures import ScanFigures, measure_scan
from mtseg.sources.subject import FoundSubjects, Issue, IssueKind, Subject
from mtseg.system.text_table import format_table
from mtseg.tasks.task import LabelSource, Task, first_ten

SPACING_MM = (0.05, 20.0)
"""Smallest and largest plausible voxel size. Others are errors in the header."""

LARGEST_ANISOTROPY = 6.0
"""If a voxel is more than this many times longer than wide, there is a warning."""

OUTSIDE_WARNED, OUTSIDE_REFUSED = 0.001, 0.05
"""Shares of the labelled voxels outside the foreground: above the first there is a warning, above
the second an error."""

_MOST_WARNINGS = 3
"""So many warnings of one kind are listed one by one; more become one row."""


@dataclasses.dataclass(frozen=True)
class SubjectReport:
    """What is known of a subject after its files have been read.

    Attributes:
        subject: the subject.
        issues: of its files.
        checksum: of the scan's shape and voxels, equal for equal scans; empty if it is unreadable.
        num_voxels: of each of the task's classes in the label map; empty if it is unreadable.
        figures: of the scan, for the summary; None if it is unreadable, has no foreground, or was
            not measured.
        files: what `mtseg.records.staging` knows the files by, as they were when they were read;
            empty if that was not noted.
    """

    subject: Subject
    issues: tuple[Issue, ...]
    checksum: str = ""
    num_voxels: tuple[int, ...] = ()
    figures: ScanFigures | None = None
    files: tuple[Any, ...] = ()


def check_subject(task: Task, labels: LabelSource, subject: Subject) -> SubjectReport:
    """Reads the scan and the label map of a subject and reports all their issues.

    Args:
        task: the task.
        labels: its source, in which every label is a value.
        subject: one with files, not a phantom.
    """
    if subject.image_path is None or subject.label_path is None:
        raise ValueError(f"subject {subject.name} has no files to check")
    issues: list[Issue] = []
    image = label_map = class_index_map = None
    checksum = ""
    num_voxels: tuple[int, ...] = ()
    try:
        image = read_voxels(subject.image_path, np.float32)
        issues += _check_image(image, subject.name, subject.image_path)
        is_measurable = not any(issue.kind == "not_finite" for issue in issues)
        checksum = _checksum(image.array)
    except InputError as error:
        issues.append(Issue("unreadable", subject.name, str(error)))
    try:
        label_map = read_voxels(subject.label_path)
        class_index_map = task.map_labels(
            whole_labels(label_map.array, subject.label_path), labels, subject.label_path
        )
        num_voxels = _count_voxels(class_index_map, task.num_classes)
        if absent := _absent_classes(task, labels, num_voxels):
            message = (
                f"{subject.label_path}: has no voxel of {', '.join(absent)}. Correct the label map "
                "if the scan shows it."
            )
            issues.append(Issue("absent", subject.name, message, is_error=False))
    except InputError as error:
        kind: IssueKind = "unreadable" if label_map is None else error.kind or "labels"
        issues.append(Issue(kind, subject.name, str(error)))
    if image is not None and label_map is not None:
        try:
            known = label_map.array if class_index_map is None else class_index_map
            on_grid = match_grid(
                image, Volume(known, label_map.affine), subject.image_path, subject.label_path
            )
            class_index_map = None if class_index_map is None else on_grid.array
        except InputError as error:
            class_index_map = None
            issues.append(Issue("grid", subject.name, str(error)))
    figures = None
    if image is not None and is_measurable:
        is_told_ct = image.is_ct if task.is_ct is None else task.is_ct
        figures = measure_scan(image, class_index_map, is_told_ct)
        if figures is None:
            message = f"{subject.image_path}: every voxel is background. Export the scan again."
            issues.append(Issue("blank", subject.name, message))
        else:
            issues += _check_outside(figures, subject)
            issues += _check_scale(figures, subject, is_told_ct)
    return SubjectReport(subject, tuple(issues), checksum, num_voxels, figures)


def _check_outside(figures: ScanFigures, subject: Subject) -> Iterator[Issue]:
    """Reports labelled voxels where the scan has no foreground: no class is learnt there."""
    share = figures.outside_share or 0.0
    if share > OUTSIDE_WARNED:
        cause = "The label map or a mask of the scan is wrong"
        if figures.note:
            cause = f"Likely cause: {figures.note}"
        message = (
            f"{subject.label_path}: {100 * share:.3g} % of its labelled voxels are outside the "
            f"foreground of {subject.image_path}, where nothing is learnt. {cause}. Correct the "
            "label map, or the scan."
        )
        yield Issue("outside", subject.name, message, is_error=share > OUTSIDE_REFUSED)


def _check_scale(
    figures: ScanFigures, subject: Subject, is_told_ct: bool | None
) -> Iterator[Issue]:
    """Reports a scan that is CT by its task or file, and has values of another scale."""
    span = figures.percentiles[-1] - figures.percentiles[0]
    if is_told_ct and span < NARROW_HU:
        message = (
            f"{subject.image_path}: is CT by its task or header, but its values span {span:.3g}, "
            "too few for Hounsfield units. Use the scan as the scanner wrote it, or correct the "
            "modality in the task file."
        )
        yield Issue("blank", subject.name, message)


def _check_image(image: Volume, subject: str, path: str) -> Iterator[Issue]:
    """The issues of a scan's voxel size, and of voxels that are no numbers."""
    try:
        require_finite(image, path)
    except InputError as error:
        yield Issue("not_finite", subject, str(error))
    smallest, largest = min(image.spacing_mm), max(image.spacing_mm)
    shown = " x ".join(f"{size:.4g}" for size in image.spacing_mm)
    if smallest < SPACING_MM[0] or largest > SPACING_MM[1]:
        message = (
            f"{path}: its voxels are {shown} mm, outside of {SPACING_MM[0]:g} to "
            f"{SPACING_MM[1]:g} mm. Correct the header."
        )
        yield Issue("spacing", subject, message)
    elif largest > LARGEST_ANISOTROPY * smallest:
        message = (
            f"{path}: its voxels are {shown} mm, more than {LARGEST_ANISOTROPY:g} times longer "
            "than wide. It is resampled, but shows little detail along that axis; prefer a scan "
            "with thinner slices."
        )
        yield Issue("anisotropy", subject, message, is_error=False)


def _checksum(array: npt.NDArray[Any]) -> str:
    header = repr((array.shape, array.dtype.str)).encode()
    voxels = np.ascontiguousarray(array.T)  # most files have this order, so nothing is copied
    return hashlib.sha256(header + hashlib.sha256(voxels.data).digest()).hexdigest()


def _count_voxels(class_index_map: npt.NDArray[np.uint8], num_classes: int) -> tuple[int, ...]:
    """The number of voxels of each of a task's classes, background first."""
    # Slice by slice, because bincount turns its input into 64-bit numbers.
    counts = np.zeros(256, np.int64)
    for plane in np.moveaxis(class_index_map, -1, 0):
        counts += np.bincount(plane.ravel(), minlength=256)
    return tuple(counts[:num_classes].tolist())


def _absent_classes(task: Task, labels: LabelSource, num_voxels: Sequence[int]) -> list[str]:
    """Names of the classes that the source annotates but that have no voxel."""
    annotated = {name for name, _ in labels.values or ()}
    counted = zip(task.class_names, num_voxels, strict=True)
    return [name for name, count in counted if name in annotated and count == 0]


def check_reports(
    task: Task, found: FoundSubjects, reports: Iterable[SubjectReport]
) -> tuple[Issue, ...]:
    """All issues of a source whose subjects have been read.

    Args:
        task: the task.
        found: the subjects of the source.
        reports: from `check_subject`, one for each subject in the same order.

    Returns:
        Issues of finding the files, then of each subject, then of the subjects together.
    """
    reports = list(reports)
    issues = [*found.issues, *(issue for report in reports for issue in report.issues)]
    issues += _find_duplicates(reports)
    trained_on = [r for r in reports if r.subject.split == "train" and r.num_voxels]
    if trained_on:
        totals = np.sum([report.num_voxels for report in trained_on], axis=0)
        if absent := _absent_classes(task, found.labels, totals.tolist()):
            folder = Path(str(trained_on[0].subject.label_path)).parent
            message = (
                f"{folder}: no training subject has a voxel of {', '.join(absent)}. Add subjects "
                f"that show it, or list it as not_annotated in {task.file_to_edit}."
            )
            issues.append(Issue("absent", "", message))
    return tuple(issues)


def _find_duplicates(reports: Iterable[SubjectReport]) -> Iterator[Issue]:
    by_checksum: dict[str, list[Subject]] = defaultdict(list)
    for report in reports:
        if report.checksum:
            by_checksum[report.checksum].append(report.subject)
    for same in by_checksum.values():
        if len(same) > 1:
            is_across = len({subject.split for subject in same}) > 1
            where = "on both sides of the split" if is_across else f"all in {same[0].split}"
            names = first_ten(subject.name for subject in same)
            message = (
                f"{same[0].image_path}: subjects {names} are the same scan, {where}. Keep one of "
                "them."
            )
            yield Issue("duplicate", same[0].name, message)


def format_issues(issues: Iterable[Issue]) -> str:
    """The issues as a table for people, errors first.

    A warning that more than `_MOST_WARNINGS` subjects have stands there once, with their names.
    """
    issues = list(issues)
    rows = [
        ["error", issue.kind, issue.subject, issue.message] for issue in issues if issue.is_error
    ]
    warnings: dict[str, list[Issue]] = defaultdict(list)
    for issue in (issue for issue in issues if not issue.is_error):
        warnings[issue.kind if issue.subject else issue.message].append(issue)
    for alike in warnings.values():
        if len(alike) <= _MOST_WARNINGS:
            rows += [["warning", each.kind, each.subject, each.message] for each in alike]
        else:
            others = first_ten(each.subject for each in alike[1:])
            message = f"{alike[0].message} The same: {others}."
            rows.append(["warning", alike[0].kind, f"{len(alike)} subjects", message])
    header = ("", "kind", "subject", "issue")
    return format_table(header, rows, left=header)
