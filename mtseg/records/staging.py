"""Staging: the records of one subject in files of its own, before they become shards.

Each subject is prepared by one call of `stage`, in any process. It writes the subject's records
and, last, a file that marks the subject as done. So a stopped preparation resumes with the
remaining subjects, and the records do not depend on the number of processes. The folder
`DATA_DIR/mtseg_TASK/.preparing_SOURCE` has:

- `NAME.patches.tfrecord`, `NAME.volumes.array_record`: the records of a subject;
- `NAME.done.json`: its files as they were when they were read, and what checking them found;
- `settings.json`: the settings of all of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

from mtseg.errors import InputError
from mtseg.records.builder import RecordConfig, make_records
from mtseg.records.schema import FILE_FORMATS, SPLITS, encode_record
from mtseg.records.shards import ARRAY_RECORD, write_array_record
from mtseg.sources.checks import SubjectReport
from mtseg.sources.reading import prepare_subject
from mtseg.sources.subject import Subject
from mtseg.system.atomic_files import (
    atomic_write,
    empty_folder,
    lock_folder,
    parse_json,
    writing_to,
)
from mtseg.tasks.task import LabelSource, Task


@dataclasses.dataclass(frozen=True)
class Job:
    """One subject to prepare.

    Attributes:
        task: its task.
        labels: its source, in which every label is a value.
        configs: the kinds of records to make of it.
        report: what checking its files has found.
        folder: the staging folder.
    """

    task: Task
    labels: LabelSource
    configs: tuple[RecordConfig, ...]
    report: SubjectReport
    folder: Path


def stage(job: Job) -> str:
    """Prepares a subject and writes its records, of each kind that its split has.

    Returns:
        The subject's name.

    Raises:
        InputError: if one of its files cannot be used, or the disk is full.
    """
    subject = job.report.subject
    files = _describe_files(subject)  # before they are read: a later change is noticed
    prepared = prepare_subject(job.task, job.labels, subject, size=job.configs[0].size)
    with _writing_staged(job.folder):
        for config in job.configs:
            if subject.split not in SPLITS[config.kind]:
                continue
            path = records_path(job.folder, subject.name, config.kind)
            # A shard may be a hard link to the old file. Writing to it would change the shard.
            path.unlink(missing_ok=True)
            encoded = (encode_record(r) for _, r in make_records(job.task, config, prepared))
            if FILE_FORMATS[config.kind] == ARRAY_RECORD:
                write_array_record(path, encoded)
                continue
            with tf.io.TFRecordWriter(str(path)) as writer:
                for record in encoded:
                    writer.write(record)
        done = {
            "files": files,
            "digest": job.report.checksum,
            "num_voxels": job.report.num_voxels,
        }
        _write_json(_done_path(job.folder, subject.name), done)
    return subject.name


def staged_report(folder: Path, subject: Subject) -> SubjectReport | None:
    """What checking a subject found, if it is staged and its files have not changed since.

    Args:
        folder: the staging folder.
        subject: the subject.

    Returns:
        None if the subject has to be prepared.

    Raises:
        InputError: if one of its files no longer exists.
    """
    done = _read_json(_done_path(folder, subject.name))
    if done is None or done.get("files") != _describe_files(subject):
        return None
    return SubjectReport(subject, (), done["digest"], tuple(done["num_voxels"]))


def records_path(folder: Path, name: str, kind: str) -> Path:
    """The file of a subject's staged records of one kind."""
    return folder / f"{name}.{kind}.{FILE_FORMATS[kind]}"


def _done_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.done.json"


def _describe_files(subject: Subject) -> list[list[Any]]:
    """Path, size and time of each of a subject's files; they differ if the files change.

    A DICOM series is a folder, and all files in it count. A phantom has none.

    Raises:
        InputError: if one of them no longer exists.
    """
    described = []
    for path in (subject.image_path, subject.label_path):
        files = [] if path is None else [Path(path)]
        try:
            if path is not None and Path(path).is_dir():
                files = sorted(Path(path).iterdir())
            for file in files:
                status = file.stat()
                described.append([str(file), status.st_size, status.st_mtime_ns])
        except OSError as error:
            raise InputError(
                f"{error.filename}: can no longer be read ({error.strerror}). Restore it, or leave "
                "the subject out."
            ) from error
    return described


# The staging folder.


def staging_dir(data_dir: str | Path, task_name: str, source: str) -> Path:
    """The folder in which a task's source is staged."""
    return Path(data_dir) / f"mtseg_{task_name}" / f".preparing_{source}"


@contextlib.contextmanager
def lock_staging(folder: Path) -> Iterator[None]:
    """Makes a staging folder and locks it.

    At the end, a folder in which no subject is done is emptied, and an empty one is removed.

    Raises:
        InputError: if another command has the lock, or something in the folder cannot be written.
    """
    refusal = f"{folder.parent}: another command is preparing the same source here. Wait for it."
    with _writing_staged(folder), contextlib.ExitStack() as stack:
        folder.mkdir(parents=True, exist_ok=True)
        stack.callback(_remove_if_empty, folder)  # called last: the lock is a file in the folder
        stack.enter_context(lock_folder(folder, refusal))
        stack.callback(_empty_unless_begun, folder)
        yield


def discard_staging(folder: Path) -> None:
    """Removes a staging folder that is no longer needed, unless another command is using it."""
    if folder.is_dir():
        with contextlib.suppress(InputError), lock_staging(folder):
            empty_folder(folder)


def keep_matching(folder: Path, shared: dict[str, Any], kinds: dict[str, dict[str, Any]]) -> None:
    """Empties a staging folder, unless its subjects were staged with the same settings.

    Args:
        folder: the staging folder, locked.
        shared: what all kinds of records depend on.
        kinds: kind -> its settings, for the kinds that are to be prepared. What was staged may have
            more kinds. These are forgotten, because a subject that changes from now on is not
            staged again for them.
    """
    path = folder / "settings.json"
    wanted = json.loads(json.dumps({"all": shared, "kinds": kinds}))
    staged = _read_json(path)
    is_same = (
        staged is not None
        and staged.get("all") == wanted["all"]
        and staged.get("kinds", {}).items() >= wanted["kinds"].items()
    )
    if not is_same:
        empty_folder(folder)
    if staged != wanted:
        _write_json(path, wanted)


def _writing_staged(folder: Path) -> contextlib.AbstractContextManager[None]:
    remedy = "Make room or give another --data-dir, and rerun the command to resume."
    return writing_to(folder, remedy, also=(tf.errors.OpError, RuntimeError))


def _empty_unless_begun(folder: Path) -> None:
    if not any(folder.glob("*.done.json")):
        empty_folder(folder)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _read_json(path: Path) -> dict[str, Any] | None:
    """What `_write_json` wrote; None if the file does not exist or is damaged."""
    try:
        content = parse_json(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content))
