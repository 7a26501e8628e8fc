"""The files of a data set, by subject: what the function of every layout returns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from mtseg.scans.reading import ENDINGS


@dataclass(frozen=True)
class SubjectFiles:
    """The scans and label maps of one subject. A complete subject has one of each and no remedy.

    Attributes:
        name: unique in the data set.
        images: its scans.
        label_maps: its label maps.
        split: `train` or `test`, if the layout says so; else None.
        remedy: a sentence that says how to choose among several scans or label maps, or that the
            label map is of another scan, if the layout knows it; else empty.
    """

    name: str
    images: tuple[Path, ...]
    label_maps: tuple[Path, ...]
    split: str | None = None
    remedy: str = ""


@dataclass(frozen=True)
class DatasetFiles:
    """The files that a layout has found in a folder.

    Attributes:
        subjects: in the order of their names, complete or not.
        label_names: name of a label -> its values, if the data set names its labels.
        unused: scan files that belong to no subject.
        has_region_order: whether a voxel of several labels gets the last of them in the order of
            `label_names`.
    """

    subjects: tuple[SubjectFiles, ...]
    label_names: dict[str, tuple[int, ...]] = field(default_factory=dict)
    unused: tuple[Path, ...] = ()
    has_region_order: bool = False


def is_hidden(path: Path) -> bool:
    """Whether a file or folder is hidden. macOS adds such files (`._NAME`) beside others."""
    return path.name.startswith(".")


def list_scan_files(folder: Path) -> list[Path]:
    """The files of a folder that end like scans, sorted, without hidden ones.

    A folder that is named like a scan and has one scan file in it, `s1.nii/s1.nii` as Kaggle
    unpacks archives, counts as that file.
    """
    paths = (path for path in sorted(folder.iterdir()) if not is_hidden(path))
    scans = [_scan_inside(path) for path in paths if path.name.lower().endswith(ENDINGS)]
    return [path for path in scans if path is not None]


def _scan_inside(path: Path) -> Path | None:
    """The path itself; of a folder, the only file in it if that is a scan file, else None."""
    if not path.is_dir():
        return path
    files = [file for file in path.iterdir() if not is_hidden(file)]
    is_scan = len(files) == 1 and files[0].name.lower().endswith(ENDINGS) and files[0].is_file()
    return files[0] if is_scan else None


def list_subfolders(folder: Path) -> list[Path]:
    """The folders in a folder and links to folders, sorted, without hidden ones."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path))


def list_folders_within(folder: Path) -> list[Path]:
    """A folder and all folders below it, sorted, without hidden ones.

    Links are followed, but no folder is listed twice, so a loop of links ends.

    Raises:
        OSError: if one of them cannot be listed.
    """
    found: dict[Path, Path] = {}  # the real folder -> the path under which it was found first
    waiting = [folder]
    while waiting:
        path = waiting.pop(0)
        if found.setdefault(path.resolve(), path) is path:
            waiting += list_subfolders(path)
    return sorted(found.values())


def pair_files(
    images: Iterable[tuple[str, Path]],
    label_maps: Iterable[tuple[str, Path]],
    split: str | None = None,
) -> list[SubjectFiles]:
    """Puts scans and label maps of the same subject together.

    Args:
        images: name of the subject and file of each scan.
        label_maps: name of the subject and file of each label map.
        split: of all of them, if it is known.

    Returns:
        The subjects in the order of their names. One that lacks a scan or a label map is included.
    """
    files: dict[str, tuple[list[Path], list[Path]]] = defaultdict(lambda: ([], []))
    for place, named in enumerate((images, label_maps)):
        for name, path in named:
            files[name][place].append(path)
    return [
        SubjectFiles(name, tuple(scans), tuple(maps), split)
        for name, (scans, maps) in sorted(files.items())
    ]
