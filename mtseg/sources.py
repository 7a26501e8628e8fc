"""Sources: a task and a folder of scans come in, labelled subjects and their volumes leave.

A layout is how scans, label maps and splits lie in a folder. Each layout is one function in
`LAYOUTS`, under the name that a task file gives its source. Phantoms need no folder: they are made.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mtseg.errors import InputError
from mtseg.phantoms import CLASS_LABELS, make_phantom
from mtseg.task import LabelSource, Split, Task, some
from mtseg.task_file import GENERATED, generated_split
from mtseg.volumes import Volume, check_same_grid, read_label_map, read_scan

SPLIT_FILE = "split.csv"
"""In a folder of scans it replaces the task file's split."""

_ENDINGS = (".nii.gz", ".nii")


@dataclass(frozen=True)
class Subject:
    """One labelled subject, not yet read.

    Attributes:
        name: unique over both splits of its source.
        split: `train` or `test`.
        image_path: the scan's file; None for a phantom.
        label_path: the label map's file; None for a phantom.
        seed: of a phantom; None for a scan.
    """

    name: str
    split: str
    image_path: str | None
    label_path: str | None
    seed: int | None


def list_subjects(
    task: Task,
    source: str,
    manual_dir: Path | None,
    num_train: int | None = None,
    num_test: int | None = None,
) -> list[Subject]:
    """Finds the subjects of a task's source, without reading a scan.

    Args:
        task: the task.
        source: name of one of its sources.
        manual_dir: the folder of scans; phantoms need none.
        num_train: number of training phantoms; None is the task file's.
        num_test: number of test phantoms; None is the task file's.

    Returns:
        The training subjects, then the test subjects, each in the order of the split.

    Raises:
        InputError: if the source is unknown, a subject has not exactly one scan and one label map,
            the split has a subject on both sides, or a number is given for scans.
    """
    label_source = task.source(source)
    if source == GENERATED:
        return _list_phantoms(task, label_source, num_train, num_test)
    if source not in LAYOUTS:
        raise InputError(
            f"{task.path}: sources.{source}: no layout has this name. Name the source after how "
            f"its files lie: {', '.join(LAYOUTS)}."
        )
    if num_train is not None or num_test is not None:
        raise InputError(
            f"{task.name}:{source}: --num-train and --num-test are for phantoms. Choose subjects "
            f"in {SPLIT_FILE} in the folder of scans."
        )
    return LAYOUTS[source](task, label_source, manual_dir)


def read_subject(
    task: Task, source: str, subject: Subject, size: int | None = None
) -> tuple[Volume, Volume]:
    """Reads, or makes, a subject's scan and label map.

    Args:
        task: the task.
        source: name of the source that the subject is of.
        subject: from `list_subjects`.
        size: largest extent of a phantom in voxels; None is near the paper's data.

    Returns:
        `(image, label_map)` on one grid; the labels are the source's, not class indices.

    Raises:
        InputError: if a file cannot be used, the two grids differ, or a size is given for a scan.
    """
    if subject.seed is not None:
        phantom = make_phantom(task.name, subject.seed, size)
        image = Volume(phantom.image.astype(np.float32), phantom.affine)
        return image, Volume(phantom.label_map, phantom.affine)
    if size is not None:
        raise InputError(f"{task.name}:{source}: --size is for phantoms. Leave it out for scans.")
    if subject.image_path is None or subject.label_path is None:
        raise InputError(
            f"{task.name}:{source}: subject {subject.name} lacks a scan or a label map."
        )
    image, label_map = read_scan(subject.image_path), read_label_map(subject.label_path)
    check_same_grid(image, label_map, subject.image_path, subject.label_path)
    return image, label_map


def _list_phantoms(
    task: Task, source: LabelSource, num_train: int | None, num_test: int | None
) -> list[Subject]:
    if task.name not in CLASS_LABELS:
        raise InputError(
            f"{task.path}: sources.{GENERATED}: there are phantoms of {', '.join(CLASS_LABELS)} "
            f"only, not of {task.name}. Remove this source and name one with scans."
        )
    split = generated_split(
        len(source.split.train) if num_train is None else num_train,
        len(source.split.test) if num_test is None else num_test,
        f"{task.name}:{GENERATED}",
    )
    return [
        Subject(name, side, None, None, int(name.removeprefix(GENERATED)))
        for side, names in (("train", split.train), ("test", split.test))
        for name in names
    ]


def _list_miccai2012(task: Task, source: LabelSource, manual_dir: Path | None) -> list[Subject]:
    """The MICCAI 2012 challenge: `NNNN*.nii.gz` beside `NNNN*_glm.nii.gz`, `.nii` as well."""
    expected = (
        "NNNN_SS.nii.gz or NNNN*.nii.gz (scans) beside NNNN*_glm.nii.gz (label maps), NNNN being "
        "the subject"
    )
    folder, names = _list_scan_files(manual_dir, f"{task.name}:{source.name}", expected)
    split = source.split
    if (folder / SPLIT_FILE).exists():
        split = read_split(folder / SPLIT_FILE, source.split)
    files = {subject: _files_of(subject, names) for subject in (*split.train, *split.test)}
    if missing := [subject for subject, found in files.items() if not any(found)]:
        raise InputError(
            f"{folder}: {len(missing)} of {len(files)} subjects of the split have no file here: "
            f"{some(missing)}. Add their files, or list the subjects that are here in {SPLIT_FILE} "
            "(columns subject,split)."
        )
    for subject, (images, label_maps) in files.items():
        if len(images) != 1 or len(label_maps) != 1:
            raise InputError(
                f"{folder}: subject {subject} must have one scan and one label map. Scans: "
                f"{some(images) or 'none'}; label maps: {some(label_maps) or 'none'}. Leave one "
                "of each."
            )
    return [
        Subject(name, side, str(folder / files[name][0][0]), str(folder / files[name][1][0]), None)
        for side, of_side in (("train", split.train), ("test", split.test))
        for name in of_side
    ]


Layout = Callable[[Task, LabelSource, "Path | None"], list[Subject]]

LAYOUTS: dict[str, Layout] = {"miccai2012": _list_miccai2012}
"""How to find the subjects of a source that is a folder of files, by the source's name."""


def read_split(path: Path, default: Split) -> Split:
    """Reads a split from a CSV file with the columns `subject` and `split` (train or test).

    Args:
        path: the file.
        default: the task file's split, which knows the subjects that are one person.

    Raises:
        InputError: if the file has other columns or values, or a subject is on both sides.
    """
    sides: dict[str, list[str]] = {"train": [], "test": []}
    try:
        # Spreadsheets write a byte order mark.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = [column.strip() for column in reader.fieldnames or ()]
            if not {"subject", "split"} <= set(columns):
                raise InputError(
                    f"{path}: has the columns {', '.join(columns) or 'none'}. The first line must "
                    "name the columns subject,split."
                )
            reader.fieldnames = columns
            for row in reader:
                subject, side = ((row[name] or "").strip() for name in ("subject", "split"))
                if not subject or side not in sides or None in row:
                    raise InputError(
                        f"{path}: line {reader.line_num}: must be a subject, a comma, and train or "
                        "test."
                    )
                sides[side].append(subject)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV in UTF-8: {error}.") from error
    split = replace(default, train=tuple(sides["train"]), test=tuple(sides["test"]))
    split.check(path)
    return split


def _list_scan_files(manual_dir: Path | None, spec: str, expected: str) -> tuple[Path, list[str]]:
    """A folder and the names of the NIfTI files in it; refuses a folder without any."""
    if manual_dir is None:
        raise InputError(f"{spec}: needs scans. Give --manual-dir a folder of {expected}.")
    folder = Path(manual_dir)
    try:
        names = sorted(path.name for path in folder.iterdir() if path.name.endswith(_ENDINGS))
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be listed ({error.strerror}). Give --manual-dir a folder of "
            f"{expected}."
        ) from error
    if not names:
        raise InputError(f"{folder}: has no scans. Give --manual-dir a folder of {expected}.")
    return folder, names


def _files_of(subject: str, names: list[str]) -> tuple[list[str], list[str]]:
    """A subject's scans and its label maps among the files of a folder."""
    # Subject 100 has no part in the files of subject 1000.
    own = [n for n in names if n.startswith(subject) and not n[len(subject)].isdigit()]
    label_maps = [n for n in own if n.removesuffix(".gz").removesuffix(".nii").endswith("_glm")]
    return [n for n in own if n not in label_maps], label_maps
