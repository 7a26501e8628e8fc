"""The process that computes: it segments scans for a page, one at a time.

It is a process of its own so that a computation can be cancelled at once, by ending it, and so that
a damaged scan or too little memory cannot end the page. `mtseg.viewer.computer` starts it. Orders
arrive on standard input and answers leave on standard output, one JSON object a line.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from mtseg.errors import InputError

if TYPE_CHECKING:
    from mtseg.models.loading import ExportedModel
    from mtseg.prediction.pipeline import Work

_WARM_UP_VOXELS = 24
"""Side of the cube that is computed first, to know the speed of this machine."""


class Worker:
    """Answers orders with a model.

    Args:
        model: from `mtseg.models.loading.load`.
        answers: where lines go.
    """

    def __init__(self, model: ExportedModel, answers: TextIO) -> None:
        self._model, self._answers = model, answers
        self._flop_per_second = _measure_speed(model)

    def say(self, event: str, **values: Any) -> None:
        """Sends a line."""
        say(self._answers, event, **values)

    def obey(self, order: Mapping[str, Any]) -> None:
        """Does what an order asks for, and answers `done` or `failed`."""
        # Paths relative to the scan's folder, so that messages and tables have its name alone.
        os.chdir(order["folder"])
        try:
            if order["do"] == "segment":
                result = self._segment(Path(order["scan"]), Path(order["out"]), order["options"])
            else:
                result = self._compare(Path(order["reference"]), Path(order["out"]), order)
        except InputError as error:
            self.say("failed", message=str(error))
        else:
            self.say("done", result=result)

    def _segment(self, scan: Path, out: Path, options: Mapping[str, Any]) -> dict[str, Any]:
        from mtseg.prediction.folder_results import write_folder_results
        from mtseg.prediction.options import Options
        from mtseg.prediction.pipeline import segment_files
        from mtseg.prediction.preview import centre_index
        from mtseg.scans.label_files import read_label_map
        from mtseg.scans.reading import scan_stem
        from mtseg.scans.volume import to_ras
        from mtseg.viewer.display import (
            LABELS_COPY,
            SCAN_COPY,
            write_display_copy,
            write_display_labels,
        )

        out.mkdir(parents=True, exist_ok=True)
        self.say("shown", **write_display_copy(out / SCAN_COPY, scan))
        start = time.monotonic()
        flop = 0

        def on_start(_: Path, work: Work) -> None:
            nonlocal start, flop
            start, flop = time.monotonic(), work.plan.flop
            self.say("computing", flop=flop, flop_per_second=self._flop_per_second)

        results = out / "results"
        ((_, outcome),) = segment_files(
            self._model,
            [scan],
            results,
            Options(**options),
            on_start=on_start,
            on_flop=lambda flop: self.say("computed", flop=flop),
        )
        if isinstance(outcome, InputError):
            raise outcome
        assert outcome.label_path is not None  # only --strict withholds labels
        self._flop_per_second = flop / max(time.monotonic() - start, 1e-3)
        write_folder_results(results, [Path(scan_stem(scan))], self._model.label_table)
        labels = read_label_map(outcome.label_path)
        write_display_labels(out / LABELS_COPY, labels)
        in_ras = to_ras(labels).array
        centre = zip(centre_index(in_ras), in_ras.shape, strict=True)
        return {
            "centre": [(index + 0.5) / size for index, size in centre],
            "files": sorted(path.name for path in results.iterdir()),
            "labels": outcome.label_path.name,
            "headline": outcome.verdict.describe(),
            "notes": list(outcome.notes),
            "verdict": json.loads(outcome.verdict_path.read_text()),
        }

    def _compare(self, reference: Path, out: Path, order: Mapping[str, Any]) -> dict[str, Any]:
        from mtseg.viewer.display import REFERENCE_COPY, write_display_labels
        from mtseg.viewer.reference import compare_with_reference

        labels = out / "results" / order["labels"]
        comparison = compare_with_reference(
            labels, reference, self._model.label_table, order["task"]
        )
        write_display_labels(out / REFERENCE_COPY, comparison.reference)
        return {
            "name": reference.name,
            "numbering": comparison.numbering,
            "dice": comparison.dice,
        }


def describe_model(model: ExportedModel) -> dict[str, Any]:
    """What the page says of the model."""
    check = model.out_of_distribution_check
    return {
        "tasks": [{"name": task.name, "title": task.title} for task in model.tasks],
        "classes": [
            {"name": e.name, "title": e.title, "task": e.task, "label": e.label, "color": e.color}
            for e in model.label_table
        ],
        "check": None if check is None else check.describe(),
    }


def say(answers: TextIO, event: str, **values: Any) -> None:
    """Sends a line; ends the process if nobody reads it."""
    try:
        answers.write(json.dumps({"event": event, **values}) + "\n")
        answers.flush()
    except OSError:
        os._exit(1)


def _measure_speed(model: ExportedModel) -> float:
    """Operations a second on this machine; the network's graph is traced on the way."""
    import numpy as np

    volume = np.ones([_WARM_UP_VOXELS] * 3, np.float32)
    plan = model.network.plan(volume)
    for _ in range(2):  # the first also traces the graph
        start = time.monotonic()
        for _ in model.network.run_all(volume, plan):
            pass
    return plan.flop / max(time.monotonic() - start, 1e-3)


def main() -> None:
    """Loads the model that the only argument names, in JSON, and obeys until the page ends."""
    # What is printed must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    orders: queue.Queue[dict[str, Any]] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            orders.put(json.loads(line))
        os._exit(0)  # the page has ended, perhaps in the middle of a computation

    threading.Thread(target=listen, daemon=True).start()
    from mtseg.cli.command import start_engine
    from mtseg.models.loading import load

    settings = json.loads(sys.argv[1])
    try:
        engine = start_engine(settings["model"], "auto", settings["devices"])
        model = load(settings["model"], engine=engine)
        say(answers, "model", **describe_model(model))
        worker = Worker(model, answers)
    except InputError as error:
        say(answers, "refused", message=str(error))
        return
    worker.say("ready")
    while True:
        worker.obey(orders.get())
