"""A head and the same brain without its skull: does a network give both the same labels?

    python benchmarks/heads.py HEAD STRIPPED [--model DIR] [--task brain]

For example Colin27, of which Debian's package mricron-data has both: ch2.nii.gz and ch2bet.nii.gz.
The two scans must be on the same grid. No label is manual here: what is compared is the network
with itself. Prints for each class of the task the overlap (Dice) between both label maps, and its
volume with and without the skull. About three minutes on two cores.

    mean_overlap   mean over the classes
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from comparison import finish, make_parser, run_benchmark

import mtseg
from mtseg.errors import InputError
from mtseg.evaluation.metrics import dice
from mtseg.prediction.pipeline import segment_files
from mtseg.scans.reading import open_scan


def main() -> None:
    """Runs the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("head", type=Path, metavar="HEAD", help="a scan with its skull")
    parser.add_argument("stripped", type=Path, metavar="STRIPPED", help="the same without it")
    parser.add_argument("--model", help="folder of a model (the one that comes with mtseg)")
    parser.add_argument("--task", default="brain", help="whose classes count (%(default)s)")
    arguments = parser.parse_args()
    head, stripped = open_scan(arguments.head), open_scan(arguments.stripped)
    if head.shape != stripped.shape or not np.allclose(head.affine, stripped.affine, atol=1e-3):
        raise InputError(f"{arguments.stripped}: is not on the grid of {arguments.head}.")
    model = mtseg.load(arguments.model)
    entries = [entry for entry in model.label_table if entry.task == arguments.task]
    if not entries:
        raise InputError(f"--task: the model has no task {arguments.task}.")
    label_maps, volumes_ml = [], []
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("head", "stripped"):
            path, out = getattr(arguments, kind), Path(folder) / kind
            ((_, outcome),) = segment_files(model, [path], out)
            if isinstance(outcome, Exception):
                raise outcome
            print(f"{kind}: {'; '.join(outcome.notes)}", flush=True)
            label_maps.append(np.asarray(nib.load(outcome.label_path).dataobj))
            volumes_ml.append(outcome.volumes_ml)
    overlaps = []
    for entry in entries:
        with_skull, without = (label_map == entry.label for label_map in label_maps)
        overlaps.append(dice(with_skull, without))
        ml, ml_without = (of_scan[entry.name] for of_scan in volumes_ml)
        shown = "undefined" if overlaps[-1] is None else f"{overlaps[-1]:.3f}"
        print(f"{entry.name:<24}{shown}  {ml:7.1f} ml  {ml_without:7.1f} ml without")
    known = [overlap for overlap in overlaps if overlap is not None]
    mean = float(np.mean(known)) if known else None
    finish("heads", {"mean_overlap": mean}, {}, 1, arguments.json)


if __name__ == "__main__":
    run_benchmark(main)
