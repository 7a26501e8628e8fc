"""The split of a data set into training and test subjects.

The first of these that exists decides:

1. `split.csv` in the folder of the data set,
2. the split of the task file,
3. the layout, if it has test scans with label maps (nnU-Net's `labelsTs`),
4. otherwise, 20 % of the persons are held out for testing.

All scans of one person are on one side.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mtseg.errors import InputError
from mtseg.sources.layouts.dataset_files import DatasetFiles
from mtseg.tasks.task import LabelSource, Split

SPLIT_FILE = "split.csv"
"""Name of the file in the folder of a data set that replaces every other split."""

TEST_SHARE = 0.2
"""Share of the persons that is held out if nothing else says which (this project's choice)."""


def choose_split(labels: LabelSource, found: DatasetFiles, folder: Path) -> tuple[Split, Path]:
    """Chooses the split of a data set, in the order of this module's list.

    Args:
        labels: the source, with the split of the task file.
        found: the files of the data set.
        folder: the folder of the data set.

    Returns:
        The split, not checked yet, and the file or folder it is from, for messages.

    Raises:
        InputError: if `split.csv` cannot be read, or there is only one person.
    """
    names_of: dict[str, list[str]] = {}
    for files in found.subjects:
        names_of.setdefault(files.person or files.name, []).append(files.name)
    groups = tuple(tuple(names) for names in names_of.values() if len(names) > 1)
    split = replace(labels.split, same_person=(*labels.split.same_person, *groups))
    if (folder / SPLIT_FILE).exists():
        return read_split(folder / SPLIT_FILE, split), folder / SPLIT_FILE
    if not split.train and any(files.split == "test" for files in found.subjects):
        train, test = (
            tuple(files.name for files in found.subjects if files.split == side)
            for side in ("train", "test")
        )
        split = replace(split, train=train, test=test)
    elif not split.train:
        split = hold_out_test_subjects([files.name for files in found.subjects], split, folder)
    return split, folder


def hold_out_test_subjects(names: Sequence[str], split: Split, folder: Path) -> Split:
    """Holds out a share of the persons for testing, chosen by the checksums of their names.

    The choice depends neither on the order of the names nor on a seed, and changes little when
    subjects are added.

    Args:
        names: of all subjects.
        split: its `test_share`, and the subjects that are the same person.
        folder: the folder of the data set, for the message.

    Returns:
        The split with at least one person on each side.

    Raises:
        InputError: if there is only one person.
    """
    person_of = {name: name for name in names}
    for group in split.same_person:
        person_of.update(dict.fromkeys((n for n in group if n in person_of), min(group)))
    persons = sorted(
        set(person_of.values()), key=lambda name: hashlib.sha256(name.encode()).digest()
    )
    share = TEST_SHARE if split.test_share is None else split.test_share
    if len(persons) < 2:
        raise InputError(
            f"{folder}: has scans of one person only ({names[0]}), and testing needs another. Add "
            "scans of a second person.",
            kind="split",
        )
    num_test = min(max(1, round(share * len(persons))), len(persons) - 1)
    held_out = set(persons[:num_test])
    return replace(
        split,
        train=tuple(n for n in names if person_of[n] not in held_out),
        test=tuple(n for n in names if person_of[n] in held_out),
    )


def read_split(path: Path, default: Split) -> Split:
    """Reads a split from a CSV file with the columns `subject` and `split` (train or test).

    Args:
        path: the file.
        default: has the subjects that are the same person.

    Raises:
        InputError: if the file has other columns or values.
    """
    sides: dict[str, list[str]] = {"train": [], "test": []}
    try:
        # Spreadsheets write a byte order mark, which utf-8-sig leaves out.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = [column.strip() for column in reader.fieldnames or ()]
            if not {"subject", "split"} <= set(columns):
                raise InputError(
                    f"{path}: has the columns {', '.join(columns) or 'none'}. The first line must "
                    "name the columns subject,split.",
                    kind="split",
                )
            reader.fieldnames = columns
            for row in reader:
                subject, side = ((row[name] or "").strip() for name in ("subject", "split"))
                if not subject or side not in sides or None in row:
                    raise InputError(
                        f"{path}: line {reader.line_num}: must be a subject, a comma, and train or "
                        "test.",
                        kind="split",
                    )
                sides[side].append(subject)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path}: cannot be read ({error}). Save it as CSV in UTF-8.", kind="split"
        ) from error
    return replace(default, train=tuple(sides["train"]), test=tuple(sides["test"]))
