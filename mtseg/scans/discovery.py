"""Which scans the user means by files, folders and lists.

A file is a scan, and so is a folder with one DICOM series. Any other folder is searched for scans,
and the results repeat its tree. A text file lists any of these, one per line.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from mtseg.errors import InputError
from mtseg.scans import dicom
from mtseg.scans.reading import DICOM_ENDING, ENDINGS, scan_stem

LIST_ENDING = ".txt"


_LOOKED_AT = 10
"""Files of a folder that are asked whether they are DICOM."""


class ListedScan(NamedTuple):
    """A scan and where its results go.

    Attributes:
        path: a file, or the folder of a DICOM series.
        folder: below the folder of results.
    """

    path: Path
    folder: Path

    @property
    def stem(self) -> Path:
        """What its results' names begin with, below the folder of results."""
        return self.folder / scan_stem(self.path)


def list_scans(named: Iterable[Path]) -> list[ListedScan]:
    """Finds the scans that are meant.

    Args:
        named: files, folders and lists.

    Returns:
        Each scan once, in the order of the names, and sorted within a folder. What does not exist
        is among them: whoever reads it says so.

    Raises:
        InputError: if a list cannot be read, a folder has no scan, or two scans would share
            their results.
    """
    scans: list[ListedScan] = []
    for path in named:
        if path.name.endswith(LIST_ENDING):
            for line in _lines(path):
                scans.extend(_expand(Path(line)))
        else:
            scans.extend(_expand(path))
    places: dict[Path, Path] = {}
    for scan in (scans := list(dict.fromkeys(scans))):
        other = places.setdefault(scan.stem, scan.path)
        if other != scan.path:
            raise InputError(
                f"{scan.path}: would share its results, {scan.stem}_labels.nii.gz, with {other}. "
                "Give them one at a time, with different -o folders."
            )
    return scans


def take_part(scans: Sequence[ListedScan], num_parts: int, part_id: int) -> list[ListedScan]:
    """One part of the scans; all parts together are all of them, and differ by at most one scan.

    Args:
        scans: from `list_scans`, the same in every job.
        num_parts: how many jobs share the work.
        part_id: which of them this is, from 0.

    Raises:
        InputError: if there is no such part.
    """
    if not 0 <= part_id < num_parts:
        raise InputError(
            f"--part-id: {part_id} is not one of --num-parts {num_parts}, counted from 0."
        )
    return list(scans[part_id::num_parts])


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read as a list of scans. Give a text file with one path per line."
        ) from error
    lines = [line for line in lines if line.strip() and not line.startswith("#")]
    if not lines:
        raise InputError(f"{path}: lists no scan. Give a text file with one path per line.")
    return lines


def _expand(path: Path) -> list[ListedScan]:
    if not path.is_dir() or _is_series(path):
        return [ListedScan(path, Path())]
    found = []
    for name, folders, files in os.walk(path):
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        folder, place = Path(name), Path(name).relative_to(path)
        if folder != path and _is_series(folder):
            found.append(ListedScan(folder, place.parent))
            continue
        found += [
            ListedScan(folder / file, place)
            for file in sorted(files)
            if file.endswith(ENDINGS) and not file.startswith(".")
        ]
    if not found:
        raise InputError(
            f"{path}: has no scan. Files that are understood end in {', '.join(ENDINGS)} or "
            f"{DICOM_ENDING}."
        )
    return found


def _is_series(folder: Path) -> bool:
    """Whether a folder holds DICOM files; their names often are numbers without an ending."""
    try:
        files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    except OSError:
        return False
    others = [path for path in files if not path.name.endswith(ENDINGS)]
    return any(
        path.name.endswith(DICOM_ENDING) or dicom.is_dicom(path) for path in others[:_LOOKED_AT]
    )
