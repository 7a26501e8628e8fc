"""Finding the subjects of a source: a data set in a folder, or generated phantoms.

The layout of the data set says which files belong to which subject, the split whether a subject is
for training or for testing. Names of labels become values. No scan is read here.
"""

from __future__ import annotations

from pathlib import Path

from mtseg.errors import InputError
from mtseg.phantoms.scanner import CLASS_LABELS
from mtseg.sources.label_values import resolve_labels
from mtseg.sources.layouts.catalog import LAYOUTS, find_files
from mtseg.sources.layouts.dataset_files import DatasetFiles, SubjectFiles
from mtseg.sources.splits import (
    SPLIT_FILE,
    ValidationRule,
    choose_split,
    describe_rule,
    set_validation_aside,
)
from mtseg.sources.subject import FoundSubjects, Issue, Subject
from mtseg.tasks.task import LabelSource, Split, Task, first_ten
from mtseg.tasks.task_file import GENERATED, generated_split


def find_subjects(
    task: Task,
    source: str,
    manual_dir: Path | None,
    num_train: int | None = None,
    num_test: int | None = None,
    validation: ValidationRule | None = None,
) -> FoundSubjects:
    """Finds the subjects of a task's source, without reading a scan.

    Args:
        task: the task.
        source: name of one of its sources, or of a layout that any task may have.
        manual_dir: the folder of the data set; None for phantoms.
        num_train: number of training phantoms; None takes that of the task file.
        num_test: number of test phantoms; None takes that of the task file.
        validation: how to choose validation subjects; None takes those that the split lists.

    Returns:
        The complete subjects, and the issues of the others.

    Raises:
        InputError: if the source is unknown, its folder does not have the layout, its split cannot
            be read, the name of a label is unknown, or a number is given for scans.
    """
    labels = task.source(source)
    where = f"{task.name}:{source}"
    if source == GENERATED:
        return _list_phantoms(task, labels, num_train, num_test, validation or ValidationRule())
    if labels.layout not in LAYOUTS:
        raise InputError(
            f"{task.path}: sources.{source}: no layout has this name. Name the source after its "
            f"layout, or write layout = ... with one of {', '.join(LAYOUTS)}."
        )
    if num_train is not None or num_test is not None:
        raise InputError(
            f"{where}: --num-train and --num-test of mtseg-prepare are for phantoms. Choose "
            f"subjects in {SPLIT_FILE} in the folder of scans."
        )
    if manual_dir is None:
        expected = LAYOUTS[labels.layout].expected
        raise InputError(
            f"{where}: needs scans. Give mtseg-prepare --manual-dir a folder with {expected}."
        )
    folder = Path(manual_dir)
    found = find_files(labels, folder, where)
    labels, label_issues = resolve_labels(task, labels, found, folder)
    chosen = choose_split(labels, found, folder, validation)
    subjects, issues = _complete_subjects(found, chosen.split, folder)
    issues += label_issues
    try:
        chosen.split.check(chosen.path)
    except InputError as error:
        issues.insert(0, Issue("split", "", str(error)))
    return FoundSubjects(labels, tuple(subjects), tuple(issues), chosen.origin)


def list_subjects(
    task: Task,
    source: str,
    manual_dir: Path | None,
    num_train: int | None = None,
    num_test: int | None = None,
) -> list[Subject]:
    """The subjects of `find_subjects`, if there is no error among its issues.

    Raises:
        InputError: as for `find_subjects`, and with the first error; such as a subject that does
            not have exactly one scan and one label map.
    """
    return list(
        find_subjects(task, source, manual_dir, num_train, num_test).require_sound().subjects
    )


def _list_phantoms(
    task: Task,
    source: LabelSource,
    num_train: int | None,
    num_test: int | None,
    validation: ValidationRule,
) -> FoundSubjects:
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
    split = set_validation_aside(split, validation, f"{task.name}:{GENERATED}")
    subjects = tuple(
        Subject(name, side, None, None, int(name.removeprefix(GENERATED)))
        for side, names in _sides(split)
        for name in names
    )
    return FoundSubjects(source, subjects, (), "generated" + describe_rule(validation))


def _sides(split: Split) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Name and subjects of each side of a split."""
    return ("train", split.train), ("validation", split.validation), ("test", split.test)


def _complete_subjects(
    found: DatasetFiles, split: Split, folder: Path
) -> tuple[list[Subject], list[Issue]]:
    """The subjects of a split with one scan and one label map each, and the issues of others."""
    by_name: dict[str, SubjectFiles] = {files.name: files for files in found.subjects}
    issues = []
    names = [name for _, of_side in _sides(split) for name in of_side]
    if missing := [name for name in names if name not in by_name]:
        issues.append(
            Issue(
                "missing",
                "",
                f"{folder}: {len(missing)} of {len(names)} subjects of the split have no file "
                f"here: {first_ten(missing)}. Add their files, or list the other subjects in "
                f"{SPLIT_FILE} (columns subject,split).",
            )
        )
    subjects: dict[str, Subject] = {}
    for side, of_side in _sides(split):
        for name in of_side:
            if name not in by_name or name in subjects:  # `Split.check` reports the latter
                continue
            images, label_maps = by_name[name].images, by_name[name].label_maps
            remedy = by_name[name].remedy
            if len(images) == len(label_maps) == 1 and not remedy:
                subjects[name] = Subject(name, side, str(images[0]), str(label_maps[0]), None)
                continue
            scans, maps = (
                first_ten(str(p.relative_to(folder)) for p in paths) or "none"
                for paths in (images, label_maps)
            )
            is_missing = not images or not label_maps
            if is_missing:
                remedy = f"Add what is missing, or list the other subjects in {SPLIT_FILE}."
            issues.append(
                Issue(
                    "missing" if is_missing else "extra",
                    name,
                    f"{folder}: subject {name} must have one scan and one label map. Scans: "
                    f"{scans}; label maps: {maps}. "
                    f"{remedy or 'Keep one scan and one label map.'}",
                )
            )
    unused = [path for f in found.subjects if f.name not in names for path in f.images]
    if unused := [*unused, *found.unused]:
        files = first_ten(str(path.relative_to(folder)) for path in unused)
        issues.append(
            Issue(
                "extra",
                "",
                f"{folder}: scans of no subject of the split are not used: {files}. List their "
                f"subjects in {SPLIT_FILE} to use them.",
                is_error=False,
            )
        )
    return list(subjects.values()), issues
