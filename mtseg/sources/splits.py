"""Which subjects are for training and which for testing.

A `split.csv` in the folder decides; without it, the task file; without either, 20 % of the subjects
are held out, with all scans of one person on one side.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mtseg.errors import InputError
from mtseg.sources.layouts.candidates import MatchedFiles
from mtseg.tasks.task import LabelSource, Split

SPLIT_FILE = "split.csv"
"""In a folder of scans it replaces every other split."""


TEST_SHARE = 0.2
"""Share of the persons that are tested on where nothing says which (this project's choice)."""


def choose_split(labels: LabelSource, found: MatchedFiles, folder: Path) -> tuple[Split, Path]:
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
            f"subject {names[0]} is the only person: there is none to test on. Add a second one.",
            kind="split",
        )
    num_test = min(max(1, round(share * len(persons))), len(persons) - 1)
    tested = set(persons[:num_test])
    return replace(
        split,
        train=tuple(n for n in names if of_person[n] not in tested),
        test=tuple(n for n in names if of_person[n] in tested),
    )


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
            f"{path}: cannot be read as CSV in UTF-8: {error}.", kind="split"
        ) from error
    return replace(default, train=tuple(sides["train"]), test=tuple(sides["test"]))
