"""The steps for one scan: load it, plan its tiles, compute its labels.

Every tile is restored to the scan's own grid and turned into labels at once, so the probabilities
of the whole scan are never in memory. `mtseg.prediction.results` writes the labels.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.inference.decision import decide
from mtseg.inference.postprocessing import Change, ClassRule, class_rules, postprocess
from mtseg.inference.recognition import (
    Recognition,
    candidate_spacings,
    choose_spacing,
    mismatch,
    sample_statistics,
)
from mtseg.inference.restoration import Restoration
from mtseg.inference.tiling import Block, Plan, Tile
from mtseg.inference.verdict import ScanStatistics
from mtseg.models.loading import ExportedModel
from mtseg.prediction.probability_file import ProbabilityFile
from mtseg.scans import preprocessing
from mtseg.scans.intensities import is_ct
from mtseg.scans.preprocessing import PreparedScan
from mtseg.scans.reading import is_dicom, open_scan, read_scan
from mtseg.scans.resampling import resampled_shape
from mtseg.scans.volume import Volume, from_ras
from mtseg.serving.connection import ServerError
from mtseg.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class Options:
    """How scans are segmented.

    Attributes:
        spacing_mm: isotropic voxel size to compute at; None is that of the task, which is
            recognised if the network has several (see `mtseg.inference.recognition`).
        is_ct: whether intensities are Hounsfield units; None lets the values decide. If it is
            given, classes of tasks of the other modality are excluded.
        task: name of the task that the scan is for; classes of all others are excluded. None lets
            the network decide.
        use_postprocessing: whether label maps are post-processed as the model's tasks ask for (see
            `mtseg.inference.postprocessing`).
        use_probabilities: whether to write the class probabilities too.
        use_dicom_seg: whether to write a DICOM segmentation too; the scan must be a DICOM series.
        memory_bytes: memory that may be used in total; None is half of what is free.
    """

    spacing_mm: float | None = None
    is_ct: bool | None = None
    task: str | None = None
    use_postprocessing: bool = True
    use_probabilities: bool = False
    use_dicom_seg: bool = False
    memory_bytes: float | None = None

    def deciding(self) -> dict[str, Any]:
        """The options that decide what is written, as plain values."""
        fields = dataclasses.asdict(self)
        del fields["memory_bytes"]
        return fields


@dataclasses.dataclass(frozen=True, eq=False)
class SegmentedScan:
    """What was computed of a scan.

    Attributes:
        labels: uint8 combined class index, in the shape of the source, 0 outside the foreground;
            after post-processing, which may fill holes there.
        statistics: sums over the prepared scan's foreground.
        changes: what post-processing did.
    """

    labels: npt.NDArray[np.uint8]
    statistics: ScanStatistics
    changes: tuple[Change, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedScan:
    """A scan that has been read and prepared.

    Attributes:
        path: where it was read from.
        prepared: the scan as the network takes it.
        restoration: the way back to the scan's own grid.
        reading_bytes: highest memory while it was read; an estimate.
        recognition: at which voxel size it is computed, and why.
    """

    path: Path
    prepared: PreparedScan
    restoration: Restoration
    reading_bytes: int
    recognition: Recognition

    @property
    def held_bytes(self) -> int:
        """Memory while it is computed: the prepared scan, its own foreground and its labels."""
        return self.prepared.volume.array.nbytes + 2 * self.prepared.source.array.nbytes


def loading_bytes(model: ExportedModel, path: Path | None, options: Options) -> int:
    """Highest memory while a scan is read; 0 if there is no scan or its header cannot be read."""
    try:
        return 0 if path is None else _preparation_bytes(model, path, options)
    except InputError:
        return 0


def _preparation_bytes(model: ExportedModel, path: Path, options: Options) -> int:
    """The highest memory at any of the voxel sizes that the scan may be computed at."""
    if options.spacing_mm is not None:
        return preprocessing.preparation_bytes(path, options.spacing_mm)
    scan = open_scan(path)
    tasks = _wanted_tasks(model, options)
    needed = []
    for reads_as_ct in (False, True) if options.is_ct is None else (options.is_ct,):
        spacings: list[float | None] = [
            *candidate_spacings(tasks, scan.spacing_mm, reads_as_ct, model.trained_spacing_mm)
        ]
        kept = 0
        if len(spacings) > 1:  # the scan and the best one so far are kept for the next voxel size
            shapes = [resampled_shape(scan.shape, scan.spacing_mm, mm) for mm in spacings if mm]
            kept = 5 * math.prod(scan.shape)
            kept += max(4 * math.prod(shape or scan.shape) for shape in shapes)
        needed += [
            kept + preprocessing.preparation_bytes(path, spacing) for spacing in spacings or [None]
        ]
    return max(needed)


def _wanted_tasks(model: ExportedModel, options: Options) -> list[Task]:
    """The tasks that the scan may be for.

    Raises:
        InputError: if the network has no task of the name that was given.
    """
    names = [task.name for task in model.tasks]
    if options.task is not None and options.task not in names:
        raise InputError(
            f"--task {options.task}: the model has no such task. Give one of {', '.join(names)}, "
            "or another --model."
        )
    return [task for task in model.tasks if options.task in (None, task.name)]


def load_scan(
    model: ExportedModel, path: Path, options: Options, memory_bytes: float
) -> LoadedScan:
    """Reads a scan and prepares it for the network, at the voxel size of its task.

    Args:
        model: the model that will segment it; it recognises the task.
        path: a file, or the folder of a DICOM series.
        options: how the scan is segmented.
        memory_bytes: memory that reading may use.

    Raises:
        InputError: if the scan cannot be used, needs more memory, or is not the DICOM series that a
            DICOM segmentation needs.
    """
    if options.use_dicom_seg and not is_dicom(path):
        raise InputError(
            f"{path}: is not a DICOM series, and a DICOM SEG can only be written for one. Leave "
            "out --dicom-seg."
        )
    needed = _preparation_bytes(model, path, options)
    if needed > memory_bytes:
        raise InputError(
            f"{path}: needs {needed / 1e9:.1f} GB to be prepared, but only "
            f"{memory_bytes / 1e9:.1f} GB may be used. Give a larger --memory-gb or --spacing-mm."
        )
    scans = [read_scan(path)]
    try:
        prepared, recognition = _prepare(model, scans, options)
    except ServerError:
        raise
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return LoadedScan(path, prepared, Restoration(prepared), needed, recognition)


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
    tasks = _wanted_tasks(model, options)
    reads_as_ct = is_ct(scans[0].array) if options.is_ct is None else options.is_ct
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


def excluded_classes(model: ExportedModel, options: Options) -> list[int]:
    """Combined class indices that a scan cannot have, since its task or its modality is given."""
    allowed = {
        task.name
        for task in _wanted_tasks(model, options)
        if options.is_ct is None or (task.modality.upper() == "CT") == options.is_ct
    }
    # A network without a task of that modality keeps its classes; the check warns of the scan.
    if not allowed:
        return []
    return [
        index
        for index, task in enumerate(model.class_task)
        if task is not None and task not in allowed
    ]


def postprocessing_rules(model: ExportedModel, options: Options) -> tuple[ClassRule, ...]:
    """The classes of a model whose label maps are post-processed."""
    return class_rules(model.tasks) if options.use_postprocessing else ()


def plan_scan(model: ExportedModel, scan: LoadedScan, memory_bytes: float) -> Plan:
    """Divides a scan into tiles.

    Args:
        model: the model that computes them.
        scan: the scan.
        memory_bytes: memory that computing a tile may use.

    Raises:
        InputError: if not even the smallest tiles fit, into memory or into a server's messages.
    """
    try:
        return model.network.plan(
            scan.prepared.volume.array,
            memory_bytes,
            is_interpolated=not scan.restoration.is_identity,
            target_voxels_per_voxel=scan.restoration.voxels_per_voxel,
        )
    except InputError as error:
        raise InputError(f"{scan.path}: {error}") from error


def segment_scan(
    model: ExportedModel,
    scan: LoadedScan,
    plan: Plan,
    options: Options,
    probabilities_path: Path | None = None,
    excluded: Sequence[int] = (),
    on_flop: Callable[[int], None] = lambda flop: None,
) -> SegmentedScan:
    """Computes the labels of a scan on its own grid.

    Args:
        model: the model.
        scan: the scan.
        plan: its tiles, from `plan_scan`.
        options: how it is segmented.
        probabilities_path: file to write the class probabilities to; None writes none.
        excluded: combined class indices that no voxel may get; their probabilities are set to 0.
        on_flop: called after every tile with its number of floating-point operations.

    Raises:
        InputError: if the probabilities are not finite or cannot be written.
        mtseg.serving.connection.ServerError: if a server does not compute a tile.
    """
    volume, restoration = scan.prepared.volume.array, scan.restoration
    labels = np.zeros(restoration.foreground.shape, np.uint8)
    statistics = ScanStatistics(model.network.num_classes)
    with contextlib.ExitStack() as stack:
        file = None
        if probabilities_path is not None:
            num_classes = model.network.num_classes
            file = stack.enter_context(
                ProbabilityFile(probabilities_path, scan.prepared.source, num_classes)
            )
        for tile, rows in model.network.run_all(volume, plan):
            if not np.isfinite(rows).all():
                raise InputError(
                    f"{scan.path}: the network's probabilities of it are not finite. Look at its "
                    "intensities, or use another model."
                )
            statistics.add(rows[_is_in_core(volume, tile)])
            if excluded:
                rows = rows.copy()
                rows[:, list(excluded)] = 0
            targets = restoration.targets(tile.core)
            restored = _restore_classes(scan, tile, rows, targets, file)
            of_tile = decide(restored, model.thresholds)
            labels[targets] = np.where(restoration.foreground[targets], of_tile, 0)
            on_flop(tile.flop)
        if file is not None:
            file.finish()
    changes = postprocess(labels, postprocessing_rules(model, options))
    return SegmentedScan(from_ras(labels, scan.prepared.source.affine), statistics, changes)


def _restore_classes(
    scan: LoadedScan,
    tile: Tile,
    rows: npt.NDArray[np.float32],
    targets: Block,
    file: ProbabilityFile | None,
) -> Iterator[npt.NDArray[np.float32]]:
    """Restores a tile's probabilities to the source's grid, and writes them to the file.

    One class at a time: all of them on a fine source grid would not fit into memory.

    Yields:
        For each class float32 in the shape of `targets`; background is 1 outside the foreground.
    """
    mask = scan.prepared.volume.array[tile.computed] != 0
    outside = ~scan.restoration.foreground[targets]
    for class_index in range(rows.shape[1]):
        block = np.full(mask.shape, class_index == 0, np.float32)
        block[mask] = rows[:, class_index]
        restored = scan.restoration.interpolate(block, tile.computed, targets)
        restored[outside] = class_index == 0
        if file is not None:
            file.put(class_index, targets, restored)
        yield restored


def _is_in_core(volume: npt.NDArray[np.float32], tile: Tile) -> npt.NDArray[np.bool_]:
    """Whether each foreground voxel of `tile.computed` is in the tile's core; shape (voxels,)."""
    is_core = np.zeros([s.stop - s.start for s in tile.computed], bool)
    is_core[tuple(slice(s.stop - s.start) for s in tile.core)] = True
    of_foreground: npt.NDArray[np.bool_] = is_core[volume[tile.computed] != 0]
    return of_foreground
