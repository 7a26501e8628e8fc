"""Preparing a whole source: check every subject, stage its records, put the shards together.

`prepare` is what `mtseg-prepare` calls. Subjects are processed by as many processes as there are
cores, or on many machines with Apache Beam. `mtseg.records.planning` decides what has to be done,
`mtseg.records.staging` does it for one subject.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from mtseg.errors import InputError
from mtseg.records import WORKER_IMPORTS
from mtseg.records.builder import RecordConfig, TaskBuilder, builder_class
from mtseg.records.planning import (
    Plan,
    announce_memory,
    choose_num_processes,
    find_missing,
    require_room,
)
from mtseg.records.reading import records_dir
from mtseg.records.schema import FILE_FORMATS, KINDS, SPLITS, VERSION
from mtseg.records.shards import link_shards, write_shards
from mtseg.records.staging import (
    Job,
    discard_staging,
    lock_staging,
    records_path,
    stage,
    staged_report,
    staging_dir,
)
from mtseg.sources.checks import SubjectReport, check_reports, check_subject, format_issues
from mtseg.sources.find import find_subjects
from mtseg.system.atomic_files import empty_folder, lock_folder, remove_path
from mtseg.system.processes import run_all, run_on_beam
from mtseg.system.progress import Progress
from mtseg.tasks.task import Task
from mtseg.tasks.task_file import GENERATED


def prepare(
    task: Task,
    source: str,
    data_dir: str | Path,
    *,
    manual_dir: str | Path | None = None,
    kinds: Sequence[str] = KINDS,
    num_shards: int | None = None,
    num_processes: int | None = None,
    beam_runner: str | None = None,
    beam_options: Sequence[str] = (),
    is_overwrite: bool = False,
    **settings: Any,
) -> None:
    """Writes the records of one source of a task: volumes, patches, or both.

    Records that exist already and have the same settings are kept. A preparation that was stopped
    resumes with the remaining subjects.

    Args:
        task: the task.
        source: name of one of its sources.
        data_dir: folder of prepared records.
        manual_dir: folder of the scans; every source needs it, except for the generated phantoms.
        kinds: the kinds of records to write, of `KINDS`.
        num_shards: number of patch shards, among which the records are shuffled; None makes one
            shard for each subject.
        num_processes: number of subjects to prepare at once; None is as many as there are cores,
            and memory for.
        beam_runner: name of an Apache Beam runner, to prepare on its workers instead. They must see
            the scans and `data_dir` under the same paths.
        beam_options: options of the runner, as on Beam's command line.
        is_overwrite: whether to prepare again what exists, and replace it.
        **settings: fields of `mtseg.records.builder.RecordConfig`.

    Raises:
        InputError: if a scan cannot be used, the disk is too full for the records, records with
            other settings exist, or another command is preparing the same source.
    """
    configs = [
        RecordConfig(name=f"{source}_{kind}", source=source, kind=kind, **settings)
        for kind in kinds
    ]
    missing = find_missing(task, data_dir, configs, is_overwrite)
    folder = staging_dir(data_dir, task.name, source)
    if not missing:
        discard_staging(folder)  # left by a command that was killed at its very end
        return
    found = find_subjects(
        task,
        source,
        _require_folder(manual_dir, f"{task.name}:{source}") if source != GENERATED else None,
        num_train=missing[0].num_train,
        num_test=missing[0].num_test,
        validation=missing[0].validation,
    )
    print(f"{task.name}:{source}: {found.describe_split()}", flush=True)
    with lock_staging(folder):
        # Another command may have had the lock and finished since the first look.
        missing = find_missing(task, data_dir, missing, is_overwrite)
        if not missing:
            return
        plan = Plan(task, found, tuple(missing), Path(data_dir))
        if num_processes is None:
            num_processes = choose_num_processes(plan)
        if beam_runner is None:
            announce_memory(plan, min(num_processes, len(found.subjects)))
        _remove_incomplete(plan)
        plan.keep_matching_staged()
        reports = _check_subjects(plan, num_processes)
        require_room(plan, num_shards)
        _stage_subjects(plan, reports, num_processes, beam_runner, beam_options)
        described = [dataclasses.replace(c, subjects=found.split_members()) for c in configs]
        for config in missing:
            builder = builder_class(task, described)(
                data_dir=str(data_dir), config=config.name, file_format=FILE_FORMATS[config.kind]
            )
            _write_records(plan, builder, num_shards if config.kind == "patches" else None)
        empty_folder(folder)


def _require_folder(manual_dir: str | Path | None, spec: str) -> Path | None:
    if manual_dir is None:
        return None  # `find_subjects` says what is missing.
    folder = Path(manual_dir)
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder. Give the folder of scans of {spec}.")
    return folder


def _remove_incomplete(plan: Plan) -> None:
    """Removes folders in which TFDS was writing when a command was killed."""
    for config in plan.configs:
        path = records_dir(plan.data_dir, plan.task.name, config.source, config.kind)
        for left in path.parent.glob(f"incomplete.*_{VERSION}"):  # TFDS's name for them
            shutil.rmtree(left)


def _check_subjects(plan: Plan, num_processes: int) -> list[SubjectReport]:
    """Reads every subject that is not staged yet, and refuses a source that has errors.

    Returns:
        What is known of each subject, in the order of `plan.found`.

    Raises:
        InputError: with the first error. If there are several, all are printed.
    """
    subjects = plan.found.subjects
    reports: dict[str, SubjectReport] = {}
    for subject in subjects:
        if subject.seed is not None:  # A phantom has no files.
            reports[subject.name] = SubjectReport(subject, ())
        elif (report := staged_report(plan.folder, subject)) is not None:
            reports[subject.name] = report
    unread = [subject for subject in subjects if subject.name not in reports]
    if unread:
        read = functools.partial(check_subject, plan.task, plan.found.labels)
        title, done = f"{plan.spec}, checking", len(subjects) - len(unread)
        with Progress(title, len(subjects), "subjects", done) as progress:
            for report in run_all(read, unread, num_processes, WORKER_IMPORTS):
                reports[report.subject.name] = report
                progress.advance(note=report.subject.name)
    ordered = [reports[subject.name] for subject in subjects]
    issues = check_reports(plan.task, plan.found, ordered) if plan.scans else ()
    errors = [issue for issue in issues if issue.is_error]
    if len(errors) == 1:
        raise InputError(errors[0].message)
    if issues:
        print(format_issues(issues), flush=True)
    if errors:
        raise InputError(
            f"{errors[0].message} In all there are {len(errors)} errors, listed above; nothing "
            "was written."
        )
    return ordered


def _stage_subjects(
    plan: Plan,
    reports: Sequence[SubjectReport],
    num_processes: int,
    beam_runner: str | None,
    beam_options: Sequence[str],
) -> None:
    """Prepares every subject that is not staged yet."""
    jobs = [
        Job(plan.task, plan.found.labels, plan.configs, report, plan.folder)
        for report in reports
        if staged_report(plan.folder, report.subject) is None
    ]
    done = len(reports) - len(jobs)
    if done:
        print(f"{plan.spec}: resuming after {done} of {len(reports)} subjects.", flush=True)
    if beam_runner is not None:
        run_on_beam(stage, jobs, beam_runner, beam_options)
        return
    with Progress(plan.spec, len(reports), "subjects", done) as progress:
        for name in run_all(stage, jobs, num_processes, WORKER_IMPORTS):
            progress.advance(note=name)


def _write_records(plan: Plan, builder: TaskBuilder, num_shards: int | None) -> None:
    """Replaces the records of one kind by the staged ones, and describes them as TFDS does."""
    task_dir = plan.folder.parent
    builder.write_splits = functools.partial(_write_splits, plan, num_shards=num_shards)
    tfds.disable_progress_bar()
    # All sources of a task share a file of TFDS's, so only one command may write there at a time.
    # What TFDS prints is about a download, and there is no download.
    with lock_folder(task_dir), contextlib.redirect_stdout(None):
        # Only now, when everything that may fail or takes long is done, are old records removed.
        _remove_records(Path(builder.data_path))
        for left in task_dir.glob(".config/incomplete.*"):
            left.unlink()
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    info = tfds.builder_from_directory(builder.data_path).info
    counts = ", ".join(f"{split.num_examples} {name}" for name, split in info.splits.items())
    kind, megabytes = builder.builder_config.kind, info.dataset_size / 1e6
    print(f"{plan.spec}, {kind}: {counts} records, {megabytes:.0f} MB.", flush=True)


def _write_splits(
    plan: Plan, builder: TaskBuilder, num_shards: int | None
) -> list[tfds.core.SplitInfo]:
    """Puts a builder's shards together from the staged subjects."""
    config = builder.builder_config
    split_infos = []
    for split in SPLITS[config.kind]:
        names = plan.subject_names(split)
        if not names:
            continue
        staged = [records_path(plan.folder, name, config.kind) for name in names]
        template = builder._get_filename_template(split)
        shards = [Path(path) for path in template.sharded_filepaths(num_shards or len(staged))]
        if num_shards is None:
            shard_lengths, num_bytes = link_shards(staged, shards)
        else:
            rng = np.random.default_rng([config.seed, len(names)])
            shard_lengths, num_bytes = write_shards(staged, shards, rng)
        split_infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=shard_lengths,
                num_bytes=num_bytes,
                filename_template=template,
            )
        )
    return split_infos


def _remove_records(path: Path) -> None:
    # The description goes first, so that what an interruption leaves does not look complete.
    (path / "dataset_info.json").unlink(missing_ok=True)
    remove_path(path)
