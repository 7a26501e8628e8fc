"""The fingerprint of prepared records: everything that decides what they contain.

It names the task's definition, what the labels of the source mean, the settings, and each subject
with its split and the checksums of its files. A folder of records has one in `fingerprint.json`.
Two fingerprints with the same `content` and subjects belong to records that are equal, byte for
byte.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mtseg.errors import InputError
from mtseg.provenance.file_state import FileState, file_state
from mtseg.sources.splits import ValidationRule
from mtseg.sources.subject import FoundSubjects, Subject
from mtseg.system.atomic_files import parse_json, write_json
from mtseg.system.hardware import num_cores
from mtseg.tasks.task import LabelSource, Task

FINGERPRINT = "fingerprint.json"
"""The file beside the records."""

_FORMAT = 1
"""Version of the file's format."""

PREPARATION = 2
"""Raise it if the same scans, labels and settings give other records than before."""


_TASK_KEYS = ("name", "file", "modality", "classes", "spacing_rule", "spacing_mm")
_SOURCE_KEYS = ("name", "folder", "labels", "labels_in_task_file", "validation", "filter")
"""What is read of a task and of a source."""


@dataclasses.dataclass(frozen=True)
class SubjectPrint:
    """One subject.

    Attributes:
        name: of the subject.
        split: `train`, `validation` or `test`.
        seed: of a phantom; None for a scan.
        image: the scan; None for a phantom.
        label_map: likewise.
        scan_checksum: of the scan's shape and voxels, so that a copy in another file is known;
            empty for a phantom.
        num_voxels: of each of the task's classes in the label map; empty for a phantom.
        num_records: records of this subject; 0 if they are not of its split.
    """

    name: str
    split: str
    seed: int | None = None
    image: FileState | None = None
    label_map: FileState | None = None
    scan_checksum: str = ""
    num_voxels: tuple[int, ...] = ()
    num_records: int = 0

    @property
    def files(self) -> tuple[FileState | None, FileState | None]:
        """The scan and the label map."""
        return self.image, self.label_map

    def has_same_files(self, other: SubjectPrint) -> bool:
        """Whether both subjects were, or would be, prepared from equal files."""
        ours, theirs = (
            [s.seed, *(file and file.sha256 for file in s.files)] for s in (self, other)
        )
        return ours == theirs and "" not in ours


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """What the records of one kind of a task's source were made from.

    Attributes:
        kind: of the records.
        task: the definition: name, file, modality, classes in order, spacing.
        source: its name, layout and folder, what its labels mean, and how validation subjects were
            chosen.
        settings: of the preparation.
        versions: of the records and of the preparation.
        subjects: training subjects first, each split in its order.
    """

    kind: str
    task: Mapping[str, Any]
    source: Mapping[str, Any]
    settings: Mapping[str, Any]
    versions: Mapping[str, Any]
    subjects: tuple[SubjectPrint, ...]

    @property
    def spec(self) -> str:
        """Task and source for messages, such as `brain:miccai2012`."""
        return f"{self.task['name']}:{self.source['name']}"

    @property
    def content(self) -> dict[str, Any]:
        """What decides the records of a subject beside its files."""
        task = {key: value for key, value in self.task.items() if key != "file"}
        settings = {key: value for key, value in self.settings.items() if key != "num_shards"}
        labels = self.source["labels"]
        return {"task": task, "labels": labels, "settings": settings, "versions": self.versions}

    def of_splits(self, *splits: str) -> tuple[SubjectPrint, ...]:
        """The subjects of some splits."""
        return tuple(subject for subject in self.subjects if subject.split in splits)

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, which `from_json` reads."""
        stored = {"format": _FORMAT, **dataclasses.asdict(self)}
        stored["subjects"] = [
            {key: value for key, value in subject.items() if value not in (None, "", ())}
            for subject in stored["subjects"]
        ]
        return stored

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Fingerprint:
        """Reads what `to_json` wrote.

        Raises:
            InputError: if it is of a newer format.
            ValueError: if it is not a fingerprint.
        """
        try:
            if stored["format"] > _FORMAT:
                raise InputError("was written by a newer version of mtseg. Install that version.")
            fields = {key: value for key, value in stored.items() if key != "format"}
            subjects = tuple(read_subject(subject) for subject in fields.pop("subjects"))
            print_ = cls(subjects=subjects, **fields)
            _ = print_.content, [print_.task[key] for key in _TASK_KEYS]
            _ = [print_.source[key] for key in _SOURCE_KEYS]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("not a fingerprint") from error
        return print_

    def write(self, folder: Path) -> None:
        """Writes `fingerprint.json` into a folder of records.

        Raises:
            OSError: if it cannot be written.
        """
        write_json(folder / FINGERPRINT, self.to_json())


def read_subject(stored: Mapping[str, Any]) -> SubjectPrint:
    """Reads one subject of a fingerprint.

    Raises:
        TypeError: if it is not one.
    """
    fields = dict(stored)
    for name in ("image", "label_map"):
        if fields.get(name) is not None:
            fields[name] = FileState(**fields[name])
    fields["num_voxels"] = tuple(fields.get("num_voxels", ()))
    return SubjectPrint(**fields)


def read_fingerprint(folder: Path) -> Fingerprint | None:
    """Reads the fingerprint of a folder of records.

    Returns:
        None if there is none: the records were made by an earlier version, or by TFDS's commands.

    Raises:
        InputError: if it cannot be read.
    """
    path = folder / FINGERPRINT
    try:
        return Fingerprint.from_json(parse_json(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read. Prepare the task again: mtseg-prepare with --overwrite."
        ) from error


# Making a fingerprint.


def describe_task(task: Task) -> dict[str, Any]:
    """The definition of a task, as far as it decides what records contain or mean."""
    return {
        "name": task.name,
        "file": os.path.abspath(Path(task.own_file).expanduser()) if task.own_file else "",
        "modality": task.modality,
        "classes": list(task.class_names),
        "spacing_rule": task.spacing_rule,
        "spacing_mm": task.spacing_mm,
    }


def describe_labels(labels: LabelSource) -> dict[str, str] | None:
    """Each class -> its labels as text, such as `31, 100-207`; None if the data set decides."""
    if labels.values is None:
        return None
    given = {"background": labels.background, **dict(labels.values), "ignore": labels.ignore}
    return {name: format_labels(values) for name, values in given.items() if values}


def format_labels(values: Iterable[int | str]) -> str:
    """Labels as a text in which equal sets are equal: numbers in order, with ranges, then names.

    Example:
        >>> format_labels([7, 3, 1, 2, "tumour"])
        '1-3, 7, tumour'
    """
    values = list(values)
    runs: list[list[int]] = []
    for number in sorted({value for value in values if isinstance(value, int)}):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts = [f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return ", ".join([*texts, *sorted({value for value in values if isinstance(value, str)})])


def make_fingerprint(
    task: Task,
    labels: LabelSource,
    subjects: tuple[SubjectPrint, ...],
    folder: str | Path | None,
    *,
    kind: str,
    settings: Mapping[str, Any],
    validation: ValidationRule,
    versions: Mapping[str, Any],
) -> Fingerprint:
    """The fingerprint that records would have if they were prepared now.

    Args:
        task: the task.
        labels: one of its sources, in which every label is a value.
        subjects: from `describe_subjects`.
        folder: of the scans; None for phantoms.
        kind: of the records.
        settings: of the preparation.
        validation: how validation subjects were chosen among the training subjects.
        versions: of the formats of the records.
    """
    return Fingerprint(
        kind=kind,
        task=describe_task(task),
        source={
            "name": labels.name,
            "layout": labels.layout,
            "folder": "" if folder is None else os.path.abspath(folder),
            "labels": describe_labels(labels),
            "labels_in_task_file": describe_labels(task.source(labels.name)),
            "validation": dataclasses.asdict(validation),
            "filter": dict(labels.entity_filter),
        },
        settings=dict(settings),
        versions={**versions, "preparation": PREPARATION},
        subjects=subjects,
    )


def describe_subjects(found: FoundSubjects) -> tuple[SubjectPrint, ...]:
    """The subjects of a source; see `describe_subject`."""
    return tuple(map(describe_subject, found.subjects))


def describe_subject(subject: Subject) -> SubjectPrint:
    """A subject with the sizes and times of its files, without checksums.

    Raises:
        InputError: if one of them no longer exists.
    """
    image, label_map = (
        None if path is None else file_state(path)
        for path in (subject.image_path, subject.label_path)
    )
    return SubjectPrint(subject.name, subject.split, subject.seed, image, label_map)


def add_checksums(now: Fingerprint, stored: Fingerprint) -> Fingerprint:
    """Adds the checksums that are needed to compare a fingerprint with a stored one.

    A file whose size and time are as stored keeps the stored checksum, and a file of another size
    is left without one: its content has changed. Only the others are read.

    Raises:
        InputError: if a file cannot be read.
    """
    before = {subject.name: subject for subject in stored.subjects}
    unknown: dict[str, FileState] = {}
    states: dict[str, FileState] = {}
    for subject in now.subjects:
        old = before.get(subject.name)
        for state, known in zip(subject.files, old.files if old else (None, None), strict=True):
            if state is None or known is None:
                continue
            if state.looks_like(known):
                states[state.path] = dataclasses.replace(state, sha256=known.sha256)
            elif state.size == known.size:
                unknown[state.path] = state
    with concurrent.futures.ThreadPoolExecutor(num_cores()) as pool:
        states |= zip(unknown, pool.map(FileState.with_checksum, unknown.values()), strict=True)
    subjects = []
    for subject in now.subjects:
        image, label_map = (state and states.get(state.path, state) for state in subject.files)
        old = before.get(subject.name, subject)
        subject = dataclasses.replace(subject, image=image, label_map=label_map)
        if subject.has_same_files(old):
            subject = dataclasses.replace(
                old, name=subject.name, split=subject.split, image=image, label_map=label_map
            )
        subjects.append(subject)
    return dataclasses.replace(now, subjects=tuple(subjects))
