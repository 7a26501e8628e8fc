"""Phantoms as files, with voxels of many sizes: what a network meets that is trained on real scans.

    python benchmarks/phantom_scans.py TASK --out SCANS [--train 8] [--test 4] [--size 224]
    mtseg-prepare TASK:folder --manual-dir SCANS --data-dir DATA
    mtseg-train --tasks TASK:phantom+folder --data-dir DATA

The phantoms of the source `phantom` all have their task's voxel size. These have from half to twice
as large ones, in equal steps of the logarithm. Resampled to the task's, a finer scan has less noise
than one that was acquired so, and a coarser one less detail. Meant for tasks whose voxel size is
fixed: for others each scan is prepared at its own. The operating point of a class should be chosen
on test scans of all voxel sizes too: the probability that is best for a fine scan is another one
than for a coarse one.

Writes SCANS/images/phantomN.nii.gz, the labels as values 1, 2, ... in SCANS/labels, and
SCANS/split.csv. Less than a minute a scan. A run that was stopped goes on where it was; another
task, size or number of scans needs another folder.

    scans   how many the folder has
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from comparison import finish, make_parser, run_benchmark
from data_sets import has_scan, make_folders, save_scan, save_split

from mtseg.phantoms.scanner import make_phantom

FIRST_SEED = {"train": 5_000, "test": 6_000}
"""The phantoms of the source `phantom` have lower seeds, those of `recognition.py` higher ones."""

LARGEST_FACTOR = 2.0
"""The largest voxels against those of the task, and the task's against the smallest."""


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("task", metavar="TASK", help="such as brain")
    parser.add_argument("--out", type=Path, required=True, metavar="SCANS", help="new folder")
    parser.add_argument("--train", type=int, default=8, help="training scans (%(default)s)")
    parser.add_argument("--test", type=int, default=4, help="test scans (%(default)s)")
    parser.add_argument("--size", type=int, default=224, help="voxels a side (%(default)s)")
    arguments = parser.parse_args()
    make_folders(arguments.out)
    rows = []
    for split, num_scans in (("train", arguments.train), ("test", arguments.test)):
        factors = LARGEST_FACTOR ** np.linspace(-1, 1, num_scans)
        for seed, factor in enumerate(factors.tolist(), start=FIRST_SEED[split]):
            name = f"phantom{seed}"
            rows.append((name, split))
            if has_scan(arguments.out, name):
                continue
            phantom = make_phantom(arguments.task, seed, arguments.size, voxel_factor=factor)
            save_scan(arguments.out, name, phantom.image, phantom.label_map, phantom.affine)
            print(f"{name}: voxels {factor:.2f} times the task's", flush=True)
    save_split(arguments.out, rows)
    finish("phantom_scans", {"scans": len(rows)}, {}, 1, arguments.json)


if __name__ == "__main__":
    run_benchmark(main)
