"""Staging: the records of one subject in files of its own, before they become shards.

Each subject is prepared by one call of `stage`, in any process. It writes the subject's records
and, last, a file that marks the subject as done. So a stopped preparation resumes with the
remaining subjects, and the records do not depend on the number of processes. The folder
`DATA_DIR/mtseg_TASK/.preparing_SOURCE` has:

- `NAME.patches.tfrecord`, `NAME.volumes.array_record`: the records of a subject;
- `NAME.done.json`: its files as they were when they were read, and what checking them found;
- `NAME.checked.json`: on Beam, the issues that a worker found in its files;
- `settings.json`: the settings of all of them;
- `records/`: new records of the whole source, until they replace the old ones.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from mtseg.errors import InputError
from mtseg.provenance.file_state import FileState
from mtseg.provenance.fingerprint import (
    Fingerprint,
    SubjectPrint,
    describe_subject,
    read_subject,
)
from mtseg.records.builder import RecordConfig, make_records
from mtseg.records.schema import FILE_FORMATS, SPLITS, encode_record
from mtseg.records.shards import (
    ARRAY_RECORD,
    link_shards,
    shuffle_rng,
    unshuffle_shards,
    write_array_record,
)
from mtseg.sources.checks import SubjectReport, check_subject
from mtseg.sources.reading import prepare_subject
from mtseg.sources.subject import Issue, Subject
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
        report: what checking its files has found; before that, the subject alone.
        folder: the staging folder.
    """

    task: Task
    labels: LabelSource
    configs: tuple[RecordConfig, ...]
    report: SubjectReport
    folder: Path


def check_files(task: Task, labels: LabelSource, subject: Subject) -> SubjectReport:
    """As `check_subject`; notes the states of the files: `stage` prepares only what was checked."""
    files: tuple[FileState | None, ...] = ()
    with contextlib.suppress(InputError):  # if one is missing, the report says it
        files = describe_subject(subject).files
    return dataclasses.replace(check_subject(task, labels, subject), files=files)


def check_and_stage(job: Job) -> None:
    """Checks a subject and, if its files have no error, stages it.

    For workers whose results come back as files alone: `checked_report` reads what was found.

    Raises:
        InputError: as `stage`.
    """
    subject = job.report.subject
    if subject.seed is None:  # a phantom has no files
        job = dataclasses.replace(job, report=check_files(job.task, job.labels, subject))
    found = {
        "issues": [dataclasses.asdict(issue) for issue in job.report.issues],
        "checksum": job.report.checksum,
        "num_voxels": job.report.num_voxels,
    }
    with _writing_staged(job.folder):
        _write_json(_checked_path(job.folder, subject.name), found)
    if not any(issue.is_error for issue in job.report.issues):
        stage(job)


def checked_report(folder: Path, subject: Subject) -> SubjectReport | None:
    """What `check_and_stage` found in a subject's files; None if it has not checked them."""
    found = _read_json(_checked_path(folder, subject.name))
    if found is None:
        return None
    issues = tuple(Issue(**issue) for issue in found["issues"])
    return SubjectReport(subject, issues, found["checksum"], tuple(found["num_voxels"]))


def stage(job: Job) -> str:
    """Prepares a subject and writes its records, of each kind that its split has.

    Returns:
        The subject's name.

    Raises:
        InputError: if one of its files cannot be used or was changed since it was checked, or the
            disk is full.
    """
    subject = job.report.subject
    # Before they are read, so that a later change is noticed.
    described = describe_subject(subject)
    for checked, now in zip(job.report.files, described.files, strict=False):
        if checked and now and not checked.looks_like(now):
            raise InputError(f"{now.path}: was changed since it was checked. Rerun the command.")
    files = [state and state.with_checksum() for state in described.files]
    prepared = prepare_subject(job.task, job.labels, subject, size=job.configs[0].size)
    with _writing_staged(job.folder):
        for config in job.configs:
            path = records_path(job.folder, subject.name, config.kind)
            # A shard may be a hard link to the old file. Writing to it would change the shard.
            path.unlink(missing_ok=True)
            if subject.split not in SPLITS[config.kind]:
                continue
            encoded = (encode_record(r) for _, r in make_records(job.task, config, prepared))
            if FILE_FORMATS[config.kind] == ARRAY_RECORD:
                write_array_record(path, encoded)
                continue
            with tf.io.TFRecordWriter(str(path)) as writer:
                for record in encoded:
                    writer.write(record)
        done = dataclasses.replace(
            described,
            image=files[0],
            label_map=files[1],
            scan_checksum=job.report.checksum,
            num_voxels=job.report.num_voxels,
        )
        _mark_as_done(job.folder, done)
    return subject.name


def staged_subject(
    folder: Path, subject: Subject, configs: Sequence[RecordConfig]
) -> SubjectPrint | None:
    """What is known of a subject, if it is staged and its files have not changed since.

    Args:
        folder: the staging folder.
        subject: the subject.
        configs: the kinds of records that are wanted. A subject whose split has changed may lack
            some that its new split has.

    Returns:
        None if the subject has to be prepared.

    Raises:
        InputError: if one of its files no longer exists.
    """
    try:
        done = read_subject(_read_json(_done_path(folder, subject.name)) or {})
    except (TypeError, ValueError):
        return None
    kinds = [config.kind for config in configs if subject.split in SPLITS[config.kind]]
    if not all(records_path(folder, subject.name, kind).exists() for kind in kinds):
        return None
    now = describe_subject(subject)
    for before, state in zip(done.files, now.files, strict=True):
        if before is not state and not (before and state and before.looks_like(state)):
            return None
    return dataclasses.replace(done, split=subject.split) if done.seed == now.seed else None


def staged_report(
    folder: Path, subject: Subject, configs: Sequence[RecordConfig]
) -> SubjectReport | None:
    """What checking a subject found, if `staged_subject` knows it."""
    done = staged_subject(folder, subject, configs)
    if done is None:
        return None
    return SubjectReport(subject, (), done.scan_checksum, done.num_voxels)


def records_path(folder: Path, name: str, kind: str) -> Path:
    """The file of a subject's staged records of one kind."""
    return folder / f"{name}.{kind}.{FILE_FORMATS[kind]}"


def _done_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.done.json"


def _checked_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.checked.json"


def _mark_as_done(folder: Path, subject: SubjectPrint) -> None:
    _write_json(_done_path(folder, subject.name), dataclasses.asdict(subject))


# Subjects that were prepared before.


@dataclasses.dataclass(frozen=True)
class ExistingRecords:
    """Records of one kind from which unchanged subjects can be taken.

    Attributes:
        config: the kind and its settings, which are those that the records were made with.
        folder: of the records.
        before: their fingerprint.
        now: the fingerprint that new records would have, with checksums.
    """

    config: RecordConfig
    folder: Path
    before: Fingerprint
    now: Fingerprint


def stage_existing(folder: Path, existing: Sequence[ExistingRecords]) -> int:
    """Stages every subject that has not changed, without reading its scan.

    Args:
        folder: the staging folder, locked.
        existing: the records of each kind that is to be prepared.

    Returns:
        The number of such subjects, also if they were staged already.
    """
    if not existing or not all(map(_has_all_shards, existing)):
        return 0
    chosen = _unchanged_subjects(existing)
    with _writing_staged(folder):
        missing = [subject for subject in chosen if not _done_path(folder, subject.name).exists()]
        for records in existing:
            _restore_files(folder, records, {subject.name for subject in missing})
        for subject in missing:
            _mark_as_done(folder, subject)
    return len(chosen)


def _unchanged_subjects(existing: Sequence[ExistingRecords]) -> list[SubjectPrint]:
    """The subjects whose records of every kind, as far as they need one, exist already."""
    unchanged = []
    before = [{s.name: s for s in records.before.subjects} for records in existing]
    for subject in existing[0].now.subjects:
        old = [of_kind.get(subject.name) for of_kind in before]
        if all(
            found is not None
            and found.has_same_files(subject)
            and (found.split in splits or subject.split not in splits)
            for found, splits in zip(old, (SPLITS[r.config.kind] for r in existing), strict=True)
        ):
            unchanged.append(dataclasses.replace(subject, num_records=0))
    return unchanged


def _has_all_shards(records: ExistingRecords) -> bool:
    num_shards = records.before.settings.get("num_shards")
    return all(
        len(_find_shards(records, split)) == (num_shards or len(records.before.of_splits(split)))
        for split in SPLITS[records.config.kind]
    )


def _find_shards(records: ExistingRecords, split: str) -> list[Path]:
    return sorted(records.folder.glob(f"*-{split}.*-of-*"))


def _restore_files(folder: Path, records: ExistingRecords, names: set[str]) -> None:
    """Makes the staged files of some subjects from existing shards."""
    kind, num_shards = records.config.kind, records.before.settings.get("num_shards")
    for split in SPLITS[kind]:
        subjects = records.before.of_splits(split)
        shards = _find_shards(records, split)
        files = [
            records_path(folder, subject.name, kind) if subject.name in names else None
            for subject in subjects
        ]
        for path in filter(None, files):
            path.unlink(missing_ok=True)
        if num_shards is None:
            pairs = [(s, file) for s, file in zip(shards, files, strict=True) if file]
            link_shards([shard for shard, _ in pairs], [file for _, file in pairs])
        else:
            rng = shuffle_rng(records.config.seed, len(subjects))
            unshuffle_shards(shards, files, [s.num_records for s in subjects], rng)


# The staging folder.


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
