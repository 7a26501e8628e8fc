"""Preparing a whole source: check every subject, stage its records, put the shards together.

`prepare` is what `mtseg-prepare` calls. Subjects are processed by as many processes as there are
cores, or on many machines with Apache Beam. `mtseg.records.planning` decides what has to be done,
`mtseg.records.staging` does it for one subject.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from mtseg.errors import InputError
from mtseg.provenance.fingerprint import Fingerprint
from mtseg.provenance.same_scans import find_same_scans, show_same_scans
from mtseg.records import WORKER_IMPORTS
from mtseg.records.builder import RecordConfig, TaskBuilder, builder_class
from mtseg.records.planning import (
    Plan,
    Request,
    announce_kept,
    announce_memory,
    choose_num_processes,
    make_plan,
    read_siblings,
    require_room,
)
from mtseg.records.prepared import (
    finish_replacing_records,
    records_dir,
    replacement_plan,
    staging_dir,
)
from mtseg.records.schema import FILE_FORMATS, KINDS, SPLITS
from mtseg.records.shards import count_records, link_shards, shuffle_rng, write_shards
from mtseg.records.staging import (
    Job,
    check_and_stage,
    check_files,
    checked_report,
    discard_staging,
    lock_staging,
    records_path,
    stage,
    stage_existing,
    staged_report,
    staged_subject,
)
from mtseg.sources.checks import SubjectReport, check_reports, format_issues
from mtseg.sources.find import find_subjects
from mtseg.system.atomic_files import empty_folder, lock_folder, remove_path
from mtseg.system.processes import run_all, run_on_beam
from mtseg.system.progress import Progress
from mtseg.system.replacing import replace_together
from mtseg.tasks.task import Task, first_ten
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
    is_update: bool = False,
    is_overwrite: bool = False,
    also: Sequence[str] = (),
    **settings: Any,
) -> None:
    """Writes the records of one source of a task: volumes, patches, or both.

    Records that exist already are compared with the scans, the task and the settings, and kept if
    nothing differs. A preparation that was stopped resumes with the remaining subjects.

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
        beam_runner: name of an Apache Beam runner, to check and prepare subjects on its workers
            instead. They must see the scans and `data_dir` under the same paths.
        beam_options: options of the runner, as on Beam's command line.
        is_update: whether to bring records up to date that were made from other data. Subjects that
            have not changed are taken from them; the others are read.
        is_overwrite: whether to prepare again what exists, and replace it.
        also: other sources of the task that are prepared after this one. Their old records are
            not searched for the same scans.
        **settings: fields of `mtseg.records.builder.RecordConfig`.

    Raises:
        InputError: if a scan cannot be used, the disk is too full for the records, records of other
            data or settings exist, a scan is on the other side of the split in another source, or
            another command is preparing the same source.
    """
    configs = [
        RecordConfig(name=f"{source}_{kind}", source=source, kind=kind, **settings)
        for kind in kinds
    ]
    spec, folder = f"{task.name}:{source}", staging_dir(data_dir, task.name, source)
    finish_replacing_records(folder)
    scans_dir = None if source == GENERATED else _require_folder(manual_dir, spec)
    is_complete = all(
        (records_dir(data_dir, task.name, source, kind) / "dataset_info.json").is_file()
        for kind in kinds
    )
    found = None
    is_needed = is_update or is_overwrite or not is_complete
    if source == GENERATED or manual_dir is not None or is_needed:
        found = find_subjects(
            task,
            source,
            scans_dir,
            num_train=configs[0].num_train,
            num_test=configs[0].num_test,
            validation=configs[0].validation,
        )
    request = Request(
        task,
        source,
        found,
        scans_dir,
        Path(data_dir),
        tuple(configs),
        num_shards,
        is_update,
        is_overwrite,
    )
    plan = make_plan(request)
    if not plan.configs:
        announce_kept(plan)
        discard_staging(folder)  # left by a command that was killed at its very end
        return
    with lock_staging(folder):
        # Another command may have had the lock and finished since the first look.
        plan = make_plan(request)
        announce_kept(plan)
        if not plan.configs:
            return
        print(f"{spec}: {plan.found.describe_split()}", flush=True)
        if num_processes is None:
            num_processes = choose_num_processes(plan)
        if beam_runner is None:
            announce_memory(plan, min(num_processes, len(plan.found.subjects)))
        plan.keep_matching_staged()
        num_kept = stage_existing(plan.folder, plan.existing)
        if num_kept:
            print(
                f"{spec}: {num_kept} of {len(plan.found.subjects)} subjects have not changed and "
                "are taken from the existing records.",
                flush=True,
            )
        if beam_runner is None:
            reports = _check_subjects(plan, num_processes)
            _refuse_same_scans(plan, reports, also)
            require_room(plan)
            _stage_subjects(plan, reports, num_processes, num_kept)
        else:
            require_room(plan)
            reports = _check_and_stage_on_beam(plan, beam_runner, beam_options)
            _refuse_same_scans(plan, reports, also)
        _write_records(plan)
        empty_folder(folder)


def _require_folder(manual_dir: str | Path | None, spec: str) -> Path | None:
    if manual_dir is None:
        return None  # `find_subjects` says what is missing.
    folder = Path(manual_dir)
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder. Give the folder of scans of {spec}.")
    return folder


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
        elif (report := staged_report(plan.folder, subject, plan.configs)) is not None:
            reports[subject.name] = report
    unread = [subject for subject in subjects if subject.name not in reports]
    if unread:
        read = functools.partial(check_files, plan.task, plan.found.labels)
        title, done = f"{plan.spec}, checking", len(subjects) - len(unread)
        with Progress(title, len(subjects), "subjects", done) as progress:
            for report in run_all(read, unread, num_processes, WORKER_IMPORTS):
                reports[report.subject.name] = report
                progress.advance(note=report.subject.name)
    ordered = [reports[subject.name] for subject in subjects]
    _refuse_errors(plan, ordered)
    return ordered


def _check_and_stage_on_beam(
    plan: Plan, beam_runner: str, beam_options: Sequence[str]
) -> list[SubjectReport]:
    """Has workers check each subject and prepare it at once; refuses a source that has errors.

    Subjects without an error stay staged, so rerunning the command reads only the others.

    Returns:
        As `_check_subjects`.

    Raises:
        InputError: as `_check_subjects`.
    """
    subjects = plan.found.subjects
    jobs = _remaining_jobs(plan, [SubjectReport(subject, ()) for subject in subjects])
    run_on_beam(check_and_stage, jobs, beam_runner, beam_options)
    checked = {job.report.subject for job in jobs}  # findings on others are of an earlier call
    known = [
        report
        for subject in subjects
        if (report := checked_report(plan.folder, subject) if subject in checked else None)
        or (report := staged_report(plan.folder, subject, plan.configs))
    ]
    if len(known) < len(subjects):
        raise InputError(
            f"{plan.folder}: the workers of {beam_runner} left nothing here. They must see the "
            "scans and --data-dir under the same paths."
        )
    _refuse_errors(plan, known)
    return known


def _refuse_errors(plan: Plan, reports: Sequence[SubjectReport]) -> None:
    """Prints what is wrong with a source's subjects.

    Raises:
        InputError: with the first error, if there are any.
    """
    issues = check_reports(plan.task, plan.found, reports) if plan.request.manual_dir else ()
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


def _refuse_same_scans(plan: Plan, reports: Sequence[SubjectReport], also: Sequence[str]) -> None:
    """Refuses a scan that another source of the task has on the other side of the split."""
    here = plan.request.fingerprint(plan.configs[0])
    scans = {report.subject.name: report.checksum for report in reports}
    subjects = tuple(
        dataclasses.replace(subject, scan_checksum=scans[subject.name]) for subject in here.subjects
    )
    here = dataclasses.replace(here, subjects=subjects)
    siblings = [p for p in read_siblings(plan.request) if p.source["name"] not in also]
    if found := [*find_same_scans([here], siblings), *find_same_scans(siblings, [here])]:
        raise InputError(
            f"{plan.request.manual_dir}: the same scan is on both sides of the split: "
            f"{show_same_scans(found)}. Keep it on one side, or leave one of the two out."
        )


def _stage_subjects(
    plan: Plan, reports: Sequence[SubjectReport], num_processes: int, num_kept: int
) -> None:
    """Prepares every subject that is not staged yet."""
    jobs = _remaining_jobs(plan, reports)
    done = len(reports) - len(jobs)
    if done > num_kept:
        print(f"{plan.spec}: resuming after {done} of {len(reports)} subjects.", flush=True)
    with Progress(plan.spec, len(reports), "subjects", done) as progress:
        for name in run_all(stage, jobs, num_processes, WORKER_IMPORTS):
            progress.advance(note=name)


def _remaining_jobs(plan: Plan, reports: Sequence[SubjectReport]) -> list[Job]:
    """A job for each subject that is not staged yet."""
    return [
        Job(plan.task, plan.found.labels, plan.configs, report, plan.folder)
        for report in reports
        if staged_report(plan.folder, report.subject, plan.configs) is None
    ]


def _write_records(plan: Plan) -> None:
    """Writes the records of all kinds, and replaces the old ones by them."""
    # Also what a killed command has left there.
    written, task_dir = plan.folder / "records", plan.folder.parent
    remove_path(written)
    builders = [_write_kind(plan, config, written) for config in plan.configs]
    new_files = [
        *(Path(builder.data_path) for builder in builders),
        written / task_dir.name / ".config" / "metadata.json",
    ]
    moves = [(path, task_dir / path.relative_to(written / task_dir.name)) for path in new_files]
    # All sources of a task share a file of TFDS's, so only one command may write there at a time.
    with lock_folder(task_dir):
        replace_together(replacement_plan(plan.folder), moves)
    for builder in builders:
        info, kind = builder.info, builder.builder_config.kind
        counts = ", ".join(f"{split.num_examples} {name}" for name, split in info.splits.items())
        print(
            f"{plan.spec}, {kind}: {counts} records, {info.dataset_size / 1e6:.0f} MB.", flush=True
        )


def _write_kind(plan: Plan, config: RecordConfig, folder: Path) -> TaskBuilder:
    """Writes the staged records of one kind, and describes them as TFDS does."""
    members = plan.found.split_members()
    described = [dataclasses.replace(c, subjects=members) for c in plan.request.configs]
    builder = builder_class(plan.task, described)(
        data_dir=str(folder), config=config.name, file_format=FILE_FORMATS[config.kind]
    )
    num_shards = plan.request.num_shards if config.kind == "patches" else None
    builder.write_splits = functools.partial(_write_splits, plan, num_shards=num_shards)
    tfds.disable_progress_bar()
    # What TFDS prints is about a download, and there is no download.
    with contextlib.redirect_stdout(None):
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    return builder


def _write_splits(
    plan: Plan, builder: TaskBuilder, num_shards: int | None
) -> list[tfds.core.SplitInfo]:
    """Puts a builder's shards together from the staged subjects."""
    config = builder.builder_config
    split_infos = []
    num_records: dict[str, int] = {}
    for split in SPLITS[config.kind]:
        names = plan.found.names_of_split(split)
        if not names:
            continue
        staged = [records_path(plan.folder, name, config.kind) for name in names]
        template = builder._get_filename_template(split)
        shards = [Path(path) for path in template.sharded_filepaths(num_shards or len(staged))]
        if num_shards is None:
            shard_lengths, num_bytes = link_shards(staged, shards)
            num_records |= zip(names, shard_lengths, strict=True)
        else:
            num_records |= zip(names, map(count_records, staged), strict=True)
            rng = shuffle_rng(config.seed, len(names))
            shard_lengths, num_bytes = write_shards(staged, shards, rng)
        split_infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=shard_lengths,
                num_bytes=num_bytes,
                filename_template=template,
            )
        )
    _describe_staged(plan, config, num_records).write(Path(builder.data_path))
    return split_infos


def _describe_staged(
    plan: Plan, config: RecordConfig, num_records: Mapping[str, int]
) -> Fingerprint:
    """The fingerprint of the staged records."""
    staged = {
        subject.name: staged_subject(plan.folder, subject, plan.configs)
        for subject in plan.found.subjects
    }
    if lost := [name for name, subject in staged.items() if subject is None]:
        raise InputError(
            f"{plan.request.manual_dir}: files of {first_ten(lost)} changed while they were "
            "prepared. Rerun the command: it prepares these subjects again."
        )
    subjects = tuple(
        dataclasses.replace(subject, num_records=num_records.get(subject.name, 0))
        for subject in staged.values()
        if subject is not None
    )
    return dataclasses.replace(plan.request.fingerprint(config), subjects=subjects)
