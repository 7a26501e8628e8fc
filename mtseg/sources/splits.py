"""The split of a data set into training, validation and test subjects.

The first of these that exists decides which subjects are for testing:

1. `split.csv` in the folder of the data set,
2. the split of the task file,
3. the layout, if it has test scans with label maps (nnU-Net's `labelsTs`),
4. otherwise, 20 % of the persons are held out for testing.

The first two may list validation subjects too. Otherwise a `ValidationRule` may set some of the
training subjects aside: a share of the persons, or one fold of a cross-validation. nnU-Net's
`splits_final.json` in the folder decides who is in a fold; then only named test subjects are for
testing. All scans of one person are on one side.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mtseg.errors import InputError
from mtseg.sources.layouts.catalog import LAYOUTS
from mtseg.sources.layouts.dataset_files import DatasetFiles
from mtseg.system.atomic_files import parse_json
from mtseg.tasks.task import LabelSource, Split, first_ten, join_groups

SPLIT_FILE = "split.csv"
"""Name of the file in the folder of a data set that replaces every other split."""

FOLDS_FILE = "splits_final.json"
"""Name of nnU-Net's file of folds: a list of objects with the lists `train` and `val`."""

TEST_SHARE = 0.2
"""Share of the persons that is held out if nothing else says which (this project's choice)."""

_SIDES = {"train": "train", "test": "test", "val": "validation", "validation": "validation"}
"""What `split.csv` may say -> the split."""


@dataclass(frozen=True)
class ValidationRule:
    """How validation subjects are chosen among the training subjects. By default, none are.

    Attributes:
        share: share of the training persons to set aside, at least one person if it is above 0.
        fold: `K/N`: set aside the part K of N, from 1; empty for none.
        seed: another seed chooses other persons.

    Raises:
        InputError: if the share or the fold cannot be used, or both are given.
    """

    share: float = 0.0
    fold: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise InputError(
                f"--validation-share: must be at least 0 and below 1, not {self.share:g}."
            )
        if self.fold:
            if self.share:
                raise InputError(
                    "--fold: sets validation subjects aside. Leave out one of the two."
                )
            _ = self.part  # refuses another form

    @property
    def part(self) -> tuple[int, int]:
        """The fold as numbers `(K, N)`."""
        found = re.fullmatch(r"(\d+)/(\d+)", self.fold)
        number, count = (int(text) for text in found.groups()) if found else (0, 0)
        if not (1 <= number <= count and count >= 2):
            raise InputError(
                f"--fold: {self.fold!r} is not a fold. Write K/N, such as 1/5 for the first of 5."
            )
        return number, count


@dataclass(frozen=True)
class ChosenSplit:
    """A split and where it is from.

    Attributes:
        split: the split, not checked yet.
        path: the file or folder that it is from, for messages.
        origin: how it came about, in words.
    """

    split: Split
    path: Path
    origin: str


def choose_split(
    labels: LabelSource, found: DatasetFiles, folder: Path, rule: ValidationRule | None = None
) -> ChosenSplit:
    """Chooses the split of a data set, in the order of this module's list.

    Args:
        labels: the source, with the split of the task file.
        found: the files of the data set.
        folder: the folder of the data set.
        rule: how to choose validation subjects; None chooses none.

    Raises:
        InputError: if `split.csv` or `splits_final.json` cannot be read, there are too few persons,
            or validation subjects are listed and asked for.
    """
    rule = rule or ValidationRule()
    used = [files for files in found.subjects if files.name not in labels.split.leave_out]
    groups = group_by_name([files.name for files in found.subjects], labels)
    split = replace(labels.split, same_person=(*labels.split.same_person, *groups))
    path, origin = folder, "the task file"
    folds = folder / FOLDS_FILE
    if (folder / SPLIT_FILE).exists():
        path, origin = folder / SPLIT_FILE, SPLIT_FILE
        split = read_split(path, split)
    elif (
        not split.train
        and (split.test_share is None or (rule.fold and folds.exists()))
        and any(files.split == "test" for files in used)
    ):
        train, test = (
            tuple(files.name for files in used if files.split == side) for side in ("train", "test")
        )
        split, origin = replace(split, train=train, test=test), f"the layout {labels.layout}"
    elif not split.train and not (rule.fold and folds.exists()):
        split = hold_out_test_subjects([files.name for files in used], split, folder)
        share = TEST_SHARE if split.test_share is None else split.test_share
        origin = f"{share:.0%} of the persons held out" if share else "the task file"
    if rule.fold and folds.exists() and not split.validation:
        return ChosenSplit(read_fold(folds, rule, split), folds, f"{FOLDS_FILE}, fold {rule.fold}")
    origin += describe_rule(rule)
    if folds.exists() and not rule.fold:
        origin += f"; {FOLDS_FILE} is not used without --fold of mtseg-prepare"
    return ChosenSplit(set_validation_aside(split, rule, path), path, origin)


def hold_out_test_subjects(names: Sequence[str], split: Split, folder: Path) -> Split:
    """Holds out a share of the persons for testing, chosen by the checksums of their names.

    The choice depends neither on the order of the names nor on a seed, and changes little when
    subjects are added.

    Args:
        names: of all subjects.
        split: its `test_share`, and the subjects that are the same person.
        folder: the folder of the data set, for the message.

    Returns:
        The split with at least one person on each side; without test subjects if the share is 0.

    Raises:
        InputError: if there is only one person.
    """
    person_of = group_persons(names, split.same_person)
    persons = sorted(
        set(person_of.values()), key=lambda name: hashlib.sha256(name.encode()).digest()
    )
    share = TEST_SHARE if split.test_share is None else split.test_share
    if share and len(persons) < 2:
        raise InputError(
            f"{folder}: has scans of one person only ({first_ten(names)}), and testing needs "
            "another. Add scans of a second person.",
            kind="split",
        )
    num_test = min(max(1, round(share * len(persons))), len(persons) - 1) if share else 0
    held_out = set(persons[:num_test])
    return replace(
        split,
        train=tuple(n for n in names if person_of[n] not in held_out),
        test=tuple(n for n in names if person_of[n] in held_out),
    )


def person_in(name: str, labels: LabelSource) -> str:
    """The person whom a subject's name says, by the layout of its source or the task file.

    Example:
        >>> person_in("sub-01_ses-2", LabelSource("scans", "bids", None, (), Split()))
        'sub-01'
    """
    of_layout = LAYOUTS.get(labels.layout)
    before = of_layout.person_before if of_layout and not labels.images else ""
    before = before or labels.split.person_before
    return (name.split(before)[0] or name) if before else name


def group_by_name(names: Sequence[str], labels: LabelSource) -> tuple[tuple[str, ...], ...]:
    """The subjects that are one person by their names; see `person_in`.

    FreeSurfer's longitudinal stream makes three kinds of folders of a person: a time point TP, a
    base of all of them, and TP.long.BASE.
    """
    names_of: dict[str, list[str]] = {}
    for name in names:
        names_of.setdefault(person_in(name, labels), []).append(name)
    if labels.layout == "freesurfer":
        for name in names:
            time_point, is_long, base = name.partition(".long.")
            if is_long:
                there = [other for other in (time_point, base) if other in names]
                names_of.setdefault(f"base {base}", []).extend([name, *there])
    return tuple(tuple(of_person) for of_person in names_of.values() if len(of_person) > 1)


def group_persons(names: Sequence[str], same_person: Sequence[Sequence[str]]) -> dict[str, str]:
    """The person of each subject: the first name of its group, or its own name.

    Groups that share a subject are one person.
    """
    person_of = {name: name for name in names}
    for group in join_groups(same_person):
        person_of.update(dict.fromkeys((n for n in group if n in person_of), min(group)))
    return person_of


def set_validation_aside(split: Split, rule: ValidationRule, path: str | Path) -> Split:
    """Makes some of the training subjects validation subjects.

    Which persons depends on their names and the seed alone.

    Args:
        split: the split.
        rule: how many to set aside.
        path: the file or folder that the split is from, for messages.

    Raises:
        InputError: if there are too few persons, or the split has validation subjects already.
    """
    if not rule.share and not rule.fold:
        return split
    if split.validation:
        raise InputError(
            f"{path}: lists validation subjects already. Leave out "
            f"{'--fold' if rule.fold else '--validation-share'}, or take them out of the list.",
            kind="split",
        )
    person_of = group_persons(split.train, split.same_person)
    persons = sorted(
        set(person_of.values()),
        key=lambda name: hashlib.sha256(f"{rule.seed}:{name}".encode()).digest(),
    )
    number, count = rule.part if rule.fold else (1, 2)
    if len(persons) < count:
        raise InputError(
            f"{path}: has training scans of {len(persons)} persons, too few to set some aside for "
            f"validation in {count} parts. Add scans of other persons.",
            kind="split",
        )
    if rule.fold:
        aside = set(persons[number - 1 :: count])
    else:
        aside = set(persons[: min(max(1, round(rule.share * len(persons))), len(persons) - 1)])
    return replace(
        split,
        train=tuple(n for n in split.train if person_of[n] not in aside),
        validation=tuple(n for n in split.train if person_of[n] in aside),
    )


def describe_rule(rule: ValidationRule) -> str:
    """What the rule adds to the origin of a split, such as `, fold 1/5`."""
    if rule.fold:
        return f", fold {rule.fold}, seed {rule.seed}"
    return f", validation share {rule.share:g}, seed {rule.seed}" if rule.share else ""


def read_split(path: Path, default: Split) -> Split:
    """Reads a split from a CSV file with the columns `subject` and `split`.

    Args:
        path: the file. Its column `split` has train, validation (or val) and test.
        default: has the subjects that are the same person.

    Raises:
        InputError: if the file has other columns or values.
    """
    sides: dict[str, list[str]] = {side: [] for side in _SIDES.values()}
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
                if not subject or side not in _SIDES or None in row:
                    raise InputError(
                        f"{path}: line {reader.line_num}: must be a subject, a comma, and train, "
                        "validation or test.",
                        kind="split",
                    )
                sides[_SIDES[side]].append(subject)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path}: cannot be read ({error}). Save it as CSV in UTF-8.", kind="split"
        ) from error
    train, validation, test = (tuple(sides[side]) for side in ("train", "validation", "test"))
    return replace(default, train=train, validation=validation, test=test)


def read_fold(path: Path, rule: ValidationRule, default: Split) -> Split:
    """Reads the training and validation subjects of a fold from nnU-Net's `splits_final.json`.

    Args:
        path: the file. nnU-Net counts folds from 0: its fold 0 is `1/N`.
        rule: the fold, of as many as the file has.
        default: has the test subjects, the subjects that are the same person, and those to leave
            out.

    Raises:
        InputError: if the file is of another form, or has another number of folds.
    """
    try:
        stored = parse_json(path.read_text(encoding="utf-8-sig"))
        folds = [(list(fold["train"]), list(fold["val"])) for fold in stored]
        if not all(type(name) is str for fold in folds for side in fold for name in side):
            raise TypeError("a subject is not a text")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path}: is not a list of folds with train and val as nnU-Net writes it ({error}). "
            "Correct or remove it.",
            kind="split",
        ) from error
    number, count = rule.part
    if count != len(folds):
        raise InputError(
            f"{path}: has {len(folds)} folds, and --fold {rule.fold} asks for one of {count}. "
            f"Give mtseg-prepare --fold K/{len(folds)}, or remove the file.",
            kind="split",
        )
    train, validation = (
        tuple(name for name in side if name not in default.leave_out) for side in folds[number - 1]
    )
    return replace(default, train=train, validation=validation)
