"""Layouts of neuroimaging: BIDS and FreeSurfer."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from pathlib import Path

from mtseg.errors import InputError
from mtseg.scans.reading import ENDINGS, scan_stem
from mtseg.sources.layouts.candidates import Candidate, MatchedFiles, pair_files, subfolders


def match_bids(folder: Path) -> MatchedFiles:
    images = _by_session(folder.glob("sub-*/**/anat/sub-*_T1w.*"), "T1w")
    derivatives = folder / "derivatives"
    label_maps = _by_session(derivatives.glob("*/sub-*/**/anat/sub-*_dseg.*"), "dseg")
    candidates = [
        Candidate(c.name, c.images, c.label_maps, None, c.name.split("_")[0])
        for c in pair_files(images, label_maps)
    ]
    tables = [folder / "dseg.tsv", *sorted(derivatives.glob("*/dseg.tsv"))]
    tables += sorted(derivatives.glob("*/sub-*/**/anat/*_dseg.tsv"))
    names: dict[str, tuple[int, ...]] = {}
    for table in (path for path in tables if path.is_file()):
        for name, value in _read_dseg_table(table):
            if names.setdefault(name, (value,)) != (value,):
                raise InputError(
                    f"{table}: {name} is {value} here and {names[name][0]} in another table of "
                    "this data set. Make them agree, or give labels by number in the task file."
                )
    return MatchedFiles(tuple(candidates), names)


def _by_session(paths: Iterable[Path], suffix: str) -> list[tuple[str, Path]]:
    named = []
    for path in sorted(paths):
        entities = re.match(r"(sub-[^_]+)(_ses-[^_]+)?", path.name)
        if path.name.endswith(ENDINGS) and scan_stem(path).endswith(f"_{suffix}") and entities:
            named.append((entities[1] + (entities[2] or ""), path))
    return named


def _read_dseg_table(path: Path) -> list[tuple[str, int]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        return [(row["name"].strip(), int(row["index"])) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: is not a table of labels with the columns index and name, separated by tabs."
        ) from error


def match_freesurfer(folder: Path) -> MatchedFiles:
    images, label_maps = [], []
    for subject in subfolders(folder):
        mri = subject / "mri"
        if subject.name.startswith("fsaverage") or not mri.is_dir():
            continue
        for name in ("orig.mgz", "norm.mgz"):
            if (mri / name).exists():
                images.append((subject.name, mri / name))
                break
        if (mri / "aseg.mgz").exists():
            label_maps.append((subject.name, mri / "aseg.mgz"))
    return MatchedFiles(tuple(pair_files(images, label_maps)))
