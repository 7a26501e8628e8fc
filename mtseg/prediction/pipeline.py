"""From scan files to label files, for many scans in turn.

While one scan is computed, the next is read and the previous one is written.
`mtseg.prediction.scan` has the steps for one scan.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from mtseg.errors import InputError
from mtseg.inference.tiling import Plan
from mtseg.models.loading import ExportedModel
from mtseg.prediction.scan import (
    Options,
    Segmentation,
    load_scan,
    loading_bytes,
    plan_scan,
    segment_scan,
    write_results,
)
from mtseg.scans.reading import scan_stem
from mtseg.serving.connection import ModelGoneError, ServerError
from mtseg.system.hardware import free_bytes

MEMORY_SHARE = 0.5
"""Share of the free memory that is used if nothing else is asked for."""


_AHEAD_SHARE = 0.3
"""Share of what is left that reading the next scan meanwhile may take."""


@dataclasses.dataclass(frozen=True)
class Work:
    """What segmenting a scan will take.

    Attributes:
        plan: its tiles.
        peak_bytes: highest memory, above what the libraries take; an estimate.
    """

    plan: Plan
    peak_bytes: int


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
                scan = load_scan(path, options, budget) if reading is None else reading.result()
                left = budget - scan.held_bytes
                bytes_ahead = loading_bytes(following, options)
                if 0 < bytes_ahead < _AHEAD_SHARE * left:
                    ahead = reader.submit(load_scan, following, options, left)
                    left -= bytes_ahead
                plan = plan_scan(model, scan, left)
                peak = budget - left + plan.tile_bytes
                on_start(path, Work(plan, max(peak, scan.reading_bytes)))
                try:
                    labels, statistics = segment_scan(
                        model, scan, plan, stem_of(path), options, on_flop
                    )
                except ModelGoneError:
                    if model.load_newest is None:
                        raise
                    # Newer versions have taken its place: the scan is begun anew with the newest.
                    model = model.load_newest()
                    on_start(path, Work(plan, max(peak, scan.reading_bytes)))
                    labels, statistics = segment_scan(
                        model, scan, plan, stem_of(path), options, on_flop
                    )
                outcome = writer.submit(
                    write_results, model, scan, labels, statistics, stem_of(path), options
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
