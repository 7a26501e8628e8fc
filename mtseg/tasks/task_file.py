"""Reading task files (TOML).

A task is a file, so a new task needs no code; `mtseg/tasks/files/brain.toml` explains every key.
Read this module to change what a task file may say. The whole file is checked when it is read,
before any scan is opened, and every message names the file and the key.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mtseg.errors import InputError
from mtseg.tasks.file_choice import read_file_choice
from mtseg.tasks.task import (
    TASK_FILES,
    Code,
    LabelSource,
    Split,
    Task,
    TissueClass,
    did_you_mean,
)

GENERATED = "phantom"
"""The source whose subjects are generated, not read; its split is two numbers."""

FIRST_TEST_SEED = 1000
"""Seeds of training phantoms begin at 0, those of test phantoms here: no subject is in both."""

LARGEST_LABEL = 65_535

LOWEST_LABEL = -32_768
"""Only background and ignored voxels have labels below 0: some programs write -1 there."""

_SIDES = ("train", "validation", "test")

MODALITIES = ("MR", "CT", "PET", "SPECT", "US", "XA", "OCT")
"""Known modalities. Another one is allowed, and said."""

NAME = re.compile(r"[a-z][a-z0-9_]*")
_RANGE = re.compile(r"(\d+)\s*-\s*(\d+)")
COLOR = re.compile(r"#[0-9A-Fa-f]{6}")

_CODE_LENGTHS = {"scheme": 16, "value": 16, "meaning": 64}
"""The keys of a code and the number of characters that DICOM allows (types SH and LO)."""

_Choices = tuple[tuple[Any, ...], str]
"""What a value may be, as types or as texts to choose from, and how a message describes it."""

_TEXT: _Choices = ((str,), "a text")
_LIST: _Choices = ((list,), "a list")
_TABLE: _Choices = ((dict,), "a table")
_NUMBER: _Choices = ((int, float), "a number")
_COUNT: _Choices = ((int,), "a number of subjects")
_LABEL: _Choices = ((int,), "a whole number from 1 to 255")
_SHARE: _Choices = ((int, float), "a share, at least 0 and below 1")
_BOOLEAN: _Choices = ((bool,), "true or false")


def generated_split(num_train: int, num_test: int, where: str) -> Split:
    """The split of a generated source; subjects are named after their seeds.

    Args:
        num_train: number of training subjects.
        num_test: number of test subjects; 0 for none.
        where: the place in a file or the flag that gives the numbers, for the message.

    Raises:
        InputError: if there are no training subjects, or more than `FIRST_TEST_SEED`.

    Example:
        >>> split = generated_split(2, 1, "example")
        >>> split.train, split.test
        (('phantom000', 'phantom001'), ('phantom1000',))
    """
    if not 1 <= num_train <= FIRST_TEST_SEED or num_test < 0:
        raise InputError(
            f"{where}: {num_train} training and {num_test} test phantoms cannot be generated. Give "
            f"1 to {FIRST_TEST_SEED} training phantoms and at least 0 test phantoms."
        )
    train, test = range(num_train), range(FIRST_TEST_SEED, FIRST_TEST_SEED + num_test)
    train_names, test_names = (tuple(f"{GENERATED}{n:03d}" for n in side) for side in (train, test))
    return Split(train_names, test_names)


def shipped_tasks() -> tuple[str, ...]:
    """Names of the tasks that come with the package."""
    files = (file.name for file in TASK_FILES.iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml")))


def shipped_path(name: str) -> str:
    """Path of the file of a task that comes with the package."""
    return str(TASK_FILES / f"{name}.toml")


def read_task(path: str | Path) -> Task:
    """Reads a task file and checks all of it.

    Args:
        path: the TOML file; `~` is the home folder.

    Raises:
        InputError: if it cannot be read, or a key is unknown, is missing or has a value that
            cannot be used; the message names the file and the key.
    """
    try:
        # Windows writes a byte order mark, which utf-8-sig leaves out.
        file = tomllib.loads(Path(path).expanduser().read_text(encoding="utf-8-sig"))
    except RecursionError as error:
        raise InputError(f"{path}: is nested too deeply. Give a task file.") from error
    except (OSError, RuntimeError) as error:  # RuntimeError: the home folder of ~NAME is not known
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({reason}). Give a task file.") from error
    except ValueError as error:  # not UTF-8, or not TOML
        raise InputError(f"{path}: is not a TOML file: {error}. Correct it there.") from error
    where = f"{path}: "
    texts = dict.fromkeys(("name", "title", "modality", "citation"), _TEXT)
    tables = dict.fromkeys(("spacing", "decision"), _TABLE)
    optional = {"is_symmetric": _BOOLEAN, "sources": _TABLE}
    _check_table(file, where, texts | tables | {"classes": _LIST}, optional)
    is_fixed = file["spacing"].get("rule") != "in_plane"
    mm = {"mm": _NUMBER} if is_fixed else {}
    _check_table(file["spacing"], f"{where}spacing.", {"rule": _one_of("fixed", "in_plane"), **mm})
    if is_fixed and not 0 < file["spacing"]["mm"] < float("inf"):
        raise InputError(f"{where}spacing.mm: must be a size above 0.")
    _check_table(
        file["decision"], f"{where}decision.", {"rule": _one_of("argmax", "operating_point")}
    )
    classes = tuple(
        _read_class(table, f"{where}classes, number {number}: ")
        for number, table in enumerate(file["classes"], start=1)
    )
    names = [tissue.name for tissue in classes]
    _check_names(f"{where}name", [file["name"]])
    _check_names(f"{where}classes", names)
    _refuse_shared_labels(classes, f"{where}classes")
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


def _read_class(table: Any, where: str) -> TissueClass:
    optional = {"label": _LABEL, "color": _TEXT, "code": _TABLE}
    optional |= dict.fromkeys(("largest_component", "fill_holes"), _BOOLEAN)
    _check_table(table, where, {"name": _TEXT, "title": _TEXT}, optional)
    label, color = table.get("label"), table.get("color")
    given = dict(table)
    if label is not None and not 1 <= label <= 255:
        raise InputError(f"{where}label: must be a whole number from 1 to 255, not {label}.")
    if color is not None and not COLOR.fullmatch(color):
        raise InputError(f"{where}color: {color!r:.60} is not a colour. Write it as #RRGGBB.")
    if "code" in table:
        _check_table(table["code"], f"{where}code.", dict.fromkeys(_CODE_LENGTHS, _TEXT))
        for key, most in _CODE_LENGTHS.items():
            if not 0 < len(table["code"][key].strip()) <= most:
                raise InputError(f"{where}code.{key}: must have 1 to {most} characters.")
        given["code"] = Code(**table["code"])
    return TissueClass(**given)


def _refuse_shared_labels(classes: Sequence[TissueClass], where: str) -> None:
    """Refuses two classes with the same label or the same code."""
    seen: dict[Any, str] = {}
    for tissue in classes:
        code = tissue.code and (tissue.code.scheme, tissue.code.value)
        for key, value in (("label", tissue.label), ("code", code)):
            if value is not None and (key, value) in seen:
                shown = value if key == "label" else " ".join(code or ())
                raise InputError(
                    f"{where}: {seen[key, value]} and {tissue.name} have the same {key}, {shown}. "
                    "Give each class its own."
                )
            seen[key, value] = tissue.name


def describe_doubts(task: Task) -> list[str]:
    """What a task file says that is allowed but probably not meant, one line each."""
    doubts = []
    if task.own_file and task.name in shipped_tasks():
        doubts.append(
            f"{task.path}: the task is called {task.name}, like one that comes with mtseg. Records "
            "of both would be in one folder: better give it a name of its own."
        )
    if task.own_file and task.is_ct is None and task.modality not in MODALITIES:
        doubts.append(
            f"{task.path}: modality {task.modality!r} is not one of {', '.join(MODALITIES)}"
            f"{did_you_mean(task.modality.upper(), MODALITIES)}: intensities are read by it."
        )
    return doubts


def _read_source(name: str, source: Any, class_names: list[str], where: str) -> LabelSource:
    is_generated = name == GENERATED
    tables = {"labels": _TABLE, "split": _TABLE}
    required = tables if is_generated else {}
    of_files = {"layout": _TEXT, "images": _TEXT, "label_maps": _TEXT, "filter": _TABLE}
    optional = {} if is_generated else tables | of_files  # phantoms have no files
    if type(source) is dict and type(source.get("labels")) is str:
        raise InputError(
            f"{where}labels: is the table of label values. Write the pattern of the label files as "
            "label_maps."
        )
    _check_table(source, where, required, optional | {"not_annotated": _LIST})
    if is_generated:
        _check_table(source["split"], f"{where}split.", {"train": _COUNT, "test": _COUNT})
        counts = source["split"]["train"], source["split"]["test"]
        split = generated_split(*counts, f"{where}split")
    else:
        split = _read_split(source.get("split", {}), f"{where}split")
    layout = source.get("layout", name)
    files = read_file_choice(source, layout, where)
    if "labels" not in source:
        if "not_annotated" in source:
            raise InputError(
                f"{where}not_annotated: needs labels. List those of the background and of the "
                "other classes."
            )
        return LabelSource(name, layout, None, (), split, **files)
    absent = source.get("not_annotated", [])
    for missing in absent:
        if missing not in class_names:
            raise InputError(
                f"{where}not_annotated: {missing!r} is not a class of this task"
                f"{did_you_mean(str(missing), class_names)}. Its classes: {', '.join(class_names)}."
            )
    annotated = [key for key in class_names if key not in absent]
    table = source["labels"]
    required = dict.fromkeys(["background", *annotated], _LIST)
    _check_table(table, f"{where}labels.", required, {"ignore": _LIST})
    if not annotated:
        raise InputError(f"{where}not_annotated: lists all classes. Delete the source.")
    owners: dict[int | str, str] = {}
    labels = {
        key: _expand(values, f"{where}labels.{key}", is_class=key in annotated)
        for key, values in table.items()
    }
    for key, values in labels.items():
        for value in values:
            if value in owners:
                raise InputError(
                    f"{where}labels.{key}: {value} is listed twice, also for {owners[value]}. "
                    "List it once."
                )
            owners[value] = key
    of_classes = tuple((key, labels[key]) for key in annotated)
    ignored = labels.get("ignore", ())
    return LabelSource(name, layout, of_classes, labels["background"], split, ignored, **files)


def _read_split(split: Any, where: str) -> Split:
    """A split of named subjects, or a share of them; empty if the folder of scans decides."""
    if type(split) is dict and "val" in split and "validation" not in split:
        split = {"validation" if key == "val" else key: side for key, side in split.items()}
    is_listed = any(side in split for side in _SIDES)
    required = {"train": _LIST} if is_listed else {}
    chosen = {"test_share": _SHARE, "leave_out": _LIST}
    optional = dict.fromkeys(("validation", "test"), _LIST) if is_listed else chosen
    of_persons = {"same_person": _LIST, "person_before": _TEXT}
    _check_table(split, f"{where}.", required, of_persons | optional)
    groups = split.get("same_person", [])
    sides = [split.get(side, []) for side in (*_SIDES, "leave_out")]
    for side in (*sides, *groups):
        if type(side) is not list or not all(type(n) is str and n for n in side):
            raise InputError(f"{where}: subjects must be a list of names in quotes.")
    train, validation, test, left_out, *people = (tuple(side) for side in (*sides, *groups))
    if split.get("person_before") == "":
        raise InputError(f"{where}.person_before: is empty. Write what follows a person's name.")
    share = split.get("test_share")
    if share is not None and not 0 <= share < 1:
        raise InputError(f"{where}.test_share: must be at least 0 and below 1, not {share}.")
    before = split.get("person_before", "")
    subjects = Split(train, test, tuple(people), share, validation, before, left_out)
    if is_listed:
        subjects.check(where)
    return subjects


def _expand(values: list[Any], where: str, is_class: bool) -> tuple[int | str, ...]:
    """Labels from numbers, ranges such as "100-207", and names that a data set gives to numbers."""
    lowest = 0 if is_class else LOWEST_LABEL
    labels: list[int | str] = []
    for value in values:
        ends = _RANGE.fullmatch(value) if type(value) is str else None
        if type(value) is str and value.strip() and ends is None:
            labels.append(value)
            continue
        low, high = (int(end) for end in ends.groups()) if ends else (value, value)
        if type(low) is not int or not lowest <= low <= high <= LARGEST_LABEL:
            raise InputError(
                f"{where}: {value!r} is not a label. Write numbers from {lowest} to "
                f'{LARGEST_LABEL}, ranges such as "100-207", or names that the data set gives them.'
            )
        labels += range(low, high + 1)
    if not labels:
        raise InputError(f"{where}: has no label. List at least one.")
    return tuple(labels)


def _one_of(*texts: str) -> _Choices:
    return texts, "one of " + ", ".join(f'"{text}"' for text in texts)


def _check_table(
    table: Any,
    where: str,
    required: dict[str, _Choices],
    optional: dict[str, _Choices] | None = None,
) -> None:
    """Refuses a table that lacks a key, has an unknown key, or has a value that cannot be used.

    Args:
        table: what was read.
        where: its place in the file, for messages.
        required: the keys that it must have, and what their values may be.
        optional: the keys that it may have, likewise.
    """
    if type(table) is not dict:
        keys = ", ".join(required or optional or ())
        raise InputError(f"{where.rstrip('.: ')}: must be a table of {keys}.")
    known = required | (optional or {})
    for key in table:
        if key not in known:
            guess = did_you_mean(key, known)
            raise InputError(f"{where}{key}: unknown key{guess}. Valid here: {', '.join(known)}.")
    for key, (choices, description) in known.items():
        if key not in table:
            if key not in required:
                continue
            raise InputError(f"{where}{key}: is missing. It must be {description}.")
        # By exact type: in Python, true is a number too.
        if type(table[key]) not in choices and table[key] not in choices:
            raise InputError(f"{where}{key}: must be {description}, not {table[key]!r:.60}.")


def _check_names(where: str, names: Iterable[str], is_optional: bool = False) -> None:
    """Refuses names that cannot be used or occur twice, and no names unless `is_optional`."""
    seen = {"background", "ignore"}
    for name in names:
        if not NAME.fullmatch(name) or name in seen:
            raise InputError(
                f"{where}: {name!r} cannot be a name here. Names are lower-case letters, digits "
                "and _, begin with a letter, differ, and are neither background nor ignore."
            )
        seen.add(name)
    if len(seen) == 2 and not is_optional:
        raise InputError(f"{where}: the list is empty. Describe at least one.")
