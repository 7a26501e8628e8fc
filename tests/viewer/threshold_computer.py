"""Segments by intensity thresholds, in the thread that asks: the page without a network."""

import threading
import time
from pathlib import Path

import numpy as np

from mtseg.errors import InputError
from mtseg.scans.label_files import write_label_map
from mtseg.scans.reading import read_scan, scan_stem
from mtseg.scans.volume import to_ras
from mtseg.system.atomic_files import write_json
from mtseg.tasks.label_table import LabelEntry
from mtseg.viewer.computer import Cancelled
from mtseg.viewer.display import write_display_copy, write_display_labels
from mtseg.viewer.reference import compare_with_reference

TABLE = (
    LabelEntry(1, "white_matter", "White matter", "brain", "#E69F00"),
    LabelEntry(2, "cortical_grey_matter", "Cortical grey matter", "brain", "#56B4E9"),
    LabelEntry(5, "cerebellum", "Cerebellum", "brain", "#0072B2"),
)
MODEL = {
    "tasks": [{"name": "brain", "title": "Brain tissue in T1-weighted MR"}],
    "classes": [
        {"name": e.name, "title": e.title, "task": e.task, "label": e.label, "color": e.color}
        for e in TABLE
    ],
    "check": "12 reference scans",
}


class ThresholdComputer:
    """What `mtseg.viewer.scan_list` asks of a computer.

    Attributes:
        may_go_on: clear it to hold a computation at its half.
        orders: all that were carried out or begun.
    """

    def __init__(self, table=TABLE):
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.orders = []
        self._table = table
        self._is_stopped = False

    def begin(self, on_event):
        on_event({"event": "model", **MODEL})

    def stop(self):
        self._is_stopped = True

    def run(self, order, on_event):
        self._is_stopped = False
        self.orders.append(order)
        if order["do"] == "compare":
            return self._compare(order)
        scan, out = Path(order["folder"], order["scan"]), Path(order["out"])
        results = out / "results"
        results.mkdir(parents=True)
        try:
            shown = write_display_copy(out / "scan.nii", scan)
        except InputError as error:
            raise InputError(str(error).replace(f"{scan.parent}/", "")) from error
        on_event({"event": "shown", **shown})
        on_event({"event": "computing", "flop": 100, "flop_per_second": 1e-3})
        on_event({"event": "computed", "flop": 50})
        while not self.may_go_on.wait(0.01):
            if self._is_stopped:
                raise Cancelled
        on_event({"event": "computed", "flop": 50})
        return self._write(read_scan(scan), out, results, scan_stem(scan))

    def _write(self, volume, out, results, stem):
        top = volume.array.max()
        places = np.searchsorted([0.2 * top, 0.55 * top, 0.8 * top], volume.array)
        labels = np.array([0, *(e.label for e in self._table)], np.uint8)[places]
        label_path = results / f"{stem}_labels.nii.gz"
        write_label_map(label_path, labels, volume, self._table)
        volume = type(volume)(labels, volume.affine)
        write_display_labels(out / "labels.nii", volume)
        classes = [
            {
                "class": entry.name, "task": entry.task, "label": entry.label,
                "num_voxels": int((labels == entry.label).sum()),
                "volume_ml": round(float((labels == entry.label).sum() * volume.voxel_ml), 3),
            }
            for entry in self._table
        ]  # fmt: skip
        verdict = {
            "status": "ok", "warning": None, "not_assessed": None, "task": "brain",
            "classes": classes, "confidence": {e.name: 0.9 for e in self._table},
        }  # fmt: skip
        write_json(results / f"{stem}_verdict.json", verdict)
        return {
            "centre": [0.5] * 3 if not labels.any() else _centre(to_ras(volume).array),
            "files": sorted(path.name for path in results.iterdir()),
            "labels": label_path.name,
            "headline": "recognised as brain (100 % of labelled voxels, confidence 0.90)",
            "notes": ["at 1 mm, the voxel size of brain"],
            "verdict": verdict,
        }

    def _compare(self, order):
        reference = Path(order["folder"], order["reference"])
        out = Path(order["out"])
        found = compare_with_reference(
            out / "results" / order["labels"], reference, self._table, order["task"]
        )
        write_display_labels(out / "reference.nii", found.reference)
        return {"name": reference.name, "numbering": found.numbering, "dice": found.dice}


def _centre(labels):
    return [
        float((np.median(where) + 0.5) / size)
        for where, size in zip(np.nonzero(labels), labels.shape, strict=True)
    ]


def wait_until(condition, seconds=20):
    """Waits for another thread."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.01)
