"""Layouts of neuroimaging: BIDS and FreeSurfer.

References: BIDS specification 1.9, "Anatomical data" and "Segmentations"; FreeSurfer's subjects
directory (`recon-all`).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from mtseg.errors import InputError
from mtseg.scans.reading import ENDINGS, scan_stem
from mtseg.sources.layouts.dataset_files import DatasetFiles, list_subfolders, pair_files


def find_bids(folder: Path) -> DatasetFiles:
    """T1-weighted scans of a BIDS data set and the `dseg` label maps of its derivatives.

    Each session of a participant is a subject; all sessions of one are the same person. Names of
    labels come from the tables `dseg.tsv`.

    Raises:
        InputError: if a table cannot be read, or two tables contradict each other.
    """
    images = _name_by_session(folder.glob("sub-*/**/anat/sub-*_T1w.*"), "T1w")
    derivatives = folder / "derivatives"
    label_maps = _name_by_session(derivatives.glob("*/sub-*/**/anat/sub-*_dseg.*"), "dseg")
    subjects = tuple(
        replace(files, person=files.name.split("_")[0]) for files in pair_files(images, label_maps)
    )
    tables = [folder / "dseg.tsv", *sorted(derivatives.glob("*/dseg.tsv"))]
    tables += sorted(derivatives.glob("*/sub-*/**/anat/*_dseg.tsv"))
    label_names: dict[str, tuple[int, ...]] = {}
    for table in (path for path in tables if path.is_file()):
        for name, value in _read_label_table(table):
            if label_names.setdefault(name, (value,)) != (value,):
                raise InputError(
                    f"{table}: {name} is {value} here and {label_names[name][0]} in another table "
                    "of this data set. Make them agree, or give labels by number in the task file."
                )
    return DatasetFiles(subjects, label_names)


def _name_by_session(paths: Iterable[Path], suffix: str) -> list[tuple[str, Path]]:
    """Files of one BIDS suffix with their `sub-…`, or `sub-…_ses-…` if they have a session."""
    named = []
    for path in sorted(paths):
        entities = re.match(r"(sub-[^_]+)(_ses-[^_]+)?", path.name)
        if path.name.endswith(ENDINGS) and scan_stem(path).endswith(f"_{suffix}") and entities:
            named.append((entities[1] + (entities[2] or ""), path))
    return named


def _read_label_table(path: Path) -> list[tuple[str, int]]:
    """Name and value of each label in a `dseg.tsv`."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        return [(row["name"].strip(), int(row["index"])) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: is not a table of labels. Write the columns index and name, separated by "
            "tabs."
        ) from error


def find_freesurfer(folder: Path) -> DatasetFiles:
    """`orig.mgz`, else `norm.mgz`, and the segmentation `aseg.mgz` of each subject.

    The averages that FreeSurfer adds (`fsaverage*`) are left out.
    """
    images, label_maps = [], []
    for subject in list_subfolders(folder):
        mri = subject / "mri"
        if subject.name.startswith("fsaverage") or not mri.is_dir():
            continue
        for name in ("orig.mgz", "norm.mgz"):
            if (mri / name).exists():
                images.append((subject.name, mri / name))
                break
        if (mri / "aseg.mgz").exists():
            label_maps.append((subject.name, mri / "aseg.mgz"))
    return DatasetFiles(tuple(pair_files(images, label_maps)))
