"""Sources: a task and a folder of scans come in, labelled subjects and their volumes leave.

`mtseg.layouts` finds files; here they become subjects of a split, and label names become values.
Phantoms need no folder: they are made.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mtseg.errors import InputError
from mtseg.layouts import LAYOUTS, Candidate, Found, find_subjects
from mtseg.phantoms import CLASS_LABELS, make_phantom
from mtseg.scan_files import read_label_map, read_scan
from mtseg.task import LabelSource, Split, Task, some
from mtseg.task_file import GENERATED, generated_split
from mtseg.volumes import Volume, check_same_grid

SPLIT_FILE = "split.csv"
"""In a folder of scans it replaces every other split."""

TEST_SHARE = 0.2
"""Share of the persons that are tested on where nothing says which (this project's choice)."""


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


@dataclass(frozen=True)
class Flaw:
    """Something that is wrong with a data set.

    Attributes:
        kind: one word, such as `missing`; `mtseg.checks` lists them.
        subject: whose; empty if it concerns the data set.
        message: one line that names the file, what is wrong, and what to do.
        is_error: whether it keeps the data from being prepared; else it is for a person to judge.
    """

    kind: str
    subject: str
    message: str
    is_error: bool = True


@dataclass(frozen=True)
class Survey:
    """A source whose files have been found and not yet read.

    Attributes:
        labels: the source, with every label as a value.
        subjects: the complete ones: the training subjects, then the test subjects, each in the
            order of the split.
        flaws: why others are not among them.
    """

    labels: LabelSource
    subjects: tuple[Subject, ...]
    flaws: tuple[Flaw, ...] = ()

    def require_sound(self) -> Survey:
        """Refuses a source that lacks something.

        Raises:
            InputError: with the first error.
        """
        for flaw in self.flaws:
            if flaw.is_error:
                raise InputError(flaw.message)
        return self


def survey(
    task: Task,
    source: str,
    manual_dir: Path | None,
    num_train: int | None = None,
    num_test: int | None = None,
) -> Survey:
    """Finds the subjects of a task's source, without reading a scan.

    Args:
        task: the task.
        source: name of one of its sources, or of a layout that any task may have.
        manual_dir: the folder of scans; phantoms need none.
        num_train: number of training phantoms; None is the task file's.
        num_test: number of test phantoms; None is the task file's.

    Raises:
        InputError: if the source is unknown, its folder does not lie as its layout says, its split
            cannot be read, a label's name is unknown, or a number is given for scans.
    """
    labels = task.source(source)
    where = f"{task.name}:{source}"
    if source == GENERATED:
        return Survey(labels, tuple(_list_phantoms(task, labels, num_train, num_test)))
    if labels.layout not in LAYOUTS:
        raise InputError(
            f"{task.path}: sources.{source}: no layout has this name. Name the source after how "
            f"its files lie, or say layout = ...: {', '.join(LAYOUTS)}."
        )
    if num_train is not None or num_test is not None:
        raise InputError(
            f"{where}: --num-train and --num-test are for phantoms. Choose subjects in "
            f"{SPLIT_FILE} in the folder of scans."
        )
    if manual_dir is None:
        _, expected = LAYOUTS[labels.layout]
        raise InputError(f"{where}: needs scans. Give --manual-dir a folder of {expected}.")
    folder = Path(manual_dir)
    found = find_subjects(labels.layout, folder, where)
    labels = _resolve_labels(task, labels, found, folder)
    split, split_of = _choose_split(labels, found, folder)
    subjects, flaws = _complete_subjects(found, split, folder)
    try:
        split.check(split_of)
    except InputError as error:
        flaws.insert(0, Flaw("split", "", str(error)))
    return Survey(labels, tuple(subjects), tuple(flaws))


def list_subjects(
    task: Task,
    source: str,
    manual_dir: Path | None,
    num_train: int | None = None,
    num_test: int | None = None,
) -> list[Subject]:
    """The subjects of `survey`, all of them complete.

    Raises:
        InputError: as for `survey`, and if a subject has not exactly one scan and one label map.
    """
    return list(survey(task, source, manual_dir, num_train, num_test).require_sound().subjects)


def read_subject(
    task: Task, source: str, subject: Subject, size: int | None = None
) -> tuple[Volume, Volume]:
    """Reads, or makes, a subject's scan and label map.

    Args:
        task: the task.
        source: name of the source that the subject is of.
        subject: from `survey`.
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


def _resolve_labels(task: Task, labels: LabelSource, found: Found, folder: Path) -> LabelSource:
    """Turns names of labels into the values that the data set gives them."""
    known = found.label_names
    if labels.values is None:
        if known:
            values = tuple((name, (name,)) for name in task.class_names[1:])
            ignored = ("ignore",) if "ignore" in known else ()
            labels = replace(labels, values=values, background=("background",), ignore=ignored)
        else:
            numbers = tuple((name, (n,)) for n, name in enumerate(task.class_names[1:], start=1))
            labels = replace(labels, values=numbers, background=(0,))

    def resolve(given: Sequence[int | str]) -> tuple[int, ...]:
        resolved: list[int] = []
        for label in given:
            if isinstance(label, int):
                resolved.append(label)
            elif label in known:
                resolved += known[label]
            elif label == "background":
                resolved.append(0)
            else:
                raise InputError(
                    f"{folder}: its data set names no label {label!r} for {task.name}. It names "
                    f"{some(known) or 'none'}. Say under sources.{labels.name}.labels in "
                    f"{task.path} which labels are which class."
                )
        return tuple(resolved)

    return replace(
        labels,
        values=tuple((name, resolve(given)) for name, given in labels.values or ()),
        background=resolve(labels.background),
        ignore=resolve(labels.ignore),
    )


def _choose_split(labels: LabelSource, found: Found, folder: Path) -> tuple[Split, Path]:
    """The folder's own split, else the task file's, else the layout's, else a share of persons.

    Returns:
        The split, not yet checked, and whose it is.
    """
    persons: dict[str, list[str]] = {}
    for candidate in found.candidates:
        persons.setdefault(candidate.person or candidate.name, []).append(candidate.name)
    groups = tuple(tuple(names) for names in persons.values() if len(names) > 1)
    split = replace(labels.split, same_person=(*labels.split.same_person, *groups))
    if (folder / SPLIT_FILE).exists():
        return read_split(folder / SPLIT_FILE, split), folder / SPLIT_FILE
    if not split.train and any(c.side == "test" for c in found.candidates):
        train, test = (
            tuple(c.name for c in found.candidates if c.side == side) for side in ("train", "test")
        )
        split = replace(split, train=train, test=test)
    elif not split.train:
        split = share_out([c.name for c in found.candidates], split)
    return split, folder


def share_out(names: Sequence[str], split: Split) -> Split:
    """Puts a share of the subjects on the test side, by their names alone.

    Which they are does not depend on the order or on chance: a person is as likely to stay where
    it is when others come as it can be.

    Args:
        names: of all subjects.
        split: its `test_share` and who is one person.

    Raises:
        InputError: if there is only one person.
    """
    of_person = {name: name for name in names}
    for group in split.same_person:
        of_person.update(dict.fromkeys((n for n in group if n in of_person), min(group)))
    persons = sorted(
        set(of_person.values()), key=lambda name: hashlib.sha256(name.encode()).digest()
    )
    share = TEST_SHARE if split.test_share is None else split.test_share
    if len(persons) < 2:
        raise InputError(
            f"subject {names[0]} is the only person: there is none to test on. Add a second one."
        )
    num_test = min(max(1, round(share * len(persons))), len(persons) - 1)
    tested = set(persons[:num_test])
    return replace(
        split,
        train=tuple(n for n in names if of_person[n] not in tested),
        test=tuple(n for n in names if of_person[n] in tested),
    )


def _complete_subjects(
    found: Found, split: Split, folder: Path
) -> tuple[list[Subject], list[Flaw]]:
    """The subjects of a split that have all files, and what is wrong with the others."""
    by_name: dict[str, Candidate] = {c.name: c for c in found.candidates}
    flaws = []
    names = (*split.train, *split.test)
    if missing := [name for name in names if name not in by_name]:
        flaws.append(
            Flaw(
                "missing",
                "",
                f"{folder}: {len(missing)} of {len(names)} subjects of the split have no file "
                f"here: {some(missing)}. Add their files, or list the subjects that are here in "
                f"{SPLIT_FILE} (columns subject,split).",
            )
        )
    subjects: list[Subject] = []
    for side, of_side in (("train", split.train), ("test", split.test)):
        for name in of_side:
            if name not in by_name or any(s.name == name for s in subjects):
                continue
            images, label_maps = by_name[name].images, by_name[name].label_maps
            if len(images) == len(label_maps) == 1:
                subjects.append(Subject(name, side, str(images[0]), str(label_maps[0]), None))
                continue
            there = [
                some(str(p.relative_to(folder)) for p in paths) or "none"
                for paths in (images, label_maps)
            ]
            flaws.append(
                Flaw(
                    "missing" if len(images) == 0 or len(label_maps) == 0 else "extra",
                    name,
                    f"{folder}: subject {name} must have one scan and one label map. Scans: "
                    f"{there[0]}; label maps: {there[1]}. Leave one of each.",
                )
            )
    unused = [path for c in found.candidates if c.name not in names for path in c.images]
    if unused := [*unused, *found.unused]:
        files = some(str(path.relative_to(folder)) for path in unused)
        flaws.append(
            Flaw(
                "extra",
                "",
                f"{folder}: {len(unused)} scans are of no subject of the split: {files}. They "
                "will not be used.",
                is_error=False,
            )
        )
    return subjects, flaws


def read_split(path: Path, default: Split) -> Split:
    """Reads a split from a CSV file with the columns `subject` and `split` (train or test).

    Args:
        path: the file.
        default: knows the subjects that are one person.

    Raises:
        InputError: if the file has other columns or values.
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
    return replace(default, train=tuple(sides["train"]), test=tuple(sides["test"]))
