"""Finding the scans that a user names by files, folders and lists.

A file is a scan, and so is a folder with one DICOM series. Any other folder is searched, and the
folder of the results gets the same subfolders. A text file lists files and folders, one per line.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from mtseg.errors import InputError
from mtseg.scans.formats.dicom_files import DICOM_ENDING, DISC_INDEX, is_dicom_file
from mtseg.scans.reading import ENDINGS, scan_stem

_Work = TypeVar("_Work")

LIST_ENDING = ".txt"
"""Ending of the name of a list."""

_RESULT_ENDINGS = (
    *("_labels.nii.gz", "_labels_unprocessed.nii.gz"),
    *("_probabilities.nii.gz", "_labels.dcm"),
)
"""Endings of the names of result files. Beside a verdict file, such a file is not a scan."""


class ListedScan(NamedTuple):
    """A scan and where its results go.

    Attributes:
        path: a file, or the folder of a DICOM series.
        folder: for its results, relative to the folder of all results.
    """

    path: Path
    folder: Path

    @property
    def stem(self) -> Path:
        """The beginning of the paths of its results, relative to the folder of all results."""
        return self.folder / scan_stem(self.path)


def list_scans(
    named: Iterable[Path],
    results: Path | None = None,
    *,
    is_beside: bool = False,
    may_share_names: bool = False,
) -> list[ListedScan]:
    """Lists the scans that files, folders and lists name.

    Links to folders are followed, but each folder is searched once. Hidden files and results of
    earlier commands are left out.

    Args:
        named: files, folders and lists.
        results: the folder of all results, which is not searched; None if there is none.
        is_beside: whether the results of a scan go beside it, so that its folder is its own.
        may_share_names: whether the results of each scan go to a folder of its own.

    Returns:
        Each scan once, where it was named first, in the order of `named`, and sorted within a
        folder. Paths that do not exist are included; reading them raises the error.

    Raises:
        InputError: if a list cannot be read, a folder has no scan or cannot be entered, or two
            scans would have the same names of results.
    """
    scans: list[ListedScan] = []
    for path in named:
        if path.name.lower().endswith(LIST_ENDING) and not path.is_dir():
            for line in _read_list(path):
                scans.extend(_expand(Path(line), results))
        else:
            scans.extend(_expand(path, results))
    if is_beside:
        scans = [ListedScan(scan.path, scan.path.parent) for scan in scans]
    once: dict[Path, ListedScan] = {}
    for scan in scans:
        once.setdefault(scan.path.parent.resolve() / scan.path.name, scan)
    places: dict[Path, Path] = {}
    for scan in once.values():
        other = places.setdefault(scan.stem, scan.path)
        if other != scan.path and not may_share_names:
            raise InputError(
                f"{scan.path}: would share its results, {scan.stem}_labels.nii.gz, with {other}. "
                "Segment them one at a time, with different -o folders."
            )
    return list(once.values())


def take_part(work: Sequence[_Work], num_parts: int, part_id: int) -> list[_Work]:
    """The scans, or other pieces of work, of one of several jobs that share them.

    Every piece is in one part. The numbers of pieces of two parts differ by at most one.

    Args:
        work: all pieces, such as the scans of `list_scans`, the same in every job.
        num_parts: number of jobs.
        part_id: number of this job, from 0.

    Raises:
        InputError: if there is no such part.
    """
    if not 0 <= part_id < num_parts:
        raise InputError(
            f"--part-id: {part_id} is not one of --num-parts {num_parts}, counted from 0."
        )
    return list(work[part_id::num_parts])


def _read_list(path: Path) -> list[str]:
    """The paths in a list, without empty lines and comments."""
    try:
        # Windows writes a byte order mark, which utf-8-sig leaves out.
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read as a list of scans. Give a text file with one path per line."
        ) from error
    lines = [line for line in map(str.strip, lines) if line and not line.startswith("#")]
    if not lines:
        raise InputError(f"{path}: lists no scan. Give a text file with one path per line.")
    return lines


def _expand(path: Path, results: Path | None) -> list[ListedScan]:
    """The scans of a file or folder."""
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.stat()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}). Ask for the right to read it and the "
            "folder it is in."
        ) from error
    if not path.is_dir() or _is_series(path):
        # A folder that is called `.` or `..` has a name only if its path is complete.
        return [ListedScan(path if path.name not in ("", "..") else path.resolve(), Path())]
    found: list[ListedScan] = []
    not_entered: list[OSError] = []
    seen = {results.resolve()} if results is not None and results.exists() else set()
    if path.resolve() in seen:  # the user has named it, so it is searched
        seen = set()
    # Links are followed. A folder is searched once, so a loop of links ends.
    for name, folders, files in os.walk(path, followlinks=True, onerror=not_entered.append):
        folder, place = Path(name), Path(name).relative_to(path)
        if folder.resolve() in seen:
            folders[:] = []
            continue
        seen.add(folder.resolve())
        folders[:] = sorted(sub for sub in folders if not sub.startswith("."))
        if folder != path and _is_series(folder):
            found.append(ListedScan(folder, place.parent))
            continue
        found += [
            ListedScan(folder / file, place)
            for file in sorted(files)
            if file.lower().endswith(ENDINGS)
            and not file.startswith(".")
            and not _is_result(folder / file)
        ]
    if not_entered:
        first = not_entered[0]
        raise InputError(
            f"{first.filename}: this folder cannot be entered ({first.strerror}). Ask for the "
            "right to read it, or name the other folders."
        )
    if not found:
        raise InputError(
            f"{path}: has no scan. Name a folder with files that end in {', '.join(ENDINGS)} or "
            f"{DICOM_ENDING}."
        )
    return found


def _is_result(path: Path) -> bool:
    """Whether a file was written by an earlier command: its verdict file is beside it."""
    for ending in _RESULT_ENDINGS:
        if path.name.endswith(ending):
            return path.with_name(f"{path.name.removesuffix(ending)}_verdict.json").is_file()
    return False


def _is_series(folder: Path) -> bool:
    """Whether a folder has DICOM files, whose names are often numbers without an ending."""
    try:
        files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    except OSError:
        return False
    # The list of a disc is no image; the images are in folders beside it.
    others = [
        path
        for path in files
        if not path.name.lower().endswith(ENDINGS)
        and not path.name.startswith(".")
        and path.name.upper() != DISC_INDEX
        and not _is_result(path)
    ]
    # Names decide before files are opened.
    return any(path.name.lower().endswith(DICOM_ENDING) for path in others) or any(
        is_dicom_file(path) for path in others
    )
