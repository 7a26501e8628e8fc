"""Data sets that benchmarks write, in the layout `folder`: scans, label maps and a split."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from mtseg.system.atomic_files import atomic_write


def make_folders(data_set: Path) -> None:
    """Makes the folders for scans and label maps."""
    for folder in ("images", "labels"):
        (data_set / folder).mkdir(parents=True, exist_ok=True)


def has_scan(data_set: Path, name: str) -> bool:
    """Whether a scan is there, and so its label map."""
    return (data_set / "images" / f"{name}.nii.gz").exists()


def save_scan(
    data_set: Path,
    name: str,
    image: npt.NDArray[Any],
    label_map: npt.NDArray[Any],
    affine: npt.NDArray[np.float64],
) -> None:
    """Writes a scan and its label map, the scan last, so that it is there only with its labels."""
    for folder, array in (("labels", label_map), ("images", image)):
        with atomic_write(data_set / folder / f"{name}.nii.gz") as unfinished:
            nib.save(nib.Nifti1Image(array, affine), unfinished)


def save_split(data_set: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Writes split.csv: the name of each scan, and `train` or `test`."""
    with atomic_write(data_set / "split.csv") as path, path.open("w", newline="") as file:
        csv.writer(file).writerows([("subject", "split"), *rows])
