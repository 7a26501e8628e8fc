"""Preparing one subject, and assembling the finished subjects into shards.

Each subject is prepared once, by any process, into files of its own; a file that marks it as done
is written last. So a stopped preparation resumes with the remaining subjects, and the result does
not depend on the number of processes. In the end each subject's file becomes one shard, or its
records are distributed over the number of shards that the user asked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mtseg.errors import InputError
from mtseg.records.examples import prepared_examples
from mtseg.records.framing import FRAME_BYTES, list_frames
from mtseg.records.schema import RecordConfig, encode_record
from mtseg.sources.checks import SubjectReport
from mtseg.sources.reading import prepare_subject
from mtseg.sources.subject import Subject
from mtseg.system.atomic_files import atomic_write, empty_folder, lock_folder, writing_to
from mtseg.tasks.task import LabelSource, Task


@dataclasses.dataclass(frozen=True)
class Job:
    """A subject to prepare.

    Attributes:
        task: its task.
        labels: its source.
        configs: the kinds of records to make of it.
        report: what checking it has shown.
        folder: where its files go.
    """

    task: Task
    labels: LabelSource
    configs: tuple[RecordConfig, ...]
    report: SubjectReport
    folder: Path


def stage(job: Job) -> str:
    """Prepares a subject and writes its records; returns its name.

    Raises:
        InputError: if a file of it cannot be used, or the disk is full.
    """
    subject = job.report.subject
    (config, *_) = job.configs
    before = _fingerprint(subject)
    prepared = prepare_subject(job.task, job.labels, subject, size=config.size)
    with _writing(job.folder):
        for config in job.configs:
            if config.kind == "patches" and subject.split != "train":
                continue
            path = records_path(job.folder, subject.name, config.kind)
            path.unlink(missing_ok=True)  # It may be linked: a shard, which is not to be changed.
            with tf.io.TFRecordWriter(str(path)) as writer:
                for _, example in prepared_examples(job.task, config, prepared):
                    writer.write(encode_record(example))
        done = {
            "files": before,
            "digest": job.report.checksum,
            "num_voxels": job.report.num_voxels,
        }
        with atomic_write(_done_path(job.folder, subject.name)) as temporary:
            temporary.write_text(json.dumps(done))
    return subject.name


def _writing(folder: Path) -> contextlib.AbstractContextManager[None]:
    remedy = "Make room or give another --data-dir, and rerun the command to resume."
    return writing_to(folder, remedy, also=(tf.errors.OpError,))


def staged_report(folder: Path, subject: Subject) -> SubjectReport | None:
    """What checking a subject has shown, if it has been prepared and its files are the same."""
    try:
        done = json.loads(_done_path(folder, subject.name).read_text())
    except (OSError, ValueError):
        return None
    if done["files"] != _fingerprint(subject):
        return None
    return SubjectReport(subject, (), done["digest"], tuple(done["num_voxels"]))


def records_path(folder: Path, name: str, kind: str) -> Path:
    """The file of a subject's finished records of a kind."""
    return folder / f"{name}.{kind}.tfrecord"


def _done_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.done.json"


def _fingerprint(subject: Subject) -> list[list[Any]]:
    """What changes if a subject's files do; nothing for a phantom.

    Raises:
        InputError: if one of them is gone.
    """
    found = []
    for path in (subject.image_path, subject.label_path):
        files = [] if path is None else [Path(path)]
        try:
            if path is not None and Path(path).is_dir():
                files = sorted(Path(path).iterdir())
            for file in files:
                status = file.stat()
                found.append([str(file), status.st_size, status.st_mtime_ns])
        except OSError as error:
            raise InputError(
                f"{error.filename}: can no longer be read ({error.strerror}). Bring it back, or "
                "take the subject out."
            ) from error
    return found


def link_shards(sources: Sequence[Path], shards: Sequence[Path]) -> tuple[list[int], int]:
    """Makes every subject's file of records a shard, without copying it where the disk can.

    Returns:
        As `write_shards`.
    """
    lengths, num_bytes = [], 0
    for source, shard in zip(sources, shards, strict=True):
        try:
            os.link(source, shard)
        except OSError:  # not every disk has links
            shutil.copyfile(source, shard)
        with source.open("rb") as file:
            sizes = [size - FRAME_BYTES for _, size in list_frames(file.fileno())]
        lengths.append(len(sizes))
        num_bytes += sum(sizes)
    return lengths, num_bytes


def write_shards(
    sources: Sequence[Path], shards: Sequence[Path], order: np.random.Generator
) -> tuple[list[int], int]:
    """Puts shards together from files of records.

    Args:
        sources: files of records.
        shards: files to write; records are divided equally among them.
        order: shuffles the records.

    Returns:
        How many records each shard has, and the bytes of all of them without their framing.
    """
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(path.open("rb")).fileno() for path in sources]
        frames = [np.array(list(list_frames(file)), np.int64).reshape(-1, 2) for file in files]
        number = np.repeat(np.arange(len(files)), [len(f) for f in frames])
        offset, size = np.concatenate(frames).T
        parts = np.array_split(order.permutation(len(number)), len(shards))
        for path, part in zip(shards, parts, strict=True):
            with path.open("wb", buffering=2**22) as shard:
                for n in part.tolist():
                    shard.write(os.pread(files[number[n]], size[n], offset[n]))
    return [len(part) for part in parts], int((size - FRAME_BYTES).sum())


@contextlib.contextmanager
def lock_staging(folder: Path) -> Iterator[None]:
    """Makes a folder for staging and holds it: of two commands on it the second is refused.

    A folder in which no subject is finished is emptied, and an empty one is not left behind.

    Raises:
        InputError: if another process holds it, or something in it cannot be written.
    """
    refusal = f"{folder.parent}: another command is preparing the same source here. Wait for it."
    with _writing(folder), contextlib.ExitStack() as stack:
        folder.mkdir(parents=True, exist_ok=True)
        stack.callback(_remove_if_empty, folder)  # after its lock has gone
        stack.enter_context(lock_folder(folder, refusal))
        stack.callback(_empty_unless_begun, folder)
        yield


def _empty_unless_begun(folder: Path) -> None:
    if not any(folder.glob("*.done.json")):
        empty_folder(folder)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
