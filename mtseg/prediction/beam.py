"""Prediction on Apache Beam: many worker processes segment the scans of one list.

Each worker process loads the model once, by Beam's own RunInference, and writes the same files as
`mtseg-predict`. All workers must see scans, model and results under the same paths.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mtseg.errors import InputError
from mtseg.models.loading import ExportedModel, load
from mtseg.prediction.pipeline import segment_files
from mtseg.prediction.scan import Options
from mtseg.scans.discovery import ListedScan
from mtseg.system.atomic_files import remove_path, temporary_path
from mtseg.system.processes import make_pipeline

try:
    from apache_beam.ml.inference.base import ModelHandler
except ImportError:  # `make_pipeline` says what to install.
    ModelHandler = object


class ScanHandler(ModelHandler):
    """What RunInference does with a scan.

    Args:
        model: folder of the model; None is the one that comes with the package.
        out: folder of the results.
        options: how scans are segmented.
        precision: of the convolutions; None is the faster one on each worker.
    """

    def __init__(
        self, model: Path | None, out: Path, options: Options, precision: str | None
    ) -> None:
        super().__init__()
        self._model, self._out = model, out
        self._options, self._precision = options, precision

    def load_model(self) -> ExportedModel:
        """Loads the model, once a worker process."""
        return load(self._model, self._precision)

    def batch_elements_kwargs(self) -> dict[str, int]:
        """One scan at a time: more would leave workers idle at the end."""
        return {"min_batch_size": 1, "max_batch_size": 1}

    def run_inference(
        self,
        batch: Sequence[ListedScan],
        model: ExportedModel,
        inference_args: dict[str, Any] | None = None,
    ) -> Iterable[str]:
        """Segments scans; gives a line of JSON for each, with why it failed if it did."""
        paths = [scan.path for scan in batch]
        outcomes = segment_files(
            model, paths, self._out, self._options, folders=dict(map(tuple, batch))
        )
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
        out: folder of the results.
        options: how.
        precision: of the convolutions; None is the faster one on each worker.
        runner: such as `DirectRunner` or `FlinkRunner`.
        runner_options: as on Beam's command line.

    Returns:
        For each scan that failed, why.

    Raises:
        InputError: if Beam is missing, the runner is unknown, or there is no model.
    """
    pipeline = make_pipeline(runner, runner_options)
    import apache_beam as beam
    from apache_beam.ml.inference.base import RunInference

    out.mkdir(parents=True, exist_ok=True)
    outcomes = temporary_path(out / "outcomes")
    absolute = [ListedScan(scan.path.absolute(), scan.folder) for scan in scans]
    failures = {}
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
