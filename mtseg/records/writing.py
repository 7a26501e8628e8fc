"""Preparing a whole source: check every subject, prepare it, write the shards.

Subjects are processed by as many processes as there are cores, or on many machines with Apache
Beam.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from mtseg.errors import InputError
from mtseg.records import WORKER_IMPORTS
from mtseg.records.builder import TaskBuilder, builder_class
from mtseg.records.reading import prepared_dir, prepared_settings
from mtseg.records.schema import KINDS, VERSION, RecordConfig
from mtseg.records.staging import (
    Job,
    link_shards,
    lock_staging,
    records_path,
    stage,
    staged_report,
    write_shards,
)
from mtseg.scans.patches import PATCH_SIZE, PLANES
from mtseg.scans.preprocessing import preparation_bytes
from mtseg.scans.reading import open_scan
from mtseg.scans.resampling import resampled_shape
from mtseg.sources.checks import SubjectReport, check_reports, check_subject, format_issues
from mtseg.sources.find import find_subjects
from mtseg.sources.subject import FoundSubjects
from mtseg.system.atomic_files import atomic_write, empty_folder, lock_folder, remove_path
from mtseg.system.hardware import free_bytes, num_cores
from mtseg.system.processes import run_all, run_on_beam
from mtseg.system.progress import Progress
from mtseg.tasks.task import Task
from mtseg.tasks.task_file import GENERATED

_PATCH_RECORD_BYTES = len(PLANES) * PATCH_SIZE**2 * 2 + 150


_VOXEL_BYTES = 5  # a float32 and a class index


def prepare(
    task: Task,
    source: str,
    data_dir: str | Path,
    *,
    manual_dir: str | Path | None = None,
    num_shards: int | None = None,
    num_processes: int | None = None,
    beam_runner: str | None = None,
    beam_options: Sequence[str] = (),
    is_overwrite: bool = False,
    **settings: Any,
) -> None:
    """Writes the patch and volume records of one source of a task.

    Existing records that were made with the same settings are kept. A preparation that was stopped
    resumes with the remaining subjects.

    Args:
        task: the task.
        source: name of one of its sources.
        data_dir: where the records go.
        manual_dir: the folder of scans, for every source but the generated phantoms.
        num_shards: shard files of the patches; None makes one per subject.
        num_processes: subjects prepared at once; None is as many as cores, and memory, allow.
        beam_runner: name of an Apache Beam runner, to prepare on its workers instead. They have to
            see the scans and `data_dir` under the same paths.
        beam_options: its options, as on its command line.
        is_overwrite: replace records that were made with other settings.
        **settings: fields of `mtseg.records.schema.RecordConfig`.

    Raises:
        InputError: if a scan cannot be used, there is no room for the records, or records with
            other settings are there.
    """
    spec = f"{task.name}:{source}"
    configs = [
        RecordConfig(name=f"{source}_{kind}", source=source, kind=kind, **settings)
        for kind in KINDS
    ]
    missing = _missing(task, data_dir, configs, is_overwrite)
    folder = Path(data_dir) / f"mtseg_{task.name}" / f".preparing_{source}"
    if not missing:
        if folder.is_dir():  # of a command killed at its very end, or at work on others
            with contextlib.suppress(InputError), lock_staging(folder):
                empty_folder(folder)
        return
    found = find_subjects(
        task,
        source,
        _existing_folder(spec, manual_dir) if source != GENERATED else None,
        num_train=missing[0].num_train,
        num_test=missing[0].num_test,
    )
    with lock_staging(folder):
        # Whoever held it before may have finished meanwhile.
        missing = _missing(task, data_dir, missing, is_overwrite)
        if not missing:
            return
        preparing = _Preparation(task, found, missing, Path(data_dir), folder)
        if num_processes is None:
            num_processes = preparing.affordable_processes()
        preparing.clean()
        reports = preparing.check(num_processes)
        preparing.check_room(num_shards)
        preparing.stage(reports, num_processes, beam_runner, beam_options)
        for config in missing:
            builder = builder_class(task, configs)(data_dir=str(data_dir), config=config.name)
            shards = num_shards if config.kind == "patches" else None
            builder.write_splits = functools.partial(preparing.write_splits, num_shards=shards)
            download_config = tfds.download.DownloadConfig(
                manual_dir=None if manual_dir is None else str(manual_dir), try_download_gcs=False
            )
            tfds.disable_progress_bar()
            # What TFDS notes of a task's sources is one file: one command at a time writes there.
            # It announces a download, which there is none of.
            with lock_folder(folder.parent), contextlib.redirect_stdout(None):
                # What is replaced stays until all that may be refused or takes long is behind.
                _remove_records(Path(builder.data_path))
                for left in folder.parent.glob(".config/incomplete.*"):
                    left.unlink()
                builder.download_and_prepare(download_config=download_config)
            info = tfds.builder_from_directory(builder.data_path).info
            counts = ", ".join(f"{s.num_examples} {name}" for name, s in info.splits.items())
            written = info.dataset_size / 1e6
            print(f"{spec}, {config.kind}: {counts} records, {written:.0f} MB.", flush=True)
        empty_folder(folder)


class _Preparation:
    """One source on its way to records."""

    def __init__(
        self,
        task: Task,
        found: FoundSubjects,
        configs: Sequence[RecordConfig],
        data_dir: Path,
        folder: Path,
    ) -> None:
        self._task, self._found, self._configs = task, found, tuple(configs)
        self._data_dir, self._folder = data_dir, folder
        self._spec = f"{task.name}:{found.labels.name}"
        self._scans = [s for s in found.subjects if s.seed is None]

    def affordable_processes(self) -> int:
        """As many as there are cores, but no more than have room in the free memory."""
        needed = [200_000_000]
        for subject in self._scans:
            with contextlib.suppress(InputError):  # said by the check, with all others
                spacing_mm = self._task.target_spacing_mm(open_scan(_image(subject)).spacing_mm)
                needed.append(preparation_bytes(_image(subject), spacing_mm))
        return max(1, min(num_cores(), int(0.7 * free_bytes() / max(needed))))

    def clean(self) -> None:
        """Removes what a killed command has left, and what was staged with other settings."""
        for config in self._configs:
            parent = self._data_dir / f"mtseg_{self._task.name}" / config.name
            for left in parent.glob(f"incomplete.*_{VERSION}"):  # as TFDS names them
                shutil.rmtree(left)
        of_all = {
            "version": VERSION,
            "source": repr(self._found.labels),
            "classes": list(self._task.class_names),
            "spacing": [self._task.spacing_rule, self._task.spacing_mm],
        }
        of_kinds = {config.kind: config.settings() for config in self._configs}
        wanted = json.loads(json.dumps({"all": of_all, "kinds": of_kinds}))
        path = self._folder / "settings.json"
        try:
            staged = json.loads(path.read_text())
        except (FileNotFoundError, ValueError):
            staged = {}
        same = staged.get("all") == wanted["all"]
        same = same and staged["kinds"].items() >= wanted["kinds"].items()
        if not same:
            empty_folder(self._folder)
        if staged != wanted:
            # Kinds that are in place by now are not kept up to date from here on.
            with atomic_write(path) as temporary:
                temporary.write_text(json.dumps(wanted))

    def check(self, num_processes: int) -> list[SubjectReport]:
        """Reads every subject that is not staged yet, and refuses a source with errors."""
        reports: dict[str, SubjectReport] = {}
        for subject in self._found.subjects:
            if subject.seed is not None:
                reports[subject.name] = SubjectReport(subject, ())
            elif (report := staged_report(self._folder, subject)) is not None:
                reports[subject.name] = report
        left = [s for s in self._found.subjects if s.name not in reports]
        read = functools.partial(check_subject, self._task, self._found.labels)
        done = len(self._found.subjects) - len(left)
        if left:
            title = f"{self._spec}, checking"
            with Progress(title, len(self._found.subjects), "subjects", done) as progress:
                for report in run_all(read, left, num_processes, WORKER_IMPORTS):
                    reports[report.subject.name] = report
                    progress.advance(note=report.subject.name)
        ordered = [reports[subject.name] for subject in self._found.subjects]
        issues = check_reports(self._task, self._found, ordered) if self._scans else ()
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

    def check_room(self, num_shards: int | None) -> None:
        """Says how much will be written, and refuses a disk that has no room for it.

        Raises:
            InputError: if there is too little.
        """
        final = self._estimate_bytes()
        staged = sum(path.stat().st_size for path in self._folder.glob("*.tfrecord"))
        # Finished records stand beside the shards that they are dealt out to.
        needed = max(final * (1 if num_shards is None else 2) - staged, 0)
        free = shutil.disk_usage(self._folder).free
        print(
            f"{self._spec}: up to {final / 1e6:.0f} MB of records will be written; "
            f"{free / 1e9:.1f} GB are free.",
            flush=True,
        )
        if needed > free:
            raise InputError(
                f"{self._data_dir}: has {free / 1e9:.1f} GB free, where preparing {self._spec} "
                f"takes {needed / 1e9:.1f} GB. Make room, give another --data-dir, or run "
                "mtseg-prepare with fewer --patches-per-class."
            )

    def _estimate_bytes(self) -> int:
        """What the records will take at most; of phantoms only the patches, which are the most."""
        train = sum(s.split == "train" for s in self._found.subjects)
        total = 0
        for config in self._configs:
            if config.kind == "patches":
                per_subject = self._task.num_classes * config.patches_per_class
                total += train * per_subject * _PATCH_RECORD_BYTES
                continue
            for subject in self._scans:
                scan = open_scan(_image(subject))
                new_mm = self._task.target_spacing_mm(scan.spacing_mm)
                shape = resampled_shape(scan.shape, scan.spacing_mm, new_mm) or scan.shape
                total += math.prod(shape) * _VOXEL_BYTES
        return total

    def stage(
        self,
        reports: Sequence[SubjectReport],
        num_processes: int,
        beam_runner: str | None,
        beam_options: Sequence[str],
    ) -> None:
        """Prepares every subject that is not staged yet."""
        jobs = [
            Job(self._task, self._found.labels, self._configs, report, self._folder)
            for report in reports
            if staged_report(self._folder, report.subject) is None
        ]
        done = len(reports) - len(jobs)
        if done:
            print(f"{self._spec}: resuming after {done} of {len(reports)} subjects.", flush=True)
        if beam_runner is not None:
            run_on_beam(stage, jobs, beam_runner, beam_options)
            return
        with Progress(self._spec, len(reports), "subjects", done) as progress:
            for name in run_all(stage, jobs, num_processes, WORKER_IMPORTS):
                progress.advance(note=name)

    def write_splits(
        self, builder: TaskBuilder, num_shards: int | None
    ) -> list[tfds.core.SplitInfo]:
        """Puts a builder's shards together from the staged subjects."""
        config = builder.builder_config
        is_patches = config.kind == "patches"
        split_infos = []
        for split in ("train",) if is_patches else ("train", "test"):
            names = [s.name for s in self._found.subjects if s.split == split]
            sources = [records_path(self._folder, name, config.kind) for name in names]
            template = builder._get_filename_template(split)
            shards = template.sharded_filepaths(num_shards or len(sources))
            if num_shards is None:
                lengths, num_bytes = link_shards(sources, [Path(shard) for shard in shards])
            else:
                order = np.random.default_rng([config.seed, len(names)])
                lengths, num_bytes = write_shards(sources, [Path(shard) for shard in shards], order)
            split_infos.append(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=lengths,
                    num_bytes=num_bytes,
                    filename_template=template,
                )
            )
        return split_infos


def _image(subject: Any) -> str:
    assert subject.image_path is not None
    return subject.image_path


def _missing(
    task: Task, data_dir: str | Path, configs: Sequence[RecordConfig], is_overwrite: bool
) -> list[RecordConfig]:
    """Which of the records have to be prepared; of the others it is said that they are there."""
    missing = []
    for config in configs:
        if _is_prepared(task, data_dir, config, is_overwrite):
            spec = f"{task.name}:{config.source}"
            print(f"{spec}: {config.kind} are there already in {data_dir}.", flush=True)
        else:
            missing.append(config)
    return missing


def _is_prepared(
    task: Task, data_dir: str | Path, config: RecordConfig, is_overwrite: bool
) -> bool:
    try:
        path = prepared_dir(data_dir, task.name, config.source, config.kind)
    except InputError:
        return False
    if is_overwrite:
        return False
    there, wanted = prepared_settings(path), config.settings()
    different = [f"{k}: {there.get(k)} / {wanted[k]}" for k in wanted if there.get(k) != wanted[k]]
    if different:
        raise InputError(
            f"{path}: was prepared with other settings (there / now: {'; '.join(different)}). "
            "Give another --data-dir, or replace it: mtseg-prepare with --overwrite."
        )
    return True


def _remove_records(path: Path) -> None:
    # Their description first, so that a part of them is not taken for all.
    (path / "dataset_info.json").unlink(missing_ok=True)
    remove_path(path)


def _existing_folder(spec: str, manual_dir: str | Path | None) -> Path | None:
    if manual_dir is None:
        return None
    folder = Path(manual_dir)
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder. Give the folder of scans of {spec}.")
    return folder
