"""The values of a source's labels: names become numbers, and overlapping regions become disjoint.

nnU-Net lets several labels share a value: "whole_tumor" may be 1, 2 and 3 while "tumor_core" is 2
and 3. This network gives a voxel one class, so each value must belong to one class. Where the data
set says in which order its regions are written (`regions_class_order`), the later region gets a
shared value, as in nnU-Net, and an issue says what is left of the earlier one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mtseg.errors import InputError
from mtseg.sources.layouts.dataset_files import DatasetFiles
from mtseg.sources.subject import Issue
from mtseg.tasks.task import LabelSource, Task, first_ten
from mtseg.tasks.task_file import LARGEST_LABEL, LOWEST_LABEL

_BACKGROUND = "background"


def resolve_labels(
    task: Task, labels: LabelSource, found: DatasetFiles, folder: Path
) -> tuple[LabelSource, list[Issue]]:
    """Turns names of labels into the values that the data set gives them.

    Without labels in the task file, a class has the label of its name; in a data set that names no
    label, the classes are 1, 2, ... in their order.

    Args:
        task: the task.
        labels: its source as in the task file.
        found: the data set, with the names of its labels.
        folder: its folder, for messages.

    Returns:
        The source, in which every label is a value and belongs to one class; and a warning if
        regions overlap.

    Raises:
        InputError: if a name is unknown, a value cannot be a label, or regions overlap and which of
            them has a shared value is not known.
    """
    given = _labels_by_name(task, labels, found)
    values = {
        key: _find_values(task, labels, names, found, folder)
        for key, names in (*(given.values or ()), (_BACKGROUND, given.background))
    }
    ignored = _find_values(task, labels, given.ignore, found, folder)
    return _make_disjoint(task, given, values, ignored, found, folder)


def _labels_by_name(task: Task, labels: LabelSource, found: DatasetFiles) -> LabelSource:
    """The source with the labels that a task file without them means."""
    if labels.values is not None:
        return labels
    if found.label_names:
        values = tuple((name, (name,)) for name in task.class_names[1:])
        ignored = ("ignore",) if "ignore" in found.label_names else ()
        return replace(labels, values=values, background=(_BACKGROUND,), ignore=ignored)
    numbers = tuple((name, (n,)) for n, name in enumerate(task.class_names[1:], start=1))
    return replace(labels, values=numbers, background=(0,))


def _find_values(
    task: Task,
    source: LabelSource,
    names: Sequence[int | str],
    found: DatasetFiles,
    folder: Path,
) -> tuple[int, ...]:
    """The values of labels that are given by number or by name, each once."""
    values: list[int] = []
    for label in names:
        if isinstance(label, int):
            values.append(label)
        elif label in found.label_names:
            values += found.label_names[label]
        elif label == _BACKGROUND:
            values.append(0)
        else:
            raise InputError(
                f"{folder}: the data set has no label {label!r} for {task.name}. Its labels: "
                f"{first_ten(found.label_names) or 'none'}. Say which labels are which class under "
                f"sources.{source.name}.labels in {task.file_to_edit}."
            )
    if wrong := [value for value in values if not LOWEST_LABEL <= value <= LARGEST_LABEL]:
        raise InputError(
            f"{folder}: the data set gives a label the value {wrong[0]}. Values may be from "
            f"{LOWEST_LABEL} to {LARGEST_LABEL}: give it another in the label maps."
        )
    return tuple(dict.fromkeys(values))


def _make_disjoint(
    task: Task,
    given: LabelSource,
    values: dict[str, tuple[int, ...]],
    ignored: tuple[int, ...],
    found: DatasetFiles,
    folder: Path,
) -> tuple[LabelSource, list[Issue]]:
    """Gives each shared value to the last of its regions.

    Raises:
        InputError: if that is not known.
    """
    places = {name: place for place, name in enumerate(found.label_names)}
    names_of = dict(given.values or ())
    where = f"sources.{given.name}.labels in {task.file_to_edit}"
    owner: dict[int, str] = dict.fromkeys(ignored, "ignore")
    for key, of_key in values.items():
        for value in of_key:
            other = owner.setdefault(value, key)
            if other == key:
                continue
            # Only names of the data set have a place in its order.
            places_of = [
                [places.get(str(name), -1) for name in names_of.get(each, ())]
                for each in (other, key)
            ]
            is_known = found.has_region_order and all(p and min(p) >= 0 for p in places_of)
            if not is_known:
                raise InputError(
                    f"{folder}: label {value} is of both {other} and {key}, and a voxel has one "
                    "class. Add regions_class_order to dataset.json if these are regions of "
                    f"nnU-Net, or list each value once under {where}."
                )
            if max(places_of[0]) >= min(places_of[1]):
                raise InputError(
                    f"{folder}: regions {other} and {key} share label {value}. dataset.json orders "
                    f"them {key}, {other}, and the later one gets it, but the task has its classes "
                    f"in the order {other}, {key}. List its classes in the order of dataset.json."
                )
            owner[value] = key
    left = {key: tuple(v for v in of_key if owner[v] == key) for key, of_key in values.items()}
    for key, rest in left.items():
        if not rest and values[key]:
            raise InputError(
                f"{folder}: all labels of {key} are also of later regions, so no voxel would have "
                "this class. Delete the class from the task file, or correct dataset.json."
            )
    resolved = replace(
        given,
        values=tuple((name, left[name]) for name in names_of),
        background=left[_BACKGROUND],
        ignore=ignored,
    )
    shrunk = [
        f"{key} is learnt from label {', '.join(map(str, left[key]))} alone, without "
        f"{', '.join(str(v) for v in of_key if v not in left[key])}"
        for key, of_key in values.items()
        if left[key] != of_key
    ]
    if not shrunk:
        return resolved, []
    message = (
        f"{folder}: regions overlap, and as in nnU-Net the later one gets a shared label: "
        f"{'; '.join(shrunk)}. Add the classes together afterwards to get a whole region, or make "
        "a task of one region alone."
    )
    return resolved, [Issue("labels", "", message, is_error=False)]
