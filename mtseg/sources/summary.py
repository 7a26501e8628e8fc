"""The summary of a data set that ends `mtseg-check`: what a person looks at before hours are spent.

Issues are what is certainly wrong. The summary shows what may be: one scan of another size, a class
in few subjects, intensities of another scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mtseg.sources.checks import SubjectReport
from mtseg.sources.scan_figures import PERCENTILES, ScanFigures
from mtseg.sources.subject import FoundSubjects
from mtseg.system.text_table import format_table
from mtseg.tasks.task import Task, first_ten

_AXES = ("x (left-right)", "y (back-front)", "z (down-up)")
"""World axes of a scan, for readers."""

_SPLITS = ("train", "validation", "test")


def format_summary(task: Task, found: FoundSubjects, reports: Sequence[SubjectReport]) -> str:
    """The summary as text: the split, a table of the scans, and a table of the classes.

    Args:
        task: the task.
        found: the subjects of the source.
        reports: from `mtseg.sources.checks.check_subject`, one for each subject. Figures of files
            that cannot be read are left out.
    """
    measured = [(r.subject.name, r.figures) for r in reports if r.figures is not None]
    parts = [found.describe_split()]
    if measured:
        parts += ["", _scan_table(measured), "", *_intensity_notes(measured)]
    if any(report.num_voxels for report in reports):
        parts += ["", _class_table(task, found, [r for r in reports if r.num_voxels])]
    return "\n".join(parts)


def _scan_table(measured: Sequence[tuple[str, ScanFigures]]) -> str:
    """Smallest, median and largest figure over the scans, and whose the extremes are."""
    names = [name for name, _ in measured]
    all_figures = [figures for _, figures in measured]
    rows: dict[str, list[float]] = {}
    for axis, name in enumerate(_AXES):
        rows[f"size {name}, voxels"] = [figures.shape[axis] for figures in all_figures]
    for axis, name in enumerate(_AXES):
        rows[f"voxel {name}, mm"] = [figures.spacing_mm[axis] for figures in all_figures]
    for place, percent in enumerate(PERCENTILES):
        rows[f"intensity, {percent} % below"] = [f.percentiles[place] for f in all_figures]
    rows["foreground, % of the scan"] = [100 * f.foreground_share for f in all_figures]
    rows["labels outside it, %"] = [
        100 * (np.nan if f.outside_share is None else f.outside_share) for f in all_figures
    ]
    header = ("scans", "min", "median", "max", "min is", "max is")
    lines = [[title, *_extremes(names, values)] for title, values in rows.items()]
    return format_table(header, lines, left=("scans", "min is", "max is"))


def _extremes(names: Sequence[str], values: Sequence[float]) -> list[str]:
    """Min, median and max of a figure; the subjects of min and max, if the two differ."""
    known = [(value, name) for value, name in zip(values, names, strict=True) if value == value]
    if not known:
        return ["–", "–", "–", "", ""]
    low, high = min(known, key=lambda pair: pair[0]), max(known, key=lambda pair: pair[0])
    median = float(np.median([value for value, _ in known]))
    shown = [_show(value) for value in (low[0], median, high[0])]
    return [*shown, "all", ""] if shown[0] == shown[2] else [*shown, low[1], high[1]]


def _show(value: float) -> str:
    """Four digits, or all digits of a large number; never an exponent."""
    if abs(value) >= 1000 or value == int(value):
        return f"{value:.0f}"
    return np.format_float_positional(value, 4, fractional=False, trim="-")


def _intensity_notes(measured: Sequence[tuple[str, ScanFigures]]) -> list[str]:
    """How the intensities of the scans are read, and what is unusual about them."""
    num_ct = sum(figures.is_ct for _, figures in measured)
    kinds = [("CT (Hounsfield units)", num_ct), ("MR or other", len(measured) - num_ct)]
    read_as = " and ".join(f"{count} as {kind}" for kind, count in kinds if count)
    lines = [f"Intensities: {read_as}. Background is not counted in them."]
    by_note: dict[str, list[str]] = {}
    for name, figures in measured:
        if figures.note:
            by_note.setdefault(figures.note, []).append(name)
    lines += [
        f"{len(names)} scans: {note} ({first_ten(names)})." for note, names in by_note.items()
    ]
    return lines


def _class_table(task: Task, found: FoundSubjects, reports: Sequence[SubjectReport]) -> str:
    """How many subjects of each split have each class, and how large it is in them."""
    splits = [split for split in _SPLITS if any(r.subject.split == split for r in reports)]
    labels = {"background": found.labels.background, **dict(found.labels.values or ())}
    total = sum(sum(report.num_voxels) for report in reports)
    rows = []
    for index, name in enumerate(task.class_names):
        counts = [report.num_voxels[index] for report in reports]
        present = [count for count in counts if count]
        in_splits = []
        for split in splits:
            of_split = [r.num_voxels[index] for r in reports if r.subject.split == split]
            in_splits.append(f"{np.count_nonzero(of_split)} of {len(of_split)}")
        sizes = [min(present), int(np.median(present)), max(present)] if present else []
        shown = [str(size) for size in sizes] or ["absent", "", ""]
        rows.append([
            name, _show_labels(labels.get(name, ())), *in_splits, *shown,
            f"{100 * sum(counts) / max(total, 1):.3g}",
        ])  # fmt: skip
    header = ("class", "labels", *splits, "min voxels", "median", "max", "% of all")
    return format_table(header, rows, left=("class", "labels"))


def _show_labels(labels: Sequence[int | str]) -> str:
    """Labels as ranges, such as `4, 11, 49-52`; the first five if there are many."""
    ranges: list[list[int]] = []
    for label in sorted(int(label) for label in labels):
        if ranges and ranges[-1][1] == label - 1:
            ranges[-1][1] = label
        else:
            ranges.append([label, label])
    shown = [str(low) if low == high else f"{low}-{high}" for low, high in ranges]
    return ", ".join(shown[:5]) + (", …" if len(shown) > 5 else "") or "not annotated"


def summary_values(task: Task, reports: Sequence[SubjectReport]) -> list[dict[str, Any]]:
    """The figures of every subject as plain values for JSON."""
    rows = []
    for report in reports:
        row: dict[str, Any] = {"subject": report.subject.name, "split": report.subject.split}
        if (figures := report.figures) is not None:
            row |= {
                "shape_xyz": list(figures.shape),
                "spacing_mm_xyz": list(figures.spacing_mm),
                "intensity_percentiles": dict(
                    zip(map(str, PERCENTILES), figures.percentiles, strict=True)
                ),
                "foreground_share": figures.foreground_share,
                "labels_outside_share": figures.outside_share,
                "read_as_ct": figures.is_ct,
                "note": figures.note,
            }
        if report.num_voxels:
            row["num_voxels"] = dict(zip(task.class_names, report.num_voxels, strict=True))
        rows.append(row)
    return rows
