"""Prediction on Apache Beam: many worker processes segment the scans of one list.

Each worker process loads the model once, by Beam's own RunInference, and writes the same files as
`mtseg-predict`. All workers must see scans, model and results under the same paths.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtseg.errors import InputError
from mtseg.models.loading import ExportedModel, load
from mtseg.prediction.options import Options
from mtseg.prediction.pipeline import segment_files
from mtseg.scans.discovery import ListedScan
from mtseg.system.atomic_files import remove_path, temporary_path
from mtseg.system.processes import make_pipeline

if TYPE_CHECKING:
    from apache_beam.ml.inference.base import ModelHandler

    _Handler = ModelHandler[ListedScan, str, ExportedModel]
else:
    try:
        from apache_beam.ml.inference.base import ModelHandler as _Handler
    except ImportError:  # `make_pipeline` tells the user what to install
        _Handler = object


@dataclasses.dataclass(frozen=True)
class ScanOutcome:
    """What a worker says of a scan.

    Attributes:
        scan: its path.
        error: why it could not be segmented; None if it was.
        headline: one line that begins with its state; empty after an error.
        has_warning: whether the verdict warns of its labels.
        is_withheld: whether the labels were withheld because of that.
    """

    scan: str
    error: str | None
    headline: str = ""
    has_warning: bool = False
    is_withheld: bool = False


class ScanHandler(_Handler):
    """How Beam's RunInference segments scans.

    Args:
        model: folder of the model; None is the one that comes with the package.
        out: folder for the results.
        options: how scans are segmented.
        precision: of the convolutions; None is the faster one of each worker.
        may_replace: as for `mtseg.prediction.pipeline.segment_files`.
        is_explained: likewise.
    """

    def __init__(
        self,
        model: Path | None,
        out: Path,
        options: Options,
        precision: str | None,
        *,
        may_replace: bool = True,
        is_explained: bool = False,
    ) -> None:
        super().__init__()
        self._model, self._out = model, out
        self._options, self._precision = options, precision
        self._may_replace, self._is_explained = may_replace, is_explained

    def load_model(self) -> ExportedModel:
        """Loads the model; Beam calls this once per worker process."""
        return load(self._model, self._precision)

    def batch_elements_kwargs(self) -> dict[str, int]:
        """One scan per batch; with more, workers would be idle at the end."""
        return {"min_batch_size": 1, "max_batch_size": 1}

    def run_inference(
        self,
        batch: Sequence[ListedScan],
        model: ExportedModel,
        inference_args: dict[str, Any] | None = None,
    ) -> Iterable[str]:
        """Segments scans.

        Yields:
            For each scan a line of JSON, of a `ScanOutcome`.
        """
        folders = {scan.path: scan.folder for scan in batch}
        outcomes = segment_files(
            model, list(folders), self._out, self._options, folders=folders,
            may_replace=self._may_replace, is_explained=self._is_explained,
        )  # fmt: skip
        for path, outcome in outcomes:
            if isinstance(outcome, InputError):
                of_scan = ScanOutcome(str(path), str(outcome))
            else:
                has_warning = outcome.verdict.warning is not None
                line = outcome.headline(path)
                of_scan = ScanOutcome(str(path), None, line, has_warning, outcome.is_withheld)
            yield json.dumps(dataclasses.asdict(of_scan))


def segment_on_beam(
    scans: Sequence[ListedScan],
    model: Path | None,
    out: Path,
    options: Options,
    precision: str | None,
    runner: str,
    runner_options: Sequence[str] = (),
    *,
    may_replace: bool = True,
    is_explained: bool = False,
) -> list[ScanOutcome]:
    """Segments scans on the workers of a Beam runner.

    Args:
        scans: from `mtseg.scans.discovery.list_scans`.
        model: folder of the model; None is the one that comes with the package.
        out: folder for the results.
        options: how scans are segmented.
        precision: of the convolutions; None is the faster one of each worker.
        runner: name of the runner, such as `DirectRunner` or `FlinkRunner`.
        runner_options: options of the runner, as on Beam's command line.
        may_replace: as for `mtseg.prediction.pipeline.segment_files`.
        is_explained: likewise.

    Returns:
        What the workers say of each scan, in the order in which they finished.

    Raises:
        InputError: if Beam is not installed, the runner is unknown, or there is no model.
    """
    pipeline = make_pipeline(runner, runner_options)
    import apache_beam as beam
    from apache_beam.ml.inference.base import RunInference

    out.mkdir(parents=True, exist_ok=True)
    outcomes = temporary_path(out / "outcomes")
    absolute = [ListedScan(scan.path.absolute(), scan.folder) for scan in scans]
    found: list[ScanOutcome] = []
    handler = ScanHandler(
        model, out, options, precision, may_replace=may_replace, is_explained=is_explained
    )
    try:
        with pipeline:
            _ = (
                pipeline
                | beam.Create(absolute)
                | beam.Reshuffle()
                | RunInference(handler)
                | beam.io.WriteToText(str(outcomes / "outcomes"))
            )
        for shard in sorted(outcomes.iterdir()):
            found += [ScanOutcome(**json.loads(line)) for line in shard.read_text().splitlines()]
    finally:
        remove_path(outcomes)
    return found
