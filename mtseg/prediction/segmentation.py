"""From a loaded scan to its labels: plan its tiles, compute them, decide and assess.

Every tile is restored to the scan's own grid and turned into labels at once, so the probabilities
of the whole scan are in memory only if they are asked for. `mtseg.prediction.outcome` gives the
labels to the user.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.inference.decision import decide, decide_rows
from mtseg.inference.postprocessing import Change, ClassRule, class_rules, postprocess
from mtseg.inference.tiling import Plan, Tile
from mtseg.inference.verdict import Assessment, ScanStatistics, assess, intensity_percentiles
from mtseg.models.loading import ExportedModel
from mtseg.prediction.options import Options
from mtseg.prediction.probabilities import ProbabilityStore
from mtseg.prediction.scan import LoadedScan
from mtseg.scans.volume import from_ras
from mtseg.tasks.task import in_plane_mm


@dataclasses.dataclass(frozen=True, eq=False)
class SegmentedScan:
    """What was computed of a scan.

    Attributes:
        labels: uint8 combined class index, in the shape of the source, 0 outside the foreground;
            after post-processing, which may fill holes there.
        statistics: sums over the prepared scan's foreground.
        verdict: whether to trust the labels.
        changes: what post-processing did.
        unprocessed: `labels` before post-processing; None if they are not wanted, or there is none.
    """

    labels: npt.NDArray[np.uint8]
    statistics: ScanStatistics
    verdict: Assessment
    changes: tuple[Change, ...]
    unprocessed: npt.NDArray[np.uint8] | None = None


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
    probabilities: ProbabilityStore | None = None,
    excluded: Sequence[int] = (),
    on_flop: Callable[[int], None] = lambda flop: None,
) -> SegmentedScan:
    """Computes the labels of a scan on its own grid.

    Args:
        model: the model.
        scan: the scan.
        plan: its tiles, from `plan_scan`.
        options: how it is segmented.
        probabilities: collects the class probabilities; None if they are not wanted.
        excluded: combined class indices that no voxel may get; their probabilities are set to 0.
        on_flop: called after every tile with its number of floating-point operations.

    Raises:
        InputError: if the probabilities are not finite or cannot be written.
        mtseg.serving.connection.ServerError: if a server does not compute a tile.
    """
    volume, restoration = scan.prepared.volume.array, scan.restoration
    labels = np.zeros(restoration.foreground.shape, np.uint8)
    statistics, decided = (ScanStatistics(model.network.num_classes) for _ in range(2))
    statistics.spacing_mm = scan.prepared.volume.spacing_mm[0]
    statistics.intensities = intensity_percentiles(volume)
    with contextlib.ExitStack() as stack:
        if probabilities is not None:
            stack.enter_context(probabilities)
        for tile, rows in model.network.run_all(volume, plan):
            if not np.isfinite(rows).all():
                raise InputError(
                    f"{scan.path}: the network's probabilities of it are not finite. Look at its "
                    "intensities, or use another model."
                )
            is_in_core, most_probable = _is_in_core(volume, tile), rows.argmax(axis=-1)
            statistics.add(rows, most_probable, is_in_core)
            if excluded:
                rows = rows.copy()
                rows[:, list(excluded)] = 0
                most_probable = rows.argmax(axis=-1)
            decided.add(rows, decide_rows(rows, most_probable, model.thresholds), is_in_core)
            targets = restoration.targets(tile.core)
            is_foreground = volume[tile.computed] != 0
            for slab, restored in restoration.restore(rows, is_foreground, tile.computed, targets):
                outside = ~restoration.foreground[slab]
                restored[:, outside] = 0
                restored[0, outside] = 1
                restored[list(excluded)] = 0  # rounding errors
                if probabilities is not None:
                    for class_index, of_class in enumerate(restored):
                        probabilities.put(class_index, slab, of_class)
                labels[slab] = decide(restored, model.thresholds)
            on_flop(tile.flop)
        verdict = assess(
            statistics,
            model.class_task,
            model.out_of_distribution_check,
            class_names=model.class_names,
            decided=decided,
            trained_mm=model.trained_spacing_mm,
            in_plane_mm=in_plane_mm(scan.prepared.source.spacing_mm),
            given_task=options.task,
            excluded_tasks={model.class_task[index] for index in excluded},
        )
        if probabilities is not None and not (options.is_strict and verdict.warning):
            probabilities.finish()
    rules, affine = postprocessing_rules(model, options), scan.prepared.source.affine
    before = from_ras(labels.copy(), affine) if rules and options.use_unprocessed else None
    changes = postprocess(labels, rules)
    return SegmentedScan(from_ras(labels, affine), statistics, verdict, changes, before)


def _is_in_core(volume: npt.NDArray[np.float32], tile: Tile) -> npt.NDArray[np.bool_]:
    """Whether each foreground voxel of `tile.computed` is in the tile's core; shape (voxels,)."""
    is_core = np.zeros([s.stop - s.start for s in tile.computed], bool)
    places = zip(tile.core, tile.computed, strict=True)
    is_core[tuple(slice(c.start - s.start, c.stop - s.start) for c, s in places)] = True
    of_foreground: npt.NDArray[np.bool_] = is_core[volume[tile.computed] != 0]
    return of_foreground
