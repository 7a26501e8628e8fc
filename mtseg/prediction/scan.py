"""The steps for one scan: load it, plan its tiles, compute its labels, write the results.

Every tile is restored to the scan's own grid and turned into labels at once, so the probabilities
of the whole scan are never in memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mtseg.errors import InputError
from mtseg.inference.decision import decide
from mtseg.inference.restoration import Restoration
from mtseg.inference.scan_statistics import ScanStatistics
from mtseg.inference.tiling import Block, Plan, Tile
from mtseg.inference.verdict import Assessment, assess
from mtseg.models.loading import ExportedModel
from mtseg.prediction import results
from mtseg.prediction.probability_file import ProbabilityFile
from mtseg.scans import label_files, preprocessing
from mtseg.scans.preprocessing import PreparedScan
from mtseg.scans.reading import is_dicom, read_scan
from mtseg.scans.volume import decanonicalise
from mtseg.system.atomic_files import write_json, writing_to


@dataclasses.dataclass(frozen=True)
class Options:
    """How scans are segmented.

    Attributes:
        spacing_mm: isotropic size to work at; None is the scan's finest voxel size.
        is_ct: whether intensities are Hounsfield units; None lets the scan's minimum decide.
        use_probabilities: also write one volume per class.
        use_dicom_seg: also write a DICOM SEG, of a scan that is a DICOM series.
        memory_bytes: what may be used in all; None is half of what is free.
    """

    spacing_mm: float | None = None
    is_ct: bool | None = None
    use_probabilities: bool = False
    use_dicom_seg: bool = False
    memory_bytes: float | None = None

    def deciding(self) -> dict[str, Any]:
        """Those that decide what is written, as plain values."""
        fields = dataclasses.asdict(self)
        del fields["memory_bytes"]
        return fields


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """What was written for a scan.

    Attributes:
        label_path: the label file.
        verdict_path: what is to be known about the labels, as JSON.
        volumes_ml: class name -> volume, for the classes that were found.
        statistics: what the network makes of the scan as a whole.
        verdict: what that says.
    """

    label_path: Path
    verdict_path: Path
    volumes_ml: dict[str, float]
    statistics: ScanStatistics
    verdict: Assessment


@dataclasses.dataclass(frozen=True)
class LoadedScan:
    """A scan that has been read: it, the way back to its own grid, and the memory it takes."""

    path: Path
    prepared: PreparedScan
    restoration: Restoration
    reading_bytes: int

    @property
    def held_bytes(self) -> int:
        """Memory while it is computed: the prepared scan, its own foreground and its labels."""
        return self.prepared.volume.array.nbytes + 2 * self.prepared.source.array.nbytes


def loading_bytes(path: Path | None, options: Options) -> int:
    """Highest memory while a scan is read; 0 if there is none or its header cannot be read."""
    try:
        return 0 if path is None else preprocessing.preparation_bytes(path, options.spacing_mm)
    except InputError:
        return 0


def load_scan(path: Path, options: Options, memory_bytes: float) -> LoadedScan:
    if options.use_dicom_seg and not is_dicom(path):
        raise InputError(
            f"{path}: is not a DICOM series, and a DICOM SEG can only be written for one. Leave out "
            "--dicom-seg."
        )
    needed = preprocessing.preparation_bytes(path, options.spacing_mm)
    if needed > memory_bytes:
        raise InputError(
            f"{path}: takes {needed / 1e9:.1f} GB to be prepared, where "
            f"{memory_bytes / 1e9:.1f} GB may be used. Give a larger --memory-gb or --spacing-mm."
        )
    scan = read_scan(path)
    try:
        prepared = preprocessing.prepare_scan(
            scan, options.spacing_mm, options.is_ct, may_overwrite=True
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return LoadedScan(path, prepared, Restoration(prepared), needed)


def plan_scan(model: ExportedModel, scan: LoadedScan, memory_bytes: float) -> Plan:
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
    stem: Path,
    options: Options,
    on_flop: Callable[[int], None],
) -> tuple[np.ndarray, ScanStatistics]:
    """Computes a scan's labels, uint8 in the source's shape, and writes its probabilities."""
    with writing_to(stem, _WRITE_REMEDY):
        stem.parent.mkdir(parents=True, exist_ok=True)
    volume, restoration = scan.prepared.volume.array, scan.restoration
    labels = np.zeros(restoration.foreground.shape, np.uint8)
    statistics = ScanStatistics(model.network.num_classes)
    with contextlib.ExitStack() as stack:
        file = None
        if options.use_probabilities:
            path = stem.with_name(f"{stem.name}_probabilities.nii.gz")
            num_classes = model.network.num_classes
            file = stack.enter_context(ProbabilityFile(path, scan.prepared.source, num_classes))
        for tile, rows in model.network.run_all(volume, plan):
            if not np.isfinite(rows).all():
                raise InputError(
                    f"{scan.path}: the network's probabilities of it are not finite. Look at its "
                    "intensities, or give another model."
                )
            statistics.add(rows[_in_core(volume, tile)])
            targets = restoration.targets(tile.core)
            foreground = restoration.foreground[targets]

            def on_source_grid(
                rows: np.ndarray = rows, tile: Tile = tile, targets: Block = targets
            ) -> Iterator[np.ndarray]:
                # One class at a time: all of them on a fine source grid would not fit in memory.
                mask = volume[tile.computed] != 0
                for class_index in range(rows.shape[1]):
                    block = np.full(mask.shape, class_index == 0, np.float32)
                    block[mask] = rows[:, class_index]
                    restored = restoration.bring(block, tile.computed, targets)
                    restored[~restoration.foreground[targets]] = class_index == 0
                    if file is not None:
                        file.put(class_index, targets, restored)
                    yield restored

            labels[targets] = np.where(foreground, decide(on_source_grid(), model.thresholds), 0)
            on_flop(tile.flop)
        if file is not None:
            file.finish()
    return decanonicalise(labels, scan.prepared.source.affine), statistics


def _in_core(volume: np.ndarray, tile: Tile) -> np.ndarray:
    """Which of the foreground voxels of `tile.computed` are in its core, booleans (voxels,)."""
    is_core = np.zeros([s.stop - s.start for s in tile.computed], bool)
    is_core[tuple(slice(s.stop - s.start) for s in tile.core)] = True
    return is_core[volume[tile.computed] != 0]


_WRITE_REMEDY = "Make room, or give another -o."


def write_results(
    model: ExportedModel,
    scan: LoadedScan,
    labels: np.ndarray,
    statistics: ScanStatistics,
    stem: Path,
    options: Options,
) -> Segmentation:
    label_path, verdict_path = results.label_path(stem), results.verdict_path(stem)
    voxel_ml = float(np.prod(scan.prepared.source.spacing_mm)) / 1000
    counts = [np.count_nonzero(labels == index) for index in range(len(model.class_names))]
    volumes_ml = {
        name: count * voxel_ml
        for name, count in list(zip(model.class_names, counts, strict=True))[1:]
        if count
    }
    verdict = assess(statistics, model.class_task, model.out_of_distribution_check)
    content = {"schema": 1, "scan": str(scan.path), "model": str(model.path)}
    content |= {"volumes_ml": volumes_ml} | verdict.to_json()
    content["made_from"] = results.made_from(
        scan.path, model.model_id, model.network.precision, options.deciding()
    )
    with writing_to(stem, _WRITE_REMEDY):
        verdict_path.unlink(missing_ok=True)  # it comes last, and says that all else is there
        label_files.write_label_map(label_path, labels, scan.prepared.source)
        if options.use_dicom_seg:
            from mtseg.scans.dicom_seg import write_dicom_seg

            seg_path = stem.with_name(f"{stem.name}_labels.dcm")
            write_dicom_seg(seg_path, labels, scan.path, model.class_names)
        write_json(verdict_path, content)
    return Segmentation(label_path, verdict_path, volumes_ml, statistics, verdict)
