"""The files of a data set, by subject: what the function of every layout returns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from mtseg.scans.reading import ENDINGS


@dataclass(frozen=True)
class SubjectFiles:
    """The scans and label maps of one subject. A complete subject has one of each.

    Attributes:
        name: unique in the data set.
        images: its scans.
        label_maps: its label maps.
        split: `train` or `test`, if the layout says so; else None.
        person: name of the person, if one person may have several scans; else None.
    """

    name: str
    images: tuple[Path, ...]
    label_maps: tuple[Path, ...]
    split: str | None = None
    person: str | None = None


@dataclass(frozen=True)
class DatasetFiles:
    """The files that a layout has found in a folder.

    Attributes:
        subjects: in the order of their names, complete or not.
        label_names: name of a label -> its values, if the data set names its labels.
        unused: scan files that belong to no subject.
    """

    subjects: tuple[SubjectFiles, ...]
    label_names: dict[str, tuple[int, ...]] = field(default_factory=dict)
    unused: tuple[Path, ...] = ()


def is_hidden(path: Path) -> bool:
    """Whether a file or folder is hidden. macOS adds such files (`._NAME`) beside others."""
    return path.name.startswith(".")


def list_scan_files(folder: Path) -> list[Path]:
    """The files of a folder that end like scans, sorted, without hidden ones."""
    named = (path for path in folder.iterdir() if path.name.lower().endswith(ENDINGS))
    return sorted(path for path in named if not is_hidden(path))


def list_subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path))


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
