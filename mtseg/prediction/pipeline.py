"""Segmentation of many scans in turn: `segment_scans`, and `segment_files` from files to files.

While one scan is computed, the next is read and the results of the previous one are written.
`mtseg.prediction.scan` and `mtseg.prediction.segmentation` have the steps for one scan.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

from mtseg.errors import DeviceMemoryError, InputError
from mtseg.inference.dense import DenseNetwork
from mtseg.inference.engines.averaging import MeanNetwork, require_symmetric
from mtseg.inference.postprocessing import postprocessing_bytes
from mtseg.inference.tiling import Plan
from mtseg.models.loading import ExportedModel
from mtseg.prediction import results
from mtseg.prediction.folder_results import write_label_tables
from mtseg.prediction.options import Options
from mtseg.prediction.outcome import Segmentation, make_segmentation
from mtseg.prediction.probabilities import ProbabilityArray, ProbabilityFile, ProbabilityStore
from mtseg.prediction.results import ScanResults, write_results
from mtseg.prediction.scan import LoadedScan, excluded_classes, load_scan, loading_bytes
from mtseg.prediction.segmentation import (
    SegmentedScan,
    plan_scan,
    postprocessing_rules,
    segment_scan,
)
from mtseg.scans.formats.headers import ScanFile
from mtseg.scans.reading import scan_stem
from mtseg.serving.connection import ModelGoneError, ServerError
from mtseg.system.atomic_files import lock_folder, writing_to
from mtseg.system.hardware import free_bytes

MEMORY_SHARE = 0.5
"""Share of the free memory that is used if no other limit is given."""

_Result_co = TypeVar("_Result_co", covariant=True)
_Result = TypeVar("_Result")

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


class Output(Protocol[_Result_co]):
    """Where the results of scans go, for example to files."""

    def held_bytes(self, scan: LoadedScan) -> int:
        """Memory for the probabilities of a scan; 0 if they go to a file or are not wanted."""

    def begin(self, scan: LoadedScan) -> ProbabilityStore | None:
        """Prepares for a scan before it is computed.

        Returns:
            What collects its probabilities; None if they are not wanted.

        Raises:
            InputError: if its results cannot be kept.
        """

    def finish(self, segmentation: Segmentation) -> _Result_co:
        """Takes the results of a scan, in another thread.

        Raises:
            InputError: if they cannot be kept.
        """


def segment_scans(
    model: ExportedModel,
    scans: Sequence[Path | ScanFile],
    output: Output[_Result],
    options: Options,
    *,
    on_start: Callable[[Path, Work], None] = lambda path, work: None,
    on_flop: Callable[[int], None] = lambda flop: None,
) -> Iterator[tuple[Path, _Result | InputError]]:
    """Segments scans, each of which is a file or in memory.

    The work is done while the iterator is consumed.

    Args:
        model: from `mtseg.load`.
        scans: files, folders of DICOM series, or scans in memory.
        output: where their results go.
        options: how they are segmented.
        on_start: called with each scan and its work before it is computed; twice if it is computed
            again with a newer version of a served model, or in smaller tiles after the memory of
            the device was too small.
        on_flop: called after every tile with its number of floating-point operations.

    Yields:
        The path of each scan (what it is called if it is in memory), in order, with what `output`
        made of it, or why it could not be segmented.

    Raises:
        InputError: if flips are asked for, and a task of the model does not allow them.
        ServerError: if the server of a model does not answer as it should. The scans before have
            been given to `output`.
    """
    if model.renewal is not None:
        model = model.renewal.newest or model
    model = with_flips(model, options)
    budget = options.memory_bytes or MEMORY_SHARE * free_bytes()
    pending: deque[tuple[Path, Future[_Result]]] = deque()
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        ahead: Future[LoadedScan] | None = None
        for given, following in itertools.zip_longest(scans, scans[1:]):
            path = given.path if isinstance(given, ScanFile) else given
            try:
                reading, ahead = ahead, None
                try:
                    scan = (
                        load_scan(model, given, options, budget)
                        if reading is None
                        else reading.result()
                    )
                except ModelGoneError as error:  # its voxel size was to be recognised
                    model = _renew(model, options, error)
                    scan = load_scan(model, given, options, budget)
                left = budget - scan.held_bytes
                # The memory of the tiles is still in use when the label map is post-processed.
                shape = scan.prepared.source.array.shape
                rules = postprocessing_rules(model, options)
                left -= postprocessing_bytes(shape, rules)
                if rules and options.use_unprocessed:
                    left -= 2 * math.prod(shape)  # as class indices and as labels
                bytes_ahead = loading_bytes(model, following, options)
                if following is not None and 0 < bytes_ahead < _AHEAD_SHARE * left:
                    ahead = reader.submit(load_scan, model, following, options, left)
                    left -= bytes_ahead
                left -= output.held_bytes(scan)
                plan = plan_scan(model, scan, left)
                peak_bytes = max(int(budget - left) + plan.tile_bytes, scan.reading_bytes)
                excluded = excluded_classes(model, scan, options)
                store = output.begin(scan)
                on_start(path, Work(plan, peak_bytes))
                try:
                    segmented = segment_scan(model, scan, plan, options, store, excluded, on_flop)
                except ModelGoneError as error:
                    model = _renew(model, options, error)
                    on_start(path, Work(plan, peak_bytes))
                    segmented = segment_scan(model, scan, plan, options, store, excluded, on_flop)
                except DeviceMemoryError:
                    smaller, plan = _smaller_parts(model, scan, plan)
                    on_start(path, Work(plan, peak_bytes))
                    try:
                        segmented = segment_scan(
                            smaller, scan, plan, options, store, excluded, on_flop
                        )
                    except DeviceMemoryError as error:
                        raise InputError(f"{path}: {error}") from error
                outcome = writer.submit(_finish, output, model, scan, segmented, options, store)
            except ServerError:
                for done, future in pending:
                    result = _outcome_of(future)
                    yield done, result
                raise
            except InputError as error:
                outcome = Future()
                outcome.set_exception(error)
            pending.append((path, outcome))
            # The last scan but one is still being written while this one was computed.
            while pending and (len(pending) > 1 or following is None):
                done, future = pending.popleft()
                result = _outcome_of(future)
                yield done, result


def _renew(model: ExportedModel, options: Options, error: ModelGoneError) -> ExportedModel:
    """The newest version of a served model, after the server has replaced the one that is held.

    Raises:
        ModelGoneError: the error, if the version was given by the user.
        ServerError: if the newest version has other labels.
    """
    if model.renewal is None:
        raise error
    newest = model.renewal.load()
    ours, theirs = (
        [(entry.label, entry.name, entry.task) for entry in each.label_table]
        for each in (model, newest)
    )
    if ours != theirs:
        raise ServerError(
            f"{newest.path}: this version has other labels than the one before. Use another folder "
            "for its results."
        ) from None
    model.renewal.newest = newest
    return with_flips(newest, options)


def with_flips(model: ExportedModel, options: Options) -> ExportedModel:
    """The model that the options ask for: the same, or one that also computes mirrored scans.

    Raises:
        InputError: if flips are asked for, and a task that a scan may be for does not allow them.
    """
    if not options.use_flips:
        return model
    require_symmetric(model.tasks, options.task)
    network = MeanNetwork((model.network,), is_mirrored=True)
    return dataclasses.replace(model, network=network)


def _finish(
    output: Output[_Result],
    model: ExportedModel,
    scan: LoadedScan,
    segmented: SegmentedScan,
    options: Options,
    store: ProbabilityStore | None,
) -> _Result:
    array = store.array if isinstance(store, ProbabilityArray) else None
    return output.finish(make_segmentation(model, scan, segmented, options, array))


def segment_files(
    model: ExportedModel,
    scan_paths: Sequence[Path],
    out_dir: Path,
    options: Options | None = None,
    *,
    folders: Mapping[Path, Path] | None = None,
    may_replace: bool = True,
    is_explained: bool = False,
    on_start: Callable[[Path, Work], None] = lambda path, work: None,
    on_flop: Callable[[int], None] = lambda flop: None,
) -> Iterator[tuple[Path, ScanResults | InputError]]:
    """Segments scan files and writes the results.

    The work is done while the iterator is consumed.

    Args:
        model: from `mtseg.load`.
        scan_paths: files, or folders of DICOM series.
        out_dir: folder for `NAME_labels.nii.gz` and `NAME_verdict.json`, and if asked for
            `NAME_probabilities.nii.gz`, `NAME_labels.dcm` and `NAME_preview.png`; made if missing.
        options: how scans are segmented; None uses the defaults.
        folders: scan path -> folder below `out_dir` for its results; `out_dir` itself if missing.
        may_replace: whether to replace results of another scan of the same name, and files that
            explain other labels, which another command may have written meanwhile.
        is_explained: whether `out_dir` gets the files that explain the labels (see
            `mtseg.prediction.folder_results`).
        on_start: as for `segment_scans`.
        on_flop: as for `segment_scans`.

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
    output = _Files(
        out_dir, folders or {}, model.network.num_classes, options, may_replace, is_explained
    )
    return segment_scans(model, scan_paths, output, options, on_start=on_start, on_flop=on_flop)


@dataclasses.dataclass(frozen=True)
class _Files:
    """An `Output` that writes files."""

    out_dir: Path
    folders: Mapping[Path, Path]
    num_classes: int
    options: Options
    may_replace: bool
    is_explained: bool

    def held_bytes(self, scan: LoadedScan) -> int:
        return 0

    def begin(self, scan: LoadedScan) -> ProbabilityStore | None:
        stem = self._stem(scan)
        if not self.may_replace:  # before it is computed, if they are there by now
            results.refuse_other_scan(stem, scan.path)
        with writing_to(stem, results.WRITE_REMEDY):
            stem.parent.mkdir(parents=True, exist_ok=True)
        if not self.options.use_probabilities:
            return None
        path, verdict_path = results.probabilities_path(stem), results.verdict_path(stem)
        return ProbabilityFile(path, scan.prepared.source, self.num_classes, verdict_path)

    def finish(self, segmentation: Segmentation) -> ScanResults:
        stem, path = self._stem(segmentation.scan), segmentation.scan.path
        folder = self.out_dir if self.is_explained else stem.parent
        # Several commands may write here: between the checks and the files, no other one does.
        with contextlib.ExitStack() as stack:
            with writing_to(stem, results.WRITE_REMEDY):
                stack.enter_context(lock_folder(folder))
            if not self.may_replace:
                results.refuse_other_scan(stem, path)
            if self.is_explained:
                write_label_tables(self.out_dir, segmentation.model.label_table, self.may_replace)
            return write_results(segmentation, stem)

    def _stem(self, scan: LoadedScan) -> Path:
        return self.out_dir / self.folders.get(scan.path, Path()) / scan_stem(scan.path)


def _smaller_parts(
    model: ExportedModel, scan: LoadedScan, plan: Plan
) -> tuple[ExportedModel, Plan]:
    """The model and the plan for another try, after the device's memory was too small for a tile.

    Both the tiles and what passes the convolutions at once become smaller. A scan that is small
    already keeps its tiles.
    """
    if isinstance(model.network, DenseNetwork | MeanNetwork):
        model = dataclasses.replace(model, network=model.network.with_smaller_chunks())
    try:
        return model, plan_scan(model, scan, plan.tile_bytes / 2)
    except InputError:
        return model, plan


def _outcome_of(future: Future[_Result]) -> _Result | InputError:
    """What became of a scan, or why nothing did."""
    try:
        return future.result()
    except InputError as error:
        return error
