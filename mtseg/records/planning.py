"""What one preparation has to do, and whether memory and disk are enough for it.

`find_missing` says which kinds of records do not exist yet. A `Plan` then joins them with the
subjects that were found. From the headers of the scans follow the number of processes that fit in
memory and the bytes that the records will take.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

from mtseg.errors import InputError
from mtseg.records.builder import RecordConfig
from mtseg.records.estimates import estimate_memory, estimate_record_bytes
from mtseg.records.reading import prepared_dir, prepared_settings, require_same_classes
from mtseg.records.schema import FILE_FORMATS, VERSION
from mtseg.records.staging import keep_matching, staging_dir
from mtseg.sources.subject import FoundSubjects
from mtseg.system.hardware import free_bytes, num_cores, resident_bytes
from mtseg.tasks.task import Task

_WORKER_BYTES = 200_000_000
"""Memory that a process has for itself before it reads a scan, most of it for imported modules."""

_USABLE_SHARE = 0.7
"""Of the free memory. The rest is left to the first process and the disk cache."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The records that one command prepares.

    Attributes:
        task: the task.
        found: the subjects of one of its sources.
        configs: the kinds of records that are missing.
        data_dir: folder of prepared records.
    """

    task: Task
    found: FoundSubjects
    configs: tuple[RecordConfig, ...]
    data_dir: Path

    @property
    def spec(self) -> str:
        """Task and source for messages, such as `brain:miccai2012`."""
        return f"{self.task.name}:{self.found.labels.name}"

    @property
    def folder(self) -> Path:
        """The staging folder."""
        return staging_dir(self.data_dir, self.task.name, self.found.labels.name)

    @property
    def scans(self) -> list[str]:
        """Files of the scans; empty for phantoms."""
        paths = (subject.image_path for subject in self.found.subjects)
        return [path for path in paths if path is not None]

    def subject_names(self, split: str) -> list[str]:
        """Names of the subjects of a split, in its order."""
        return self.found.names_of_split(split)

    def keep_matching_staged(self) -> None:
        """Removes staged subjects that were prepared with other settings than these."""
        shared = {
            "version": VERSION,
            "file_formats": FILE_FORMATS,
            "source": repr(self.found.labels),
            "classes": list(self.task.class_names),
            "spacing": [self.task.spacing_rule, self.task.spacing_mm],
        }
        kinds = {config.kind: config.settings() for config in self.configs}
        keep_matching(self.folder, shared, kinds)


def find_missing(
    task: Task, data_dir: str | Path, configs: Sequence[RecordConfig], is_overwrite: bool
) -> list[RecordConfig]:
    """Finds out which records have to be prepared, and prints a line about the others.

    Args:
        task: the task.
        data_dir: folder of prepared records.
        configs: the kinds that are wanted.
        is_overwrite: whether to prepare all of them again.

    Raises:
        InputError: if records exist that were made with other settings or classes, or their
            settings cannot be read.
    """
    missing = []
    for config in configs:
        if not is_overwrite and _is_prepared(task, data_dir, config):
            spec = f"{task.name}:{config.source}"
            print(f"{spec}: {config.kind} already exist in {data_dir}.", flush=True)
        else:
            missing.append(config)
    return missing


def _is_prepared(task: Task, data_dir: str | Path, config: RecordConfig) -> bool:
    try:
        path = prepared_dir(data_dir, task.name, config.source, config.kind)
    except InputError:
        return False
    stored, wanted = prepared_settings(path), config.settings()
    different = [
        f"{k}: {stored.get(k)} / {wanted[k]}" for k in wanted if stored.get(k) != wanted[k]
    ]
    if different:
        raise InputError(
            f"{path}: was prepared with other settings (there / now: {'; '.join(different)}). "
            "Give another --data-dir, or replace it: mtseg-prepare with --overwrite."
        )
    require_same_classes(data_dir, task, config.source)
    return True


def choose_num_processes(plan: Plan) -> int:
    """As many processes as there are cores, but no more than fit in the free memory."""
    needed_bytes = _WORKER_BYTES + _largest_growth(plan)
    return max(1, min(num_cores(), int(_USABLE_SHARE * free_bytes() / needed_bytes)))


def announce_memory(plan: Plan, num_processes: int) -> None:
    """Prints how much memory each process will take at most, with the libraries they all share."""
    megabytes = (resident_bytes() + _largest_growth(plan)) / 1e6
    print(
        f"{plan.spec}: up to {megabytes:.0f} MB of memory per process, {num_processes} at once.",
        flush=True,
    )


def _largest_growth(plan: Plan) -> int:
    growth = [0]
    for subject in plan.found.subjects:
        with contextlib.suppress(InputError):  # The check reports it, together with all others.
            growth.append(estimate_memory(plan.task, subject, plan.configs))
    return max(growth)


def require_room(plan: Plan, num_shards: int | None) -> None:
    """Prints how many bytes will be written, and refuses a disk that is too full for them.

    Args:
        plan: the records to prepare. Subjects that are staged already need no more room.
        num_shards: as for `mtseg.records.writing.prepare`.

    Raises:
        InputError: if there is too little room.
    """
    final_bytes = sum(
        estimate_record_bytes(plan.task, subject, plan.configs) for subject in plan.found.subjects
    )
    staged_bytes = sum(path.stat().st_size for path in plan.folder.glob("*.*record"))
    # Staged files become shards by links. Records that are shuffled exist twice for a while.
    copies = 1 if num_shards is None else 2
    needed_bytes = max(final_bytes * copies - staged_bytes, 0)
    free = shutil.disk_usage(plan.folder).free
    print(
        f"{plan.spec}: up to {final_bytes / 1e6:.0f} MB of records will be written; "
        f"{free / 1e9:.1f} GB are free.",
        flush=True,
    )
    if needed_bytes > free:
        has_patches = any(config.kind == "patches" for config in plan.configs)
        fewer = ", or run mtseg-prepare with fewer --patches-per-class" if has_patches else ""
        raise InputError(
            f"{plan.data_dir}: has {free / 1e9:.1f} GB free, but preparing {plan.spec} takes "
            f"{needed_bytes / 1e9:.1f} GB. Make room, or give another --data-dir{fewer}."
        )
