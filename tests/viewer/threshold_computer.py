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
from mtseg.viewer.display import show_label_map, write_display_copy
from mtseg.viewer.reference import show_reference

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
    "networks": None,
}


class ThresholdComputer:
    """What `mtseg.viewer.scan_list` asks of a computer.

    Attributes:
        may_go_on: clear it to hold a computation at its half.
        has_postprocessing: whether the voxels of the darkest class are removed afterwards.
        orders: all that were carried out or begun.
    """

    def __init__(self, table=TABLE):
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.has_postprocessing = False
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
        maps = {"labels": ("Network", f"{stem}_labels.nii.gz", labels)}
        if self.has_postprocessing:
            before, labels = labels, np.where(labels == 2, 0, labels).astype(np.uint8)
            maps = {
                "labels": ("After post-processing", f"{stem}_labels.nii.gz", labels),
                "unprocessed": ("Before", f"{stem}_labels_unprocessed.nii.gz", before),
            }
        for _, name, of_map in maps.values():
            write_label_map(results / name, of_map, volume, self._table)
        label_maps = [
            show_label_map(out, key, title, type(volume)(of_map, volume.affine), self._table, name)
            for key, (title, name, of_map) in maps.items()
        ]
        volume = type(volume)(labels, volume.affine)
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
            "labels": f"{stem}_labels.nii.gz",
            "label_maps": label_maps,
            "headline": "recognised as brain (100 % of labelled voxels, confidence 0.90)",
            "notes": ["at 1 mm, the voxel size of brain"],
            "verdict": verdict,
        }

    def _compare(self, order):
        reference = Path(order["folder"], order["reference"])
        return show_reference(
            Path(order["out"]), order["label_maps"], reference, self._table, order["task"]
        )


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
