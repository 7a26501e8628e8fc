"""From scan files to label files, for many scans in turn.

While one scan is computed, the next is read and the previous one is written.
`mtseg.prediction.scan` and `mtseg.prediction.segmentation` have the steps for one scan.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from mtseg.errors import DeviceMemoryError, InputError
from mtseg.inference.dense import DenseNetwork
from mtseg.inference.postprocessing import postprocessing_bytes
from mtseg.inference.tiling import Plan
from mtseg.models.loading import ExportedModel
from mtseg.prediction import results
from mtseg.prediction.results import Segmentation, write_results
from mtseg.prediction.scan import (
    LoadedScan,
    Options,
    excluded_classes,
    load_scan,
    loading_bytes,
)
from mtseg.prediction.segmentation import plan_scan, postprocessing_rules, segment_scan
from mtseg.scans.reading import scan_stem
from mtseg.serving.connection import ModelGoneError, ServerError
from mtseg.system.atomic_files import writing_to
from mtseg.system.hardware import free_bytes

MEMORY_SHARE = 0.5
"""Share of the free memory that is used if no other limit is given."""

_AHEAD_SHARE = 0.3
"""Share of the remaining memory that reading the next scan at the same time may use."""


@dataclasses.dataclass(frozen=True)
class Work:
    """What segmenting a scan takes.

    Attributes:
        plan: its tiles.
        peak_bytes: highest memory, without that of the libraries; an estimate.
    """

    plan: Plan
    peak_bytes: int


def segment_files(
    model: ExportedModel,
    scan_paths: Sequence[Path],
    out_dir: Path,
    options: Options | None = None,
    *,
    folders: Mapping[Path, Path] | None = None,
    on_start: Callable[[Path, Work], None] = lambda path, work: None,
    on_flop: Callable[[int], None] = lambda flop: None,
) -> Iterator[tuple[Path, Segmentation | InputError]]:
    """Segments scan files and writes the results.

    The work is done while the iterator is consumed.

    Args:
        model: from `mtseg.load`.
        scan_paths: files, or folders of DICOM series.
        out_dir: folder for `NAME_labels.nii.gz` and `NAME_verdict.json`, and if asked for
            `NAME_probabilities.nii.gz`, `NAME_labels.dcm` and `NAME_preview.png`; made if missing.
        options: how scans are segmented; None uses the defaults.
        folders: scan path -> folder below `out_dir` for its results; `out_dir` itself if missing.
        on_start: called with each scan and its work before it is computed; twice if it is computed
            again with a newer version of a served model, or in smaller tiles after the memory of
            the device was too small.
        on_flop: called after every tile with its number of floating-point operations.

    Yields:
        Each scan, in order, with what was written for it, or why it could not be segmented.

    Raises:
        ServerError: if the server of a model does not answer as it should. The scans before have
            been written.

    Example:
        >>> for path, outcome in segment_files(model, [Path("scan.nii.gz")], Path("out")):
        ...     print(path, outcome)
    """
    options = options or Options()
    budget = options.memory_bytes or MEMORY_SHARE * free_bytes()
    pending: deque[tuple[Path, Future[Segmentation]]] = deque()
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        ahead: Future[LoadedScan] | None = None
        for path, following in itertools.zip_longest(scan_paths, scan_paths[1:]):
            stem = out_dir / (folders or {}).get(path, Path()) / scan_stem(path)
            try:
                reading, ahead = ahead, None
                scan = (
                    load_scan(model, path, options, budget) if reading is None else reading.result()
                )
                left = budget - scan.held_bytes
                # The memory of the tiles is still in use when the label map is post-processed.
                shape = scan.prepared.source.array.shape
                left -= postprocessing_bytes(shape, postprocessing_rules(model, options))
                bytes_ahead = loading_bytes(model, following, options)
                if following is not None and 0 < bytes_ahead < _AHEAD_SHARE * left:
                    ahead = reader.submit(load_scan, model, following, options, left)
                    left -= bytes_ahead
                plan = plan_scan(model, scan, left)
                peak_bytes = max(int(budget - left) + plan.tile_bytes, scan.reading_bytes)
                work = Work(plan, peak_bytes)
                with writing_to(stem, results.WRITE_REMEDY):
                    stem.parent.mkdir(parents=True, exist_ok=True)
                probabilities = results.probabilities_path(stem)
                to_write = probabilities if options.use_probabilities else None
                excluded = excluded_classes(model, scan, options)
                on_start(path, work)
                try:
                    segmented = segment_scan(
                        model, scan, plan, options, to_write, excluded, on_flop
                    )
                except ModelGoneError:
                    if model.load_newest is None:
                        raise
                    # The server has replaced this version, so the scan is computed again with the
                    # newest one.
                    newest = model.load_newest()
                    if newest.label_table != model.label_table:
                        raise ServerError(
                            f"{newest.path}: this version has other labels than the one before. "
                            "Use another folder for its results."
                        ) from None
                    model = newest
                    on_start(path, work)
                    segmented = segment_scan(
                        model, scan, plan, options, to_write, excluded, on_flop
                    )
                except DeviceMemoryError:
                    smaller, plan = _smaller_parts(model, scan, plan)
                    on_start(path, Work(plan, peak_bytes))
                    try:
                        segmented = segment_scan(
                            smaller, scan, plan, options, to_write, excluded, on_flop
                        )
                    except DeviceMemoryError as error:
                        raise InputError(f"{path}: {error}") from error
                outcome = writer.submit(write_results, model, scan, segmented, stem, options)
            except ServerError:
                for done, future in pending:
                    yield done, _outcome_of(future)
                raise
            except InputError as error:
                outcome = Future()
                outcome.set_exception(error)
            pending.append((path, outcome))
            # The last scan but one is still being written while this one was computed.
            while pending and (len(pending) > 1 or following is None):
                done, future = pending.popleft()
                yield done, _outcome_of(future)


def _smaller_parts(
    model: ExportedModel, scan: LoadedScan, plan: Plan
) -> tuple[ExportedModel, Plan]:
    """The model and the plan for another try, after the device's memory was too small for a tile.

    Both the tiles and what passes the convolutions at once become smaller. A scan that is small
    already keeps its tiles.
    """
    if isinstance(model.network, DenseNetwork):
        model = dataclasses.replace(model, network=model.network.with_smaller_chunks())
    try:
        return model, plan_scan(model, scan, plan.tile_bytes / 2)
    except InputError:
        return model, plan


def _outcome_of(future: Future[Segmentation]) -> Segmentation | InputError:
    """What was written, or why not."""
    try:
        return future.result()
    except InputError as error:
        return error
