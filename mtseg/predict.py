"""Prediction: scan files and an exported model come in, label files on the scans' grids leave.

A scan is computed tile by tile, and every tile is brought back to the scan's own grid and decided
at once, so that neither the probabilities of the whole scan nor those of a finer grid are ever in
memory. The next scan is read and the last one written while one is computed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from mtseg import done_scans, prepared_scan, volumes
from mtseg.errors import InputError
from mtseg.exported import ExportedModel
from mtseg.memory import free_bytes
from mtseg.metrics import decide
from mtseg.prepared_scan import PreparedScan
from mtseg.probability_file import ProbabilityFile
from mtseg.restoration import Restoration
from mtseg.scan_files import is_dicom, read_scan, scan_stem
from mtseg.scan_statistics import ScanStatistics
from mtseg.server_connection import ModelGoneError, ServerError
from mtseg.tiles import Block, Plan, Tile
from mtseg.verdict import Verdict, judge
from mtseg.workdir import write_json

MEMORY_SHARE = 0.5
"""Share of the free memory that is used if nothing else is asked for."""

_AHEAD_SHARE = 0.3
"""Share of what is left that reading the next scan meanwhile may take."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How scans are segmented.

    Attributes:
        spacing_mm: isotropic size to work at; None is the scan's finest voxel size.
        is_ct: whether intensities are Hounsfield units; None lets the scan's minimum decide.
        use_probabilities: also write a volume a class.
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
class Work:
    """What segmenting a scan will take.

    Attributes:
        plan: its tiles.
        peak_bytes: highest memory, above what the libraries take; an estimate.
    """

    plan: Plan
    peak_bytes: int


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
    verdict: Verdict


def segment_files(
    model: ExportedModel,
    scan_paths: Sequence[Path],
    out_dir: Path,
    options: Options = Options(),
    *,
    folders: Mapping[Path, Path] | None = None,
    on_start: Callable[[Path, Work], None] = lambda path, work: None,
    on_flop: Callable[[int], None] = lambda flop: None,
) -> Iterator[tuple[Path, Segmentation | InputError]]:
    """Segments scan files; while one is computed, the next is read and the last one written.

    Args:
        model: from `load`.
        scan_paths: files, or folders of DICOM series.
        out_dir: `NAME_labels.nii.gz` and `NAME_verdict.json` go here, and
            `NAME_probabilities.nii.gz` and `NAME_labels.dcm` if asked for.
        options: how.
        folders: for scans whose results go into a folder below `out_dir`, which.
        on_start: called with each scan and what it will take, before it is computed.
        on_flop: called after every tile with the operations done.

    Yields:
        For each scan in turn what was written, or why it could not be segmented.

    Raises:
        ServerError: if a served model's server does not answer as it should; the scans before that
            have been written.
    """
    budget = options.memory_bytes or MEMORY_SHARE * free_bytes()

    def stem_of(path: Path) -> Path:
        return out_dir / (folders or {}).get(path, Path()) / scan_stem(path)

    pending: list[tuple[Path, Future]] = []
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        ahead: Future | None = None
        for path, following in itertools.zip_longest(scan_paths, scan_paths[1:]):
            try:
                reading, ahead = ahead, None
                scan = _read(path, options, budget) if reading is None else reading.result()
                left = budget - scan.held_bytes
                bytes_ahead = _reading_bytes(following, options)
                if 0 < bytes_ahead < _AHEAD_SHARE * left:
                    ahead = reader.submit(_read, following, options, left)
                    left -= bytes_ahead
                plan = _plan(model, scan, left)
                peak = budget - left + plan.tile_bytes
                on_start(path, Work(plan, max(peak, scan.reading_bytes)))
                try:
                    labels, statistics = _compute(
                        model, scan, plan, stem_of(path), options, on_flop
                    )
                except ModelGoneError:
                    if model.renew is None:
                        raise
                    # Newer versions have taken its place: the scan is begun anew with the newest.
                    model = model.renew()
                    on_start(path, Work(plan, max(peak, scan.reading_bytes)))
                    labels, statistics = _compute(
                        model, scan, plan, stem_of(path), options, on_flop
                    )
                outcome = writer.submit(
                    _write, model, scan, labels, statistics, stem_of(path), options
                )
            except ServerError:
                for done, future in pending:
                    yield done, _result(future)
                raise
            except InputError as error:
                outcome = Future()
                outcome.set_exception(error)
            pending.append((path, outcome))
            while pending and (len(pending) > 1 or following is None):
                yield pending[0][0], _result(pending.pop(0)[1])


def _result(future: Future) -> Segmentation | InputError:
    try:
        return future.result()
    except InputError as error:
        return error


@dataclasses.dataclass(frozen=True)
class _Scan:
    """A scan that has been read: it, the way back to its own grid, and the memory it takes."""

    path: Path
    prepared: PreparedScan
    restoration: Restoration
    reading_bytes: int

    @property
    def held_bytes(self) -> int:
        """Memory while it is computed: the prepared scan, its own foreground and its labels."""
        return self.prepared.volume.array.nbytes + 2 * self.prepared.source.array.nbytes


def _reading_bytes(path: Path | None, options: Options) -> int:
    """Highest memory while a scan is read; 0 if there is none or its header cannot be read."""
    try:
        return 0 if path is None else prepared_scan.preparation_bytes(path, options.spacing_mm)
    except InputError:
        return 0


def _read(path: Path, options: Options, memory_bytes: float) -> _Scan:
    if options.use_dicom_seg and not is_dicom(path):
        raise InputError(
            f"{path}: is no DICOM series, of which alone a DICOM SEG can be written. Leave out "
            "--dicom-seg."
        )
    needed = prepared_scan.preparation_bytes(path, options.spacing_mm)
    if needed > memory_bytes:
        raise InputError(
            f"{path}: takes {needed / 1e9:.1f} GB to be prepared, where "
            f"{memory_bytes / 1e9:.1f} GB may be used. Give a larger --memory-gb or --spacing-mm."
        )
    try:
        prepared = prepared_scan.prepare_scan(
            read_scan(path), options.spacing_mm, options.is_ct, may_overwrite=True
        )
    except InputError as error:
        if str(path) in str(error):
            raise
        raise InputError(f"{path}: {error}") from error
    return _Scan(path, prepared, Restoration(prepared), needed)


def _plan(model: ExportedModel, scan: _Scan, memory_bytes: float) -> Plan:
    try:
        return model.network.plan(
            scan.prepared.volume.array,
            memory_bytes,
            is_interpolated=not scan.restoration.is_identity,
            target_voxels_per_voxel=scan.restoration.voxels_per_voxel,
        )
    except InputError as error:
        raise InputError(f"{scan.path}: {error}") from error


def _compute(
    model: ExportedModel,
    scan: _Scan,
    plan: Plan,
    stem: Path,
    options: Options,
    on_flop: Callable[[int], None],
) -> tuple[np.ndarray, ScanStatistics]:
    """Computes a scan's labels, uint8 in the source's shape, and writes its probabilities."""
    with _one_line(stem):
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
    return volumes.decanonicalise(labels, scan.prepared.source.affine), statistics


def _in_core(volume: np.ndarray, tile: Tile) -> np.ndarray:
    """Which of the foreground voxels of `tile.computed` are in its core, booleans (voxels,)."""
    is_core = np.zeros([s.stop - s.start for s in tile.computed], bool)
    is_core[tuple(slice(s.stop - s.start) for s in tile.core)] = True
    return is_core[volume[tile.computed] != 0]


@contextlib.contextmanager
def _one_line(stem: Path) -> Iterator[None]:
    """Says in one line which result cannot be written."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{error.filename or stem}: cannot be written ({error.strerror}). Make room, or give "
            "another -o."
        ) from error


def _write(
    model: ExportedModel,
    scan: _Scan,
    labels: np.ndarray,
    statistics: ScanStatistics,
    stem: Path,
    options: Options,
) -> Segmentation:
    label_path, verdict_path = done_scans.label_path(stem), done_scans.verdict_path(stem)
    voxel_ml = float(np.prod(scan.prepared.source.spacing_mm)) / 1000
    counts = [np.count_nonzero(labels == index) for index in range(len(model.class_names))]
    volumes_ml = {
        name: count * voxel_ml
        for name, count in list(zip(model.class_names, counts, strict=True))[1:]
        if count
    }
    verdict = judge(statistics, model.class_task, model.resemblance)
    content = {"schema": 1, "scan": str(scan.path), "model": str(model.path)}
    content |= {"volumes_ml": volumes_ml} | verdict.to_json()
    content["made_from"] = done_scans.made_from(
        scan.path, model.model_id, model.network.precision, options.deciding()
    )
    with _one_line(stem):
        verdict_path.unlink(missing_ok=True)  # it comes last, and says that all else is there
        volumes.write_label_map(label_path, labels, scan.prepared.source)
        if options.use_dicom_seg:
            from mtseg.dicom_seg import write_dicom_seg

            seg_path = stem.with_name(f"{stem.name}_labels.dcm")
            write_dicom_seg(seg_path, labels, scan.path, model.class_names)
        write_json(verdict_path, content)
    return Segmentation(label_path, verdict_path, volumes_ml, statistics, verdict)
