"""Prediction on Apache Beam: many worker processes segment the scans of one list.

Each worker process loads the model once, by Beam's own RunInference, and writes the same files as
`mtseg-predict`. All workers must see scans, model and results under the same paths.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtseg.errors import InputError
from mtseg.models.loading import ExportedModel, load
from mtseg.prediction.pipeline import segment_files
from mtseg.prediction.scan import Options
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


class ScanHandler(_Handler):
    """How Beam's RunInference segments scans.

    Args:
        model: folder of the model; None is the one that comes with the package.
        out: folder for the results.
        options: how scans are segmented.
        precision: of the convolutions; None is the faster one of each worker.
    """

    def __init__(
        self, model: Path | None, out: Path, options: Options, precision: str | None
    ) -> None:
        super().__init__()
        self._model, self._out = model, out
        self._options, self._precision = options, precision

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
            For each scan a line of JSON: its path, and the error message or null.
        """
        folders = {scan.path: scan.folder for scan in batch}
        outcomes = segment_files(model, list(folders), self._out, self._options, folders=folders)
        for path, outcome in outcomes:
            error = str(outcome) if isinstance(outcome, InputError) else None
            yield json.dumps({"scan": str(path), "error": error})


def segment_on_beam(
    scans: Sequence[ListedScan],
    model: Path | None,
    out: Path,
    options: Options,
    precision: str | None,
    runner: str,
    runner_options: Sequence[str] = (),
) -> dict[str, str]:
    """Segments scans on the workers of a Beam runner.

    Args:
        scans: from `mtseg.scans.discovery.list_scans`.
        model: folder of the model; None is the one that comes with the package.
        out: folder for the results.
        options: how scans are segmented.
        precision: of the convolutions; None is the faster one of each worker.
        runner: name of the runner, such as `DirectRunner` or `FlinkRunner`.
        runner_options: options of the runner, as on Beam's command line.

    Returns:
        Scan path -> error message, for each scan that failed.

    Raises:
        InputError: if Beam is not installed, the runner is unknown, or there is no model.
    """
    pipeline = make_pipeline(runner, runner_options)
    import apache_beam as beam
    from apache_beam.ml.inference.base import RunInference

    out.mkdir(parents=True, exist_ok=True)
    outcomes = temporary_path(out / "outcomes")
    absolute = [ListedScan(scan.path.absolute(), scan.folder) for scan in scans]
    failures: dict[str, str] = {}
    try:
        with pipeline:
            _ = (
                pipeline
                | beam.Create(absolute)
                | beam.Reshuffle()
                | RunInference(ScanHandler(model, out, options, precision))
                | beam.io.WriteToText(str(outcomes / "outcomes"))
            )
        for shard in sorted(outcomes.iterdir()):
            for line in shard.read_text().splitlines():
                outcome = json.loads(line)
                if outcome["error"] is not None:
                    failures[outcome["scan"]] = outcome["error"]
    finally:
        remove_path(outcomes)
    return failures
