"""Checking a data set before anything is written.

Each subject is read once. Issues are collected, not raised, so that the user can correct all of
them at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from mtseg.errors import InputError
from mtseg.scans.intensities import AIR_HU, is_ct
from mtseg.scans.label_files import whole_labels
from mtseg.scans.reading import read_voxels, require_finite
from mtseg.scans.volume import Volume, match_grid
from mtseg.sources.subject import FoundSubjects, Issue, Subject
from mtseg.system.text_table import format_table
from mtseg.tasks.task import LabelSource, Task, some

SPACING_MM = (0.05, 20.0)
"""Voxel sizes outside of this range are taken to be errors in the header."""


MOST_ANISOTROPIC = 6.0
"""A coarsest voxel size of more than this many times the finest is a warning."""


KINDS = {
    "missing": "a subject without a scan or label map",
    "extra": "more files than belong to a subject, or files of none",
    "split": "the split cannot be used, or has a person on both sides",
    "unreadable": "a file that cannot be read",
    "grid": "scan and label map are on different grids",
    "not_finite": "voxels that are NaN or infinite",
    "blank": "no voxel above 0",
    "labels": "labels that are not whole numbers or not listed",
    "empty": "a label map without any class of the task",
    "absent": "a class that a subject, or every training subject, does not show",
    "spacing": "an absurd voxel size",
    "anisotropy": "slices much thicker than the plane's voxels",
    "duplicate": "the same scan twice",
}
"""What there is to find, by the name of a issue's kind."""


@dataclasses.dataclass(frozen=True)
class SubjectReport:
    """What reading a subject has shown.

    Attributes:
        subject: whose.
        issues: of its files.
        checksum: of the scan's voxels; the same for the same scan. Empty if it cannot be read.
        num_voxels: of each of the task's classes in the label map; empty if it cannot be read.
    """

    subject: Subject
    issues: tuple[Issue, ...]
    checksum: str = ""
    num_voxels: tuple[int, ...] = ()


def check_subject(task: Task, labels: LabelSource, subject: Subject) -> SubjectReport:
    """Reads a subject's files and says everything that is wrong with them."""
    assert subject.image_path is not None
    assert subject.label_path is not None
    issues: list[Issue] = []

    def note(kind: str, fault: InputError | str, is_error: bool = True) -> None:
        issues.append(Issue(kind, subject.name, str(fault), is_error))

    image = label_map = None
    try:
        image = read_voxels(subject.image_path, np.float32)
        _check_image(image, subject.image_path, note)
    except InputError as error:
        note("unreadable", error)
    num_voxels: tuple[int, ...] = ()
    try:
        label_map = read_voxels(subject.label_path)
        num_voxels = _check_labels(task, labels, label_map, subject, note)
    except InputError as error:
        note("unreadable", error)
    if image is not None and label_map is not None:
        try:
            match_grid(image, label_map, subject.image_path, subject.label_path)
        except InputError as error:
            note("grid", error)
    checksum = ""
    if image is not None:
        content = repr((image.array.shape, image.array.dtype.str)).encode()
        voxels = np.ascontiguousarray(image.array.T)  # as most files have them
        checksum = hashlib.sha256(content + hashlib.sha256(voxels.data).digest()).hexdigest()
    return SubjectReport(subject, tuple(issues), checksum, num_voxels)


def _check_image(image: Volume, path: str, note: Callable[..., None]) -> None:
    try:
        require_finite(image, path)
    except InputError as error:
        note("not_finite", error)
    else:
        air = AIR_HU if is_ct(image.array) else 0.0
        if image.array.max() <= air:
            note("blank", f"{path}: every voxel is {air:g} or below. Check the scan.")
    sizes = image.spacing_mm
    shown = " x ".join(f"{size:.4g}" for size in sizes)
    if min(sizes) < SPACING_MM[0] or max(sizes) > SPACING_MM[1]:
        note(
            "spacing",
            f"{path}: its voxels are {shown} mm, outside of {SPACING_MM[0]:g} to "
            f"{SPACING_MM[1]:g} mm. Correct the header.",
        )
    elif max(sizes) > MOST_ANISOTROPIC * min(sizes):
        note(
            "anisotropy",
            f"{path}: its voxels are {shown} mm: more than {MOST_ANISOTROPIC:g} times as thick as "
            "they are fine. It is resampled, and holds little detail along that axis.",
            is_error=False,
        )


def _check_labels(
    task: Task,
    labels: LabelSource,
    label_map: Volume,
    subject: Subject,
    note: Callable[..., None],
) -> tuple[int, ...]:
    """Notes what is wrong with a label map; counts the voxels of each class."""
    path = str(subject.label_path)
    try:
        array = whole_labels(label_map.array, path)
        mapped = task.map_labels(array, labels, path)
    except InputError as error:
        note(error.kind or "labels", error)
        return ()
    # Slice by slice: counting makes 64-bit numbers of what it counts.
    counts = np.zeros(256, np.int64)
    for part in np.moveaxis(mapped, -1, 0):
        counts += np.bincount(part.ravel(), minlength=256)
    counts = counts[: task.num_classes]
    annotated = {name for name, _ in labels.values or ()}
    absent = [
        name
        for name, count in zip(task.class_names, counts, strict=True)
        if name in annotated and count == 0
    ]
    if absent:
        note("absent", f"{path}: has no voxel of {', '.join(absent)}.", is_error=False)
    return tuple(int(count) for count in counts)


def check_reports(
    task: Task, found: FoundSubjects, reports: Iterable[SubjectReport]
) -> tuple[Issue, ...]:
    """Everything that is wrong with a source, its subjects having been read.

    Returns:
        Errors and warnings: of the files, of each subject, then of the subjects together.
    """
    reports = list(reports)
    issues = [*found.issues, *(issue for report in reports for issue in report.issues)]
    issues += _find_duplicates(reports)
    trained_on = [r for r in reports if r.subject.split == "train" and r.num_voxels]
    if trained_on:
        annotated = {name for name, _ in found.labels.values or ()}
        totals = np.sum([report.num_voxels for report in trained_on], axis=0)
        named = zip(task.class_names, totals, strict=True)
        if absent := [name for name, total in named if name in annotated and total == 0]:
            folder = Path(str(trained_on[0].subject.label_path)).parent
            issues.append(
                Issue(
                    "absent",
                    "",
                    f"{folder}: no training subject has a voxel of {', '.join(absent)}. Add "
                    f"subjects that show it, or list it as not_annotated in {task.file_to_edit}.",
                )
            )
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
            names = some(subject.name for subject in same)
            yield Issue(
                "duplicate",
                same[0].name,
                f"{same[0].image_path}: subjects {names} are the same scan, {where}. Leave one of "
                "them.",
            )


def format_issues(issues: Iterable[Issue]) -> str:
    """The issues as a table, errors first."""
    rows = [
        ["error" if issue.is_error else "warning", issue.kind, issue.subject, issue.message]
        for issue in sorted(issues, key=lambda issue: not issue.is_error)
    ]
    header = ("", "kind", "subject", "issue")
    return format_table(header, rows, left=header)
