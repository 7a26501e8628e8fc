"""What one preparation has to do, and whether memory and disk are enough for it.

`make_plan` compares the records that exist with what a `Request` asks for. Its `Plan` has the kinds
that are missing or out of date. From the headers of the scans follow the number of processes that
fit in memory and the bytes that the records will take.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtseg.errors import InputError, OtherRecordsError
from mtseg.provenance.differences import list_differences, list_task_differences, show_file
from mtseg.provenance.fingerprint import (
    PREPARATION,
    Fingerprint,
    SubjectPrint,
    add_checksums,
    describe_subjects,
    describe_task,
    make_fingerprint,
    read_fingerprint,
)
from mtseg.records.builder import RecordConfig
from mtseg.records.estimates import estimate_memory, estimate_record_bytes
from mtseg.records.prepared import prepared_settings, records_dir, staging_dir
from mtseg.records.reading import require_same_task
from mtseg.records.schema import FILE_FORMATS, KINDS, VERSION
from mtseg.records.staging import ExistingRecords, keep_matching
from mtseg.sources.subject import FoundSubjects
from mtseg.system.hardware import free_bytes, num_cores, resident_bytes
from mtseg.tasks.task import Task

_WORKER_BYTES = 200_000_000
"""Memory that a process has for itself before it reads a scan, most of it for imported modules."""

_USABLE_SHARE = 0.7
"""Of the free memory. The rest is left to the first process and the disk cache."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What a command wants to be prepared.

    Attributes:
        task: the task.
        source: name of one of its sources.
        found: its subjects; None if the folder of the scans was not given.
        manual_dir: the folder of the scans; None for phantoms.
        data_dir: folder of prepared records.
        configs: the kinds of records that are wanted.
        num_shards: number of patch shards; None makes one for each subject.
        is_update: whether records of other data are brought up to date.
        is_overwrite: whether all records are prepared again.
    """

    task: Task
    source: str
    found: FoundSubjects | None
    manual_dir: Path | None
    data_dir: Path
    configs: tuple[RecordConfig, ...]
    num_shards: int | None = None
    is_update: bool = False
    is_overwrite: bool = False

    @property
    def spec(self) -> str:
        """Task and source for messages, such as `brain:miccai2012`."""
        return f"{self.task.name}:{self.source}"

    def settings(self, config: RecordConfig) -> dict[str, Any]:
        """The settings in a fingerprint, which has the names of the subjects beside them."""
        names = ("size", "patches_per_class", "seed")
        settings = {n: value for n, value in config.settings().items() if n in names}
        return settings | ({"num_shards": self.num_shards} if config.kind == "patches" else {})

    @functools.cached_property
    def _subjects(self) -> tuple[SubjectPrint, ...]:
        """The subjects, whose files are listed once: a DICOM series has hundreds of them."""
        assert self.found is not None
        return describe_subjects(self.found)

    def fingerprint(self, config: RecordConfig) -> Fingerprint:
        """The fingerprint of records that are prepared now, without checksums.

        Raises:
            InputError: if a file no longer exists.
        """
        assert self.found is not None
        return make_fingerprint(
            self.task,
            self.found.labels,
            self._subjects,
            self.manual_dir,
            kind=config.kind,
            settings=self.settings(config),
            validation=config.validation,
            versions=self.versions(config),
        )

    def versions(self, config: RecordConfig) -> dict[str, str]:
        """The versions of the formats of the records."""
        return {"records": VERSION, "file format": FILE_FORMATS[config.kind]}


@dataclasses.dataclass(frozen=True)
class Plan:
    """The records that one command prepares.

    Attributes:
        request: what the command wants.
        configs: the kinds of records that are to be prepared.
        existing: for an update, the records from which unchanged subjects are taken; empty if a
            kind has none that can be used.
        kept: lines that say which records are kept as they are.
    """

    request: Request
    configs: tuple[RecordConfig, ...]
    existing: tuple[ExistingRecords, ...] = ()
    kept: tuple[str, ...] = ()

    @property
    def task(self) -> Task:
        """The task."""
        return self.request.task

    @property
    def found(self) -> FoundSubjects:
        """The subjects of the source."""
        assert self.request.found is not None
        return self.request.found

    @property
    def data_dir(self) -> Path:
        """Folder of prepared records."""
        return self.request.data_dir

    @property
    def spec(self) -> str:
        """Task and source for messages."""
        return self.request.spec

    @property
    def folder(self) -> Path:
        """The staging folder."""
        return staging_dir(self.data_dir, self.task.name, self.request.source)

    @functools.cached_property
    def growth_bytes(self) -> int:
        """Memory that a process needs for the largest subject; their headers are read once."""
        growth = [0]
        for subject in self.found.subjects:
            with contextlib.suppress(InputError):  # The check reports it, together with all others.
                growth.append(estimate_memory(self.task, subject, self.configs))
        return max(growth)

    def keep_matching_staged(self) -> None:
        """Removes staged subjects that were prepared with other settings than these."""
        contents = {c.kind: self.request.fingerprint(c).content for c in self.configs}
        shared = dict(next(iter(contents.values())))
        shared.pop("settings")
        keep_matching(
            self.folder, shared, {kind: content["settings"] for kind, content in contents.items()}
        )


def make_plan(request: Request) -> Plan:
    """Finds out which records have to be prepared.

    Raises:
        InputError: if records exist that were made from other data or with other settings, and the
            request is not to replace them; or another task of the same name is in the folder.
    """
    _require_one_task(request)
    chosen: list[RecordConfig] = []
    kept: list[RecordConfig] = []
    existing, lines, texts = [], list[str](), dict[str, None]()
    for config in request.configs:
        folder = records_dir(request.data_dir, request.task.name, request.source, config.kind)
        if request.is_overwrite or not (folder / "dataset_info.json").is_file():
            chosen.append(config)
            continue
        stored = prepared_settings(folder)  # refuses a damaged file
        before = read_fingerprint(folder)
        if before is None:
            if request.is_update:
                chosen.append(config)
            else:
                lines.append(_keep_without_fingerprint(request, config, folder, stored))
            continue
        if request.found is None:
            differences = _differences_without_scans(request, config, before)
        else:
            now = add_checksums(request.fingerprint(config), before)
            differences = list_differences(before, now)
            if not differences and now != before:  # other times or places of the same files
                with contextlib.suppress(OSError):
                    now.write(folder)
            if now.content == before.content:
                existing.append(ExistingRecords(config, folder, before, now))
        (chosen if differences else kept).append(config)
        texts |= dict.fromkeys(differences)
    if texts and not request.is_update:
        if request.found is not None:
            request.found.require_sound()  # a missing file, rather than a subject that was removed
        raise OtherRecordsError(
            f"{request.data_dir}: {request.spec} was prepared from other data or settings: "
            f"{'; '.join(texts)}. Rerun mtseg-prepare with --update to prepare only what changed, "
            "or with --overwrite to prepare everything again, or give another --data-dir."
        )
    lines += _describe_kept(request, kept)
    usable = tuple(records for records in existing if records.config in chosen)
    usable = usable if len(usable) == len(chosen) else ()
    return Plan(request, tuple(chosen), usable, tuple(lines))


def _require_one_task(request: Request) -> None:
    """Refuses a folder that has records of another task of the same name, of another source."""
    now = describe_task(request.task)
    for other in read_siblings(request):
        is_same = {**other.task, "file": now["file"]} == now
        if not is_same and other.task["file"] != now["file"]:
            raise InputError(
                f"{request.data_dir}: has records ({other.spec}) of another task that is called "
                f"{request.task.name}: {show_file(other.task['file'])}. Rename one of the two "
                "tasks, or give another --data-dir."
            )


def read_siblings(request: Request) -> list[Fingerprint]:
    """The fingerprints of the records of the task's other sources, one for each source."""
    own = {records_dir(request.data_dir, request.task.name, request.source, kind) for kind in KINDS}
    folders = sorted(min(own).parent.parent.glob(f"*/{VERSION}"))
    stored = [read_fingerprint(folder) for folder in folders if folder not in own]
    return list({p.source["name"]: p for p in stored if p is not None}.values())


def _keep_without_fingerprint(
    request: Request, config: RecordConfig, folder: Path, stored: dict[str, Any]
) -> str:
    """Records of an earlier version: only settings and classes can be compared."""
    wanted = config.settings()
    different = [
        f"{k}: {stored.get(k)} / {wanted[k]}" for k in wanted if stored.get(k) != wanted[k]
    ]
    if different:
        raise InputError(
            f"{folder}: was prepared with other settings (there / now: {'; '.join(different)}). "
            "Give another --data-dir, or replace it: mtseg-prepare with --overwrite."
        )
    require_same_task(request.data_dir, request.task, request.source, config.kind)
    return (
        f"{request.spec}: {config.kind} already exist in {request.data_dir}. They carry no "
        "fingerprint, so they cannot be compared with the scans. mtseg-prepare with --update "
        "replaces them."
    )


def _differences_without_scans(
    request: Request, config: RecordConfig, before: Fingerprint
) -> list[str]:
    settings = request.settings(config)
    if config.kind == "patches" and request.num_shards is None:
        settings["num_shards"] = before.settings.get("num_shards")
    source = {**before.source, "validation": dataclasses.asdict(config.validation)}
    versions = {**request.versions(config), "preparation": PREPARATION}
    now = dataclasses.replace(before, settings=settings, source=source, versions=versions)
    return [*list_task_differences(before, request.task), *list_differences(before, now)]


def _describe_kept(request: Request, kept: Sequence[RecordConfig]) -> list[str]:
    unseen = "" if request.found else " The scans were not compared: their folder was not given."
    if len(kept) == len(request.configs):
        return [f"{request.spec}: already prepared in {request.data_dir}, nothing to do.{unseen}"]
    return [
        f"{request.spec}: {config.kind} already exist in {request.data_dir}.{unseen}"
        for config in kept
    ]


def announce_kept(plan: Plan) -> None:
    """Prints which records are kept as they are."""
    for line in plan.kept:
        print(line, flush=True)


def choose_num_processes(plan: Plan) -> int:
    """As many processes as there are cores, but no more than fit in the free memory."""
    needed_bytes = _WORKER_BYTES + plan.growth_bytes
    return max(1, min(num_cores(), int(_USABLE_SHARE * free_bytes() / needed_bytes)))


def announce_memory(plan: Plan, num_processes: int) -> None:
    """Prints how much memory each process will take at most, with the libraries they all share."""
    megabytes = (resident_bytes() + plan.growth_bytes) / 1e6
    print(
        f"{plan.spec}: up to {megabytes:.0f} MB of memory per process, {num_processes} at once.",
        flush=True,
    )


def require_room(plan: Plan) -> None:
    """Prints how many bytes will be written, and refuses a disk that is too full for them.

    Subjects that are staged already need no more room.

    Raises:
        InputError: if there is too little room.
    """
    final_bytes = sum(
        estimate_record_bytes(plan.task, subject, plan.configs) for subject in plan.found.subjects
    )
    staged_bytes = sum(path.stat().st_size for path in plan.folder.glob("*.*record"))
    # Staged files become shards by links. Records that are shuffled exist twice for a while.
    copies = 1 if plan.request.num_shards is None else 2
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
