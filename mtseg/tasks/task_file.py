"""Reading task files (TOML).

A task is a file, so a new task needs no code; `mtseg/tasks/files/brain.toml` explains every key.
The whole file is checked when it is read, before any scan is opened.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mtseg.errors import InputError
from mtseg.tasks.task import TASK_FILES, LabelSource, Split, Task, TissueClass, hint

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


GENERATED = "phantom"
"""The source whose subjects are made and not read; its split is two numbers."""


FIRST_TEST_SEED = 1000
"""Training phantoms have the seeds from 0, test phantoms those from here: none is in both."""


LARGEST_LABEL = 65_535


_NAME = re.compile(r"[a-z][a-z0-9_]*")


_RANGE = re.compile(r"(\d+)\s*-\s*(\d+)")


_Kind = tuple[tuple[Any, ...], str]


# What a value must be: its types, or the texts to choose from, and how to say it.
_TEXT, _LIST, _TABLE = ((str,), "a text"), ((list,), "a list"), ((dict,), "a table")


_NUMBER, _COUNT = ((int, float), "a number"), ((int,), "a number of subjects")


_SHARE = ((float,), "a share between 0 and 1")


_TRUTH = ((bool,), "true or false")


def generated_split(num_train: int, num_test: int, where: str) -> Split:
    """Names that many phantoms after their seeds: `phantom000`, ... and `phantom1000`, ...

    Raises:
        InputError: if there would be none, or more than `FIRST_TEST_SEED` to train on.
    """
    if num_train < 1 or num_test < 1 or num_train > FIRST_TEST_SEED:
        raise InputError(
            f"{where}: {num_train} training and {num_test} test phantoms cannot be made. Ask for 1 "
            f"to {FIRST_TEST_SEED} to train on and at least 1 to test on."
        )
    train, test = range(num_train), range(FIRST_TEST_SEED, FIRST_TEST_SEED + num_test)
    train_names, test_names = (tuple(f"{GENERATED}{n:03d}" for n in side) for side in (train, test))
    return Split(train_names, test_names)


def shipped_tasks() -> tuple[str, ...]:
    """Names of the tasks that come with the package."""
    files = (file.name for file in TASK_FILES.iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml")))


def shipped_path(name: str) -> str:
    """Where the file of a task that comes with the package is."""
    return str(TASK_FILES / f"{name}.toml")


def read_task(path: str | Path) -> Task:
    """Reads a task file and checks all of it.

    Raises:
        InputError: if it cannot be read, or a key is unknown, is missing or has a value that
            cannot be used; the message names the file and the key.
    """
    try:
        file = tomllib.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Give a task file.") from error
    except ValueError as error:  # not UTF-8, or not TOML
        raise InputError(f"{path}: is not a TOML file: {error}. Correct it there.") from error
    where = f"{path}: "
    texts = dict.fromkeys(("name", "title", "modality", "citation"), _TEXT)
    tables = dict.fromkeys(("spacing", "decision"), _TABLE)
    may = {"is_symmetric": _TRUTH, "sources": _TABLE}
    _check(file, where, texts | tables | {"classes": _LIST}, may)
    is_fixed = file["spacing"].get("rule") != "in_plane"
    mm = {"mm": _NUMBER} if is_fixed else {}
    _check(file["spacing"], f"{where}spacing.", {"rule": _one_of("fixed", "in_plane"), **mm})
    if is_fixed and not 0 < file["spacing"]["mm"] < float("inf"):
        raise InputError(f"{where}spacing.mm: must be a size above 0.")
    _check(file["decision"], f"{where}decision.", {"rule": _one_of("argmax", "operating_point")})
    for number, table in enumerate(file["classes"], start=1):
        _check(table, f"{where}classes, number {number}: ", {"name": _TEXT, "title": _TEXT})
    classes = tuple(TissueClass(table["name"], table["title"]) for table in file["classes"])
    names = [tissue.name for tissue in classes]
    _check_names(f"{where}name", [file["name"]])
    _check_names(f"{where}classes", names)
    sources = file.get("sources", {})
    _check_names(f"{where}sources", sources, is_optional=True)
    return Task(
        name=file["name"],
        title=file["title"],
        modality=file["modality"],
        classes=classes,
        spacing_rule=file["spacing"]["rule"],
        spacing_mm=float(file["spacing"]["mm"]) if is_fixed else None,
        decision=file["decision"]["rule"],
        citation=file["citation"].strip(),
        sources=tuple(
            _read_source(name, table, names, f"{where}sources.{name}.")
            for name, table in sources.items()
        ),
        path=str(path),
        is_symmetric=file.get("is_symmetric", False),
    )


def _read_source(name: str, source: Any, class_names: list[str], where: str) -> LabelSource:
    is_generated = name == GENERATED
    kinds = {"labels": _TABLE, "split": _TABLE} if is_generated else {}
    may = {"labels": _TABLE, "split": _TABLE, "layout": _TEXT, "not_annotated": _LIST}
    _check(source, where, kinds, may)
    if is_generated:
        _check(source["split"], f"{where}split.", {"train": _COUNT, "test": _COUNT})
        counts = source["split"]["train"], source["split"]["test"]
        split = generated_split(*counts, f"{where}split")
    else:
        split = _read_split(source.get("split", {}), f"{where}split")
    layout = source.get("layout", name)
    if "labels" not in source:
        return LabelSource(name, layout, None, (), split)
    absent = source.get("not_annotated", [])
    for missing in absent:
        if missing not in class_names:
            raise InputError(
                f"{where}not_annotated: {missing!r} is not a class of this task"
                f"{hint(str(missing), class_names)}. Its classes: {', '.join(class_names)}."
            )
    annotated = [key for key in class_names if key not in absent]
    table = source["labels"]
    must = dict.fromkeys(["background", *annotated], _LIST)
    _check(table, f"{where}labels.", must, {"ignore": _LIST})
    if not annotated:
        raise InputError(f"{where}not_annotated: names all classes. Leave the source out.")
    owners: dict[int | str, str] = {}
    labels = {key: _expand(values, f"{where}labels.{key}") for key, values in table.items()}
    for key, values in labels.items():
        for value in values:
            if value in owners:
                raise InputError(
                    f"{where}labels.{key}: {value} is listed twice, also for {owners[value]}. "
                    "List it once."
                )
            owners[value] = key
    of_classes = tuple((key, labels[key]) for key in annotated)
    return LabelSource(
        name, layout, of_classes, labels["background"], split, labels.get("ignore", ())
    )


def _read_split(split: Any, where: str) -> Split:
    """A split of named subjects, or a share of them; empty where the folder of scans decides."""
    is_listed = "train" in split or "test" in split
    must = {"train": _LIST, "test": _LIST} if is_listed else {}
    may = {"same_person": _LIST} | ({} if is_listed else {"test_share": _SHARE})
    _check(split, f"{where}.", must, may)
    groups = split.get("same_person", [])
    for side in (split.get("train", []), split.get("test", []), *groups):
        if type(side) is not list or not all(type(n) is str and n for n in side):
            raise InputError(f"{where}: subjects must be a list of names in quotes.")
    train, test, *people = (
        tuple(side) for side in (split.get("train", []), split.get("test", []), *groups)
    )
    share = split.get("test_share")
    if share is not None and not 0 < share < 1:
        raise InputError(f"{where}.test_share: must be a share between 0 and 1, not {share}.")
    subjects = Split(train, test, tuple(people), share)
    if is_listed:
        subjects.check(where)
    return subjects


def _expand(values: list[Any], where: str) -> tuple[int | str, ...]:
    """Labels from numbers, ranges such as "100-207", and names that a data set gives to values."""
    labels: list[int | str] = []
    for value in values:
        ends = _RANGE.fullmatch(value) if type(value) is str else None
        if type(value) is str and value.strip() and ends is None:
            labels.append(value)
            continue
        low, high = (int(end) for end in ends.groups()) if ends else (value, value)
        if type(low) is not int or not 0 <= low <= high <= LARGEST_LABEL:
            raise InputError(
                f"{where}: {value!r} is not a label. Write numbers from 0 to {LARGEST_LABEL}, "
                'ranges such as "100-207", or names that the data set gives them.'
            )
        labels += range(low, high + 1)
    if not labels:
        raise InputError(f"{where}: has no label. List at least one.")
    return tuple(labels)


def _one_of(*texts: str) -> tuple[tuple[str, ...], str]:
    return texts, "one of " + ", ".join(f'"{text}"' for text in texts)


def _check(
    table: Any, where: str, kinds: dict[str, _Kind], may: dict[str, _Kind] | None = None
) -> None:
    """Refuses a table whose keys are not these, or whose values are not of their kind.

    Args:
        table: what was read.
        where: its place in the file, for messages.
        kinds: of the keys that it must have.
        may: of those that it may have.
    """
    if type(table) is not dict:
        raise InputError(f"{where.rstrip('.: ')}: must be a table of {', '.join(kinds)}.")
    known = kinds | (may or {})
    for key in table:
        if key not in known:
            raise InputError(
                f"{where}{key}: unknown key{hint(key, known)}. Valid here: {', '.join(known)}."
            )
    for key, (choices, description) in known.items():
        if key not in table:
            if key not in kinds:
                continue
            raise InputError(f"{where}{key}: is missing. It must be {description}.")
        # By exact type: in Python, true is a number too.
        if type(table[key]) not in choices and table[key] not in choices:
            raise InputError(f"{where}{key}: must be {description}, not {table[key]!r:.60}.")


def _check_names(where: str, names: Iterable[str], is_optional: bool = False) -> None:
    seen = {"background", "ignore"}
    for name in names:
        if not _NAME.fullmatch(name) or name in seen:
            raise InputError(
                f"{where}: {name!r} cannot be a name here. Names are lower-case letters, digits "
                "and _, begin with a letter, differ, and are neither background nor ignore."
            )
        seen.add(name)
    if len(seen) == 2 and not is_optional:
        raise InputError(f"{where}: there are none. Describe at least one.")
