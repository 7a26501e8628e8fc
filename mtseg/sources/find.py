"""The subjects of a source: files that belong together, on one side of a split.

`mtseg.sources.layouts` finds the files; here they become subjects, and names of labels become
values. Phantoms need no folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mtseg.errors import InputError
from mtseg.phantoms.scanner import CLASS_LABELS
from mtseg.sources.layouts.candidates import Candidate, MatchedFiles
from mtseg.sources.layouts.matching import LAYOUTS, match_files
from mtseg.sources.splits import SPLIT_FILE, choose_split
from mtseg.sources.subject import FoundSubjects, Issue, Subject
from mtseg.tasks.task import LabelSource, Split, Task, some
from mtseg.tasks.task_file import GENERATED, generated_split


def find_subjects(
    task: Task,
    source: str,
    manual_dir: Path | None,
    num_train: int | None = None,
    num_test: int | None = None,
) -> FoundSubjects:
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
        return FoundSubjects(labels, tuple(_list_phantoms(task, labels, num_train, num_test)))
    if labels.layout not in LAYOUTS:
        raise InputError(
            f"{task.path}: sources.{source}: no layout has this name. Name the source after how "
            f"its files lie, or say layout = ...: {', '.join(LAYOUTS)}."
        )
    if num_train is not None or num_test is not None:
        raise InputError(
            f"{where}: --num-train and --num-test of mtseg-prepare are for phantoms. Choose "
            f"subjects in {SPLIT_FILE} in the folder of scans."
        )
    if manual_dir is None:
        _, expected = LAYOUTS[labels.layout]
        raise InputError(
            f"{where}: needs scans. Give mtseg-prepare --manual-dir a folder with {expected}."
        )
    folder = Path(manual_dir)
    found = match_files(labels.layout, folder, where)
    labels = _resolve_labels(task, labels, found, folder)
    split, split_of = choose_split(labels, found, folder)
    subjects, issues = _complete_subjects(found, split, folder)
    try:
        split.check(split_of)
    except InputError as error:
        issues.insert(0, Issue("split", "", str(error)))
    return FoundSubjects(labels, tuple(subjects), tuple(issues))


def list_subjects(
    task: Task,
    source: str,
    manual_dir: Path | None,
    num_train: int | None = None,
    num_test: int | None = None,
) -> list[Subject]:
    """The subjects of `find_subjects`, all of them complete.

    Raises:
        InputError: as for `find_subjects`, and if a subject has not exactly one scan and one label
            map.
    """
    return list(
        find_subjects(task, source, manual_dir, num_train, num_test).require_sound().subjects
    )


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


def _resolve_labels(
    task: Task, labels: LabelSource, found: MatchedFiles, folder: Path
) -> LabelSource:
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
                    f"{some(known) or 'none'}. Say which labels are which class under "
                    f"sources.{labels.name}.labels in {task.file_to_edit}."
                )
        return tuple(resolved)

    return replace(
        labels,
        values=tuple((name, resolve(given)) for name, given in labels.values or ()),
        background=resolve(labels.background),
        ignore=resolve(labels.ignore),
    )


def _complete_subjects(
    found: MatchedFiles, split: Split, folder: Path
) -> tuple[list[Subject], list[Issue]]:
    """The subjects of a split that have all files, and what is wrong with the others."""
    by_name: dict[str, Candidate] = {c.name: c for c in found.candidates}
    issues = []
    names = (*split.train, *split.test)
    if missing := [name for name in names if name not in by_name]:
        issues.append(
            Issue(
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
            issues.append(
                Issue(
                    "missing" if len(images) == 0 or len(label_maps) == 0 else "extra",
                    name,
                    f"{folder}: subject {name} must have one scan and one label map. Scans: "
                    f"{there[0]}; label maps: {there[1]}. Leave one of each.",
                )
            )
    unused = [path for c in found.candidates if c.name not in names for path in c.images]
    if unused := [*unused, *found.unused]:
        files = some(str(path.relative_to(folder)) for path in unused)
        issues.append(
            Issue(
                "extra",
                "",
                f"{folder}: {len(unused)} scans are of no subject of the split: {files}. They "
                "will not be used.",
                is_error=False,
            )
        )
    return subjects, issues
