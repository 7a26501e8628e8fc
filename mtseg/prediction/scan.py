"""Loading a scan for a network: reading it, and preparing it at the voxel size of its task.

A scan is a path, or one in memory from `mtseg.scans.formats.in_memory`.

`mtseg.prediction.segmentation` computes its labels.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtseg.errors import InputError
from mtseg.inference.recognition import (
    Recognition,
    candidate_spacings,
    choose_spacing,
    mismatch,
    sample_statistics,
)
from mtseg.inference.restoration import Restoration
from mtseg.models.loading import ExportedModel
from mtseg.prediction.options import Options
from mtseg.prediction.results import describe_scan_files
from mtseg.scans import preprocessing
from mtseg.scans.formats.headers import ScanFile
from mtseg.scans.intensities import is_ct
from mtseg.scans.preprocessing import PreparedScan
from mtseg.scans.reading import is_dicom, open_scan, read_opened_scan
from mtseg.scans.resampling import resampled_shape
from mtseg.scans.volume import Volume
from mtseg.serving.connection import ServerError
from mtseg.tasks.task import Task, did_you_mean


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedScan:
    """A scan that has been read and prepared.

    Attributes:
        path: where it was read from; what a scan in memory is called.
        prepared: the scan as the network takes it.
        restoration: the way back to the scan's own grid.
        reading_bytes: highest memory while it was read; an estimate.
        recognition: at which voxel size it is computed, and why.
        files: its files before they were read, from `mtseg.prediction.results.describe_scan_files`;
            empty for a scan in memory.
    """

    path: Path
    prepared: PreparedScan
    restoration: Restoration
    reading_bytes: int
    recognition: Recognition
    files: Mapping[str, Any]

    @property
    def held_bytes(self) -> int:
        """Memory while it is computed: the prepared scan, its own foreground and its labels."""
        return self.prepared.volume.array.nbytes + 2 * self.prepared.source.array.nbytes


def loading_bytes(model: ExportedModel, scan: Path | ScanFile | None, options: Options) -> int:
    """Highest memory while a scan is read; 0 if there is no scan or its header cannot be read."""
    try:
        return 0 if scan is None else _preparation_bytes(model, _opened(scan), options)
    except InputError:
        return 0


def _opened(scan: Path | ScanFile) -> ScanFile:
    return scan if isinstance(scan, ScanFile) else open_scan(scan)


def _preparation_bytes(model: ExportedModel, scan: ScanFile, options: Options) -> int:
    """The highest memory at any of the voxel sizes that the scan may be computed at."""

    def needed_at(spacing_mm: float | None) -> int:
        new_mm = min(scan.spacing_mm) if spacing_mm is None else spacing_mm
        return preprocessing.preparation_bytes(scan.shape, scan.spacing_mm, new_mm)

    if options.spacing_mm is not None:
        return needed_at(options.spacing_mm)
    tasks = wanted_tasks(model, options)
    needed = []
    known = scan.is_ct if options.is_ct is None else options.is_ct
    for reads_as_ct in (False, True) if known is None else (known,):
        spacings: list[float | None] = [
            *candidate_spacings(tasks, scan.spacing_mm, reads_as_ct, model.trained_spacing_mm)
        ]
        kept = 0
        if len(spacings) > 1:  # the scan and the best one so far are kept for the next voxel size
            shapes = [resampled_shape(scan.shape, scan.spacing_mm, mm) for mm in spacings if mm]
            kept = 5 * math.prod(scan.shape)
            kept += max(4 * math.prod(shape or scan.shape) for shape in shapes)
        needed += [kept + needed_at(spacing) for spacing in spacings or [None]]
    return max(needed)


def wanted_tasks(model: ExportedModel, options: Options) -> list[Task]:
    """The tasks that the scan may be for.

    Services call it before there is a scan, so that a wrong name ends them at their start.

    Raises:
        InputError: if the network has no task of the name that was given.
    """
    names = [task.name for task in model.tasks]
    if options.task is not None and options.task not in names:
        raise InputError(
            f"task {options.task}: the model has no such task{did_you_mean(options.task, names)}. "
            f"Give one of {', '.join(names)}, or another model."
        )
    return [task for task in model.tasks if options.task in (None, task.name)]


def load_scan(
    model: ExportedModel, scan: Path | ScanFile, options: Options, memory_bytes: float
) -> LoadedScan:
    """Reads a scan and prepares it for the network, at the voxel size of its task.

    Args:
        model: the model that will segment it; it recognises the task.
        scan: a file, the folder of a DICOM series, or a scan in memory.
        options: how the scan is segmented.
        memory_bytes: memory that reading may use.

    Raises:
        InputError: if the scan cannot be used, needs more memory, or is not the DICOM series that a
            DICOM segmentation needs.
    """
    path = scan.path if isinstance(scan, ScanFile) else scan
    if options.use_dicom_seg and not is_dicom(path):
        raise InputError(
            f"{path}: is not a DICOM series, and a DICOM SEG can only be written for one. Leave "
            "out --dicom-seg."
        )
    files: dict[str, Any] = {}
    if not isinstance(scan, ScanFile):
        with contextlib.suppress(OSError):  # opening it says why
            files = describe_scan_files(path)
    opened = _opened(scan)
    needed = _preparation_bytes(model, opened, options)
    if needed > memory_bytes:
        raise InputError(
            f"{path}: needs {needed / 1e9:.1f} GB to be prepared, but only "
            f"{memory_bytes / 1e9:.1f} GB may be used. Give a larger --memory-gb or --spacing-mm."
        )
    scans = [read_opened_scan(opened)]
    try:
        prepared, recognition = _prepare(model, scans, options)
    except ServerError:
        raise
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return LoadedScan(path, prepared, Restoration(prepared), needed, recognition, files)


def _prepare(
    model: ExportedModel, scans: list[Volume], options: Options
) -> tuple[PreparedScan, Recognition]:
    """Prepares a scan at the voxel size that was given, or at that of the task it looks like.

    Args:
        model: the model.
        scans: the scan alone. It is taken out of the list, so that `prepare_scan` can free its
            array, which is the largest one, as soon as it has a copy.
        options: how the scan is segmented.
    """
    if options.spacing_mm is not None:
        recognition = Recognition(options.spacing_mm, (), f"at {options.spacing_mm:g} mm, as given")
        prepared = preprocessing.prepare_scan(
            scans.pop(), options.spacing_mm, options.is_ct, may_overwrite=True
        )
        return prepared, recognition
    tasks = wanted_tasks(model, options)
    known = scans[0].is_ct if options.is_ct is None else options.is_ct
    reads_as_ct = is_ct(scans[0].array) if known is None else known
    candidates = candidate_spacings(
        tasks, scans[0].spacing_mm, reads_as_ct, model.trained_spacing_mm
    )
    if len(candidates) < 2:
        spacing, names = next(iter(candidates.items()), (None, ()))
        prepared = preprocessing.prepare_scan(
            scans.pop(), spacing, options.is_ct, may_overwrite=True
        )
        return prepared, Recognition(spacing, names, _describe(spacing, names))
    mismatches: dict[float, dict[str, float]] = {}
    prepared_at: dict[float, PreparedScan] = {}
    for number, (spacing, names) in enumerate(candidates.items(), 1):
        is_last = number == len(candidates)
        # Of several, only the best so far is kept in memory.
        prepared = preprocessing.prepare_scan(
            scans.pop() if is_last else scans[0], spacing, options.is_ct, may_overwrite=is_last
        )
        statistics = sample_statistics(model.network, prepared.volume.array)
        check = model.out_of_distribution_check
        mismatches[spacing] = {
            name: mismatch(statistics, model.class_task, name, check) for name in names
        }
        best = choose_spacing(mismatches)
        if best.spacing_mm == spacing:
            prepared_at = {spacing: prepared}
        del prepared
    recognition = choose_spacing(mismatches)
    (prepared,) = prepared_at.values()
    return prepared, recognition


def _describe(spacing_mm: float | None, tasks: tuple[str, ...]) -> str:
    if spacing_mm is None:
        return "at its finest voxel size"
    return f"at {spacing_mm:.3g} mm, the voxel size of {' and '.join(tasks)}"


def excluded_classes(model: ExportedModel, scan: LoadedScan, options: Options) -> list[int]:
    """Combined class indices that a scan cannot have, since its task or its modality is known."""
    known = scan.prepared.source.is_ct if options.is_ct is None else options.is_ct
    wanted = wanted_tasks(model, options)
    of_modality = [task for task in wanted if known is None or task.is_ct in (None, known)]
    # Without a task of that modality, all that are wanted stay; the check warns of the scan.
    allowed = {task.name for task in of_modality or wanted}
    if not allowed:  # of a model that does not say what its tasks are
        return []
    return [
        index
        for index, task in enumerate(model.class_task)
        if task is not None and task not in allowed
    ]
