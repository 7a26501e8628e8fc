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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from mtseg.errors import InputError

if TYPE_CHECKING:
    from mtseg.experiments.stored import StoredExperiments
    from mtseg.models.loading import ExportedModel
    from mtseg.prediction.pipeline import Work
    from mtseg.tasks.label_table import LabelEntry

_WARM_UP_VOXELS = 24
"""Side of the cube that is computed first, to know the speed of this machine."""

_FEWEST_FLOP = 1e11
"""Scans with fewer operations, as those with hardly any foreground, say nothing about the speed."""


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

    def obey(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Does what an order asks for, and returns the result.

        Raises:
            InputError: if it cannot be done.
        """
        # Paths relative to the scan's folder, so that messages and tables have its name alone.
        try:
            os.chdir(order["folder"])
        except OSError as error:
            raise InputError(
                f"{order['folder']}: cannot be opened any more ({error.strerror}). Restore the "
                "folder of the scan and try again."
            ) from error
        if order["do"] == "segment":
            return self._segment(Path(order["scan"]), Path(order["out"]), order["options"])
        return self._compare(Path(order["reference"]), Path(order["out"]), order)

    def _segment(self, scan: Path, out: Path, options: Mapping[str, Any]) -> dict[str, Any]:
        from mtseg.prediction.folder_results import write_folder_results
        from mtseg.prediction.options import Options
        from mtseg.prediction.pipeline import segment_files
        from mtseg.prediction.preview import centre_index
        from mtseg.prediction.results import unprocessed_path
        from mtseg.scans.label_files import read_label_map
        from mtseg.scans.reading import scan_stem
        from mtseg.scans.volume import to_ras
        from mtseg.viewer.display import SCAN_COPY, show_label_map, write_display_copy

        out.mkdir(parents=True, exist_ok=True)
        self.say("shown", **write_display_copy(out / SCAN_COPY, scan))
        start = end = time.monotonic()
        flop = 0

        def on_start(_: Path, work: Work) -> None:
            nonlocal start, flop
            start, flop = time.monotonic(), work.plan.flop
            self.say("computing", flop=flop, flop_per_second=self._flop_per_second)

        def on_flop(of_tile: int) -> None:
            nonlocal end
            end = time.monotonic()
            self.say("computed", flop=of_tile)

        results = out / "results"
        ((_, outcome),) = segment_files(
            self._model,
            [scan],
            results,
            Options(**options, use_unprocessed=True),
            on_start=on_start,
            on_flop=on_flop,
        )
        if isinstance(outcome, InputError):
            raise outcome
        assert outcome.label_path is not None  # only --strict withholds labels
        if flop >= _FEWEST_FLOP:
            self._flop_per_second = flop / max(end - start, 1e-3)
        write_folder_results(results, [Path(scan_stem(scan))], self._model.label_table)
        labels = read_label_map(outcome.label_path)
        maps = {"labels": ("Network", outcome.label_path, labels)}
        before = unprocessed_path(results / scan_stem(scan))
        if before.is_file():
            maps = {
                "labels": ("After post-processing", outcome.label_path, labels),
                "unprocessed": ("Before", before, read_label_map(before)),
            }
        in_ras = to_ras(labels).array
        centre = zip(centre_index(in_ras), in_ras.shape, strict=True)
        return {
            "centre": [(index + 0.5) / size for index, size in centre],
            "files": sorted(path.name for path in results.iterdir()),
            "labels": outcome.label_path.name,
            "label_maps": [
                show_label_map(out, key, title, of_map, self._model.label_table, path.name)
                for key, (title, path, of_map) in maps.items()
            ],
            "headline": outcome.verdict.describe(),
            "notes": list(outcome.notes),
            "verdict": json.loads(outcome.verdict_path.read_text()),
        }

    def _compare(self, reference: Path, out: Path, order: Mapping[str, Any]) -> dict[str, Any]:
        from mtseg.viewer.reference import show_reference

        return show_reference(
            out, order["label_maps"], reference, self._model.label_table, order["task"]
        )


def describe_model(model: ExportedModel) -> dict[str, Any]:
    """What the page says of the model."""
    check = model.out_of_distribution_check
    return {
        "tasks": [{"name": task.name, "title": task.title} for task in model.tasks],
        "classes": describe_classes(model.label_table),
        "check": None if check is None else check.describe(),
        "networks": None,
    }


def describe_classes(table: Sequence[LabelEntry]) -> list[dict[str, Any]]:
    """What the page says of labels."""
    return [
        {"name": e.name, "title": e.title, "task": e.task, "label": e.label, "color": e.color}
        for e in table
    ]


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
    """Begins as the only argument says, in JSON, and obeys orders until the page ends."""
    # What is printed must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    orders: queue.Queue[dict[str, Any]] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            orders.put(json.loads(line))
        os._exit(0)  # the page has ended, perhaps in the middle of a computation

    threading.Thread(target=listen, daemon=True).start()
    settings = json.loads(sys.argv[1])
    try:
        obey = _begin(settings, answers)
    except InputError as error:
        say(answers, "refused", message=str(error))
        return
    say(answers, "ready")
    while True:
        try:
            result = obey(orders.get())
        except InputError as error:
            say(answers, "failed", message=str(error))
        else:
            say(answers, "done", result=result)


def _begin(
    settings: Mapping[str, Any], answers: TextIO
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Loads the model, or finds the experiments; returns what carries orders out.

    Raises:
        InputError: if that cannot be done.
    """
    if settings.get("experiments") is not None:
        from mtseg.experiments.stored import StoredExperiments

        stored = StoredExperiments(Path(settings["experiments"]), settings["data_dir"])
        classes = describe_classes(stored.label_table)
        say(answers, "model", **stored.describe(), classes=classes, check=None)
        return lambda order: _show(stored, order, answers)
    from mtseg.cli.command import start_engine
    from mtseg.models.loading import load
    from mtseg.prediction.options import Options
    from mtseg.prediction.scan import wanted_tasks

    engine = start_engine(settings["model"], "auto", settings["devices"])
    model = load(settings["model"], engine=engine)
    wanted_tasks(model, Options(task=settings["task"]))
    say(answers, "model", **describe_model(model))
    return Worker(model, answers).obey


def _show(stored: StoredExperiments, order: Mapping[str, Any], answers: TextIO) -> dict[str, Any]:
    """Writes copies of a test scan, its reference and the labels of every network for its task.

    Returns:
        What a segmented scan has on the page, and `reference`; there is no verdict.

    Raises:
        InputError: if a record or label map is missing or damaged.
    """
    from mtseg.prediction.preview import centre_index
    from mtseg.viewer.display import (
        REFERENCE_COPY,
        SCAN_COPY,
        show_label_map,
        write_display_labels,
        write_display_volume,
    )

    scan, out = stored.read(order["task"], order["subject"]), Path(order["out"])
    out.mkdir(parents=True, exist_ok=True)
    say(answers, "shown", **write_display_volume(out / SCAN_COPY, scan.image))
    write_display_labels(out / REFERENCE_COPY, scan.reference)
    label_maps = [
        show_label_map(out, f"network{of.number}", of.title, of.labels, stored.label_table)
        for of in scan.networks
    ]
    shape = scan.reference.array.shape
    centre = zip(centre_index(scan.reference.array), shape, strict=True)
    return {
        "centre": [(index + 0.5) / size for index, size in centre],
        "files": [],
        "labels": None,
        "label_maps": label_maps,
        "headline": "",
        "notes": ["the scan and all labels are on the grid that the network was trained on"],
        "verdict": None,
        "reference": {
            "name": "reference",
            "numbering": "as prepared",
            "dice": {f"network{of.number}": of.dice for of in scan.networks},
        },
    }
