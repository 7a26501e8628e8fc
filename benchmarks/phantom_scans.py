"""Phantoms as files, with voxels of many sizes: what a network meets that is trained on real scans.

    python benchmarks/phantom_scans.py TASK --out SCANS [--scans 8] [--size 224]
    mtseg-prepare TASK:folder --manual-dir SCANS --data-dir DATA
    mtseg-train --tasks TASK:phantom+folder --data-dir DATA

The phantoms of the source `phantom` all have their task's voxel size. These have from half to twice
as large ones, in equal steps of the logarithm. Resampled to the task's, a finer scan has less noise
than one that was acquired so, and a coarser one less detail. Meant for tasks whose voxel size is
fixed: for others each scan is prepared at its own.

Writes SCANS/images/phantomN.nii.gz and the labels as values 1, 2, ... in SCANS/labels, all for
training. A minute for the finest scan of 224 voxels. A run that was stopped goes on where it was;
another size or number of scans needs another folder.

    scans   how many the folder has
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from comparison import finish, make_parser, run_benchmark
from data_sets import has_scan, make_folders, save_scan, save_split

from mtseg.phantoms.scanner import make_phantom

FIRST_SEED = 5_000
"""The phantoms of the source `phantom` have lower seeds, those of `recognition.py` higher ones."""

LARGEST_FACTOR = 2.0
"""The largest voxels against those of the task, and the task's against the smallest."""


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("task", metavar="TASK", help="such as brain")
    parser.add_argument("--out", type=Path, required=True, metavar="SCANS", help="new folder")
    parser.add_argument("--scans", type=int, default=8, help="(%(default)s)")
    parser.add_argument("--size", type=int, default=224, help="voxels a side (%(default)s)")
    arguments = parser.parse_args()
    make_folders(arguments.out)
    names = [f"phantom{FIRST_SEED + number}" for number in range(arguments.scans)]
    factors = (LARGEST_FACTOR ** np.linspace(-1, 1, arguments.scans)).tolist()
    for number, (name, factor) in enumerate(zip(names, factors, strict=True)):
        if has_scan(arguments.out, name):
            continue
        seed = FIRST_SEED + number
        phantom = make_phantom(arguments.task, seed, arguments.size, voxel_factor=factor)
        save_scan(arguments.out, name, phantom.image, phantom.label_map, phantom.affine)
        print(f"{name}: voxels {factor:.2f} times the task's", flush=True)
    save_split(arguments.out, [(name, "train") for name in names])
    finish("phantom_scans", {"scans": len(names)}, {}, 1, arguments.json)


if __name__ == "__main__":
    run_benchmark(main)
