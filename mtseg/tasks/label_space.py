"""The combined label space of a network for one or several tasks.

Read this to know which output of a network is which class. A class has two indices. Its own class
index is its place in its task. Its combined class index is its place in the label space: one shared
background, then the classes of each task, in the order in which the tasks are named.

Reference: Moeskops et al., MICCAI 2016, section 3.2.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.tasks.file_choice import with_entity_filter
from mtseg.tasks.label_table import LabelEntry, make_label_table
from mtseg.tasks.task import ANY_TASK_LAYOUTS, Code, Task, TissueClass, did_you_mean
from mtseg.tasks.task_file import (
    COLOR,
    GENERATED,
    NAME,
    read_task,
    shipped_path,
    shipped_tasks,
)

MAX_CLASSES = 255
"""Combined class indices are stored as uint8, and 255 is the ignore label."""


@dataclass(frozen=True)
class TaskSelection:
    """A task, and the names of the sources that its subjects come from.

    Attributes:
        task: the task.
        sources: names of its sources.
        is_default: whether the sources were not named, so that this is the task's default.
    """

    task: Task
    sources: tuple[str, ...]
    is_default: bool = field(default=False, compare=False)

    @property
    def spec(self) -> str:
        """The selection as `parse_tasks` reads it, such as `brain:miccai2012+freesurfer`."""
        return f"{self.task.own_file or self.task.name}:{'+'.join(self.sources)}"


@dataclass(frozen=True)
class LabelSpace:
    """The classes of one network: a shared background, then each task's classes in order.

    Attributes:
        selections: the tasks, in the order in which they were named.

    Raises:
        InputError: if there is no task, a task, a class name or the label of a class occurs twice,
            or there are more than 255 classes.

    Example:
        >>> parse_tasks("breast,cta").class_names
        ('background', 'pectoral_muscle', 'coronary_arteries')
    """

    selections: tuple[TaskSelection, ...]

    def __post_init__(self) -> None:
        owners: dict[str, Task] = {}
        with_label: dict[int, str] = {}
        tasks: dict[str, Task] = {}
        for task in (selection.task for selection in self.selections):
            if task.name in tasks:
                raise InputError(f"task {task.name}: is named twice. Name each task once.")
            tasks[task.name] = task
            for name in task.class_names[1:]:
                if name in owners:
                    raise InputError(
                        f"{task.path or task.name}: the class {name} is also a class of task "
                        f"{owners[name].name}. Rename it in one of the two task files."
                    )
                owners[name] = task
            for tissue in task.classes:
                if tissue.label is None:
                    continue
                other = with_label.setdefault(tissue.label, tissue.name)
                if other != tissue.name:
                    raise InputError(
                        f"{task.path or task.name}: the class {tissue.name} has the label "
                        f"{tissue.label}, as {other} of task {owners[other].name} has. Change the "
                        "label in one of the two task files, or leave it out."
                    )
        if not tasks:
            raise InputError(
                f"no task is named. Name one or more of: {', '.join(shipped_tasks())}."
            )
        if self.num_classes > MAX_CLASSES:
            raise InputError(
                f"tasks {', '.join(tasks)}: have {self.num_classes} classes, background included; "
                f"at most {MAX_CLASSES} fit. Name fewer tasks."
            )

    @property
    def num_classes(self) -> int:
        """Number of combined classes, including the shared background."""
        return 1 + sum(len(selection.task.classes) for selection in self.selections)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each combined class index, `background` first."""
        names = (selection.task.class_names[1:] for selection in self.selections)
        return ("background", *(name for of_task in names for name in of_task))

    @property
    def class_task(self) -> tuple[str | None, ...]:
        """The name of the task of each combined class index; None for the background."""
        return (None, *(s.task.name for s in self.selections for _ in s.task.classes))

    @property
    def label_table(self) -> tuple[LabelEntry, ...]:
        """Label, colour and code of each class, in the order of `class_names[1:]`."""
        return make_label_table((s.task.name, c) for s in self.selections for c in s.task.classes)

    @property
    def decisions(self) -> tuple[str, ...]:
        """The decision rule of each combined class index; `argmax` for the background."""
        return ("argmax", *(s.task.decision for s in self.selections for _ in s.task.classes))

    @property
    def spec(self) -> str:
        """The label space as `parse_tasks` reads it, such as `brain:miccai2012,cta:phantom`."""
        return ",".join(selection.spec for selection in self.selections)

    def offset(self, task_name: str) -> int:
        """What to add to a task's own foreground class index to get the combined one.

        Raises:
            InputError: if the network does not have the task.
        """
        offset = 0
        for selection in self.selections:
            if selection.task.name == task_name:
                return offset
            offset += len(selection.task.classes)
        names = ", ".join(selection.task.name for selection in self.selections)
        raise InputError(f"task {task_name!r}: is not a task of this network, which has: {names}.")

    def to_combined(self, task_name: str) -> npt.NDArray[np.uint8]:
        """A table from a task's own class indices to combined ones.

        Returns:
            uint8 (own classes, including background,). Index it with a map of own class indices.

        Example:
            >>> parse_tasks("breast,cta").to_combined("cta").tolist()
            [0, 2]
        """
        return np.array([0, *self.class_indices(task_name)], np.uint8)

    def num_backgrounds(self, backgrounds: str) -> int:
        """Number of logits that a network has for the background: 1, or one for each task.

        Args:
            backgrounds: `shared` or `by-task` (see `mtseg.runs.config.TrainConfig`).
        """
        return len(self.selections) if backgrounds == "by-task" else 1

    def to_scores(self, task_name: str, backgrounds: str) -> npt.NDArray[np.uint16]:
        """A table from a task's own class indices to the network's logits.

        The backgrounds come first, in the order of the tasks. The other logits follow in the order
        of the combined class indices.

        Args:
            task_name: the task.
            backgrounds: `shared` or `by-task`.

        Returns:
            uint16 (own classes, including background,): the place of each class's logit.

        Example:
            >>> parse_tasks("breast,cta").to_scores("cta", "by-task").tolist()
            [1, 3]
        """
        count = self.num_backgrounds(backgrounds)
        own = [selection.task.name for selection in self.selections].index(task_name)
        others = [index + count - 1 for index in self.class_indices(task_name)]
        return np.array([own if count > 1 else 0, *others], np.uint16)

    def class_indices(self, task_name: str) -> tuple[int, ...]:
        """The combined class indices of a task, without the background."""
        first = self.offset(task_name) + 1
        return tuple(first + n for n in range(self.class_task.count(task_name)))

    def indices_of_other_tasks(self, task_name: str) -> tuple[int, ...]:
        """The combined class indices of all other tasks, without the background.

        A voxel that gets one of them is a cross-task error: the paper's confusion with "alien"
        tissue (section 4).
        """
        own = self.class_indices(task_name)
        return tuple(index for index in range(1, self.num_classes) if index not in own)

    def to_json(self) -> dict[str, Any]:
        """The label space as plain values for JSON, which `from_json` reads without task files."""
        names = ("name", "title", "modality", "classes", "spacing_rule", "spacing_mm", "decision")
        tasks = []
        for selection in self.selections:
            fields = asdict(selection.task)
            tasks.append(
                {name: fields[name] for name in names} | {"source": "+".join(selection.sources)}
            )
            # What is off or not given is left out, as in files of earlier versions.
            tasks[-1] |= {"is_symmetric": True} if selection.task.is_symmetric else {}
            tasks[-1]["classes"] = [
                {key: value for key, value in of_class.items() if value not in (None, False)}
                for of_class in fields["classes"]
            ]
        return {"tasks": tasks}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> LabelSpace:
        """Reads what `to_json` wrote; the tasks then have no sources, citation or path.

        Raises:
            InputError: if the values are not those that `to_json` writes.
        """
        try:
            selections = []
            for fields in stored["tasks"]:
                fields = dict(fields)
                source = fields.pop("source")
                classes = tuple(_read_stored_class(table) for table in fields.pop("classes"))
                task = Task(classes=classes, **fields)
                _require_values(task)
                selections.append(TaskSelection(task, tuple(source.split("+"))))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                "the stored label space is not in the format of this version of mtseg. Train or "
                "export the model again."
            ) from error
        return cls(tuple(selections))


def _read_stored_class(table: dict[str, Any]) -> TissueClass:
    code = table.get("code")
    return TissueClass(**(table | {"code": None if code is None else Code(**code)}))


def _require_values(task: Task) -> None:
    """Refuses values that no task file can have: a model's manifest may be anybody's file.

    Raises:
        ValueError: if there is one.
    """
    names = [task.name, *(tissue.name for tissue in task.classes)]
    texts = [task.title, task.modality, task.spacing_rule, *(c.title for c in task.classes)]
    labels = [tissue.label for tissue in task.classes if tissue.label is not None]
    colors = [tissue.color for tissue in task.classes if tissue.color is not None]
    codes = [tissue.code for tissue in task.classes if tissue.code is not None]
    texts += [text for code in codes for text in (code.scheme, code.value, code.meaning)]
    flags = [flag for c in task.classes for flag in (c.largest_component, c.fill_holes)]
    spacing_mm = 1.0 if task.spacing_mm is None else task.spacing_mm
    is_sound = (
        all(isinstance(text, str) for text in (*names, *texts, *colors))
        and all(map(NAME.fullmatch, names))
        and all(map(COLOR.fullmatch, colors))
        and all(type(label) is int and 0 < label < 256 for label in labels)
        and all(type(flag) is bool for flag in (task.is_symmetric, *flags))
        and task.decision in ("argmax", "operating_point")
        and type(spacing_mm) in (int, float)
        and 0 < spacing_mm < 1000
    )
    if not is_sound:
        raise ValueError(f"task {task.name}")


def parse_tasks(text: str) -> LabelSpace:
    """Reads the tasks of one network.

    Args:
        text: names or files of tasks, separated by commas. A source may follow each after a
            colon: `brain:miccai2012,breast,path/to/task.toml:phantom`. Several sources of one
            task are joined by a plus: `brain:miccai2012+freesurfer`. The default is `phantom` if
            the task has it, else its first source, else `folder`.

    Returns:
        The label space of the tasks, in the order of the text.

    Raises:
        InputError: if a name is empty, unknown or repeated, or a task file cannot be used.
    """
    return LabelSpace(tuple(_parse_selection(item.strip(), text) for item in text.split(",")))


def filter_bids(label_space: LabelSpace, text: str) -> LabelSpace:
    """Gives a filter of entities to every named source that has the layout bids.

    Args:
        label_space: from `parse_tasks`.
        text: such as `run=1,desc=aseg`; it replaces the filter of a task file.

    Raises:
        InputError: if no source has the layout, or the text cannot be read.
    """
    selections, is_used = [], False
    for selection in label_space.selections:
        task = selection.task
        for source in selection.sources:
            if task.source(source).layout == "bids":
                task, is_used = with_entity_filter(task, source, text), True
        selections.append(replace(selection, task=task))
    if not is_used:
        raise InputError("--bids-filter: no source here has the layout bids. Leave it out.")
    return LabelSpace(tuple(selections))


def _parse_selection(item: str, text: str) -> TaskSelection:
    # A path may have a colon in it: an item that ends in .toml is a path without a source.
    name, colon, source = (item, "", "") if item.endswith(".toml") else _cut_source(item)
    if not name or (colon and not source):
        raise InputError(f"tasks {text!r}: a name is empty. Write, for example, brain,breast,cta.")
    if name.endswith(".toml") or "/" in name:
        task = read_task(name)
    elif name in shipped_tasks():
        task = read_task(shipped_path(name))
    else:
        valid = shipped_tasks()
        if name in ANY_TASK_LAYOUTS:
            raise InputError(
                f"task {name!r}: is a layout. Name a task before it, such as {valid[0]}:{name}. "
                "For other classes, write a task file: mtseg check --write-task-file TASK.toml "
                f"{name} DIR"
            )
        raise InputError(
            f"task {name!r}: unknown task{did_you_mean(name, valid)}. Name one of "
            f"{', '.join(valid)}, or the path of a task file, which mtseg check --write-task-file "
            "drafts for a data set."
        )
    names = [each.name for each in task.sources]
    default = GENERATED if GENERATED in names else (names or ["folder"])[0]
    chosen = (source or default).split("+")
    for each in chosen:
        task.source(each)
        if chosen.count(each) > 1:
            raise InputError(f"tasks {text!r}: source {each} is named twice. Name it once.")
    return TaskSelection(task, tuple(chosen), is_default=not source)


def name_sources(selection: TaskSelection) -> str:
    """The ways to name the sources of scans that a task has, for a message."""
    task = selection.task
    names = [source.name for source in task.sources if source.name != GENERATED]
    names = list(dict.fromkeys([*names, *ANY_TASK_LAYOUTS]))
    return ", ".join(f"{task.own_file or task.name}:{name}" for name in names)


def _cut_source(item: str) -> tuple[str, str, str]:
    name, colon, source = item.rpartition(":")
    return (name, colon, source) if colon else (item, "", "")
