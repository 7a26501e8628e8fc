"""What every layout returns: the candidates for each subject's scan and label map."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from mtseg.scans.reading import ENDINGS


@dataclass(frozen=True)
class Candidate:
    """The files of what may be a subject.

    Attributes:
        name: unique in its folder.
        images: its scans; a sound subject has one.
        label_maps: its label maps; a sound subject has one.
        side: `train` or `test`, where the layout says so.
        person: who it is, where a person may have several scans.
    """

    name: str
    images: tuple[Path, ...]
    label_maps: tuple[Path, ...]
    side: str | None = None
    person: str | None = None


@dataclass(frozen=True)
class MatchedFiles:
    """What lies in a folder.

    Attributes:
        candidates: in the order of their names.
        label_names: for each label that the data set names, its values.
        unused: scan files that belong to no subject.
    """

    candidates: tuple[Candidate, ...]
    label_names: dict[str, tuple[int, ...]] = field(default_factory=dict)
    unused: tuple[Path, ...] = ()


def scan_files(folder: Path) -> list[Path]:
    """The scan files of a folder, sorted by name, without hidden ones (macOS adds such)."""
    names = (path for path in folder.iterdir() if path.name.lower().endswith(ENDINGS))
    return sorted(path for path in names if not path.name.startswith("."))


def subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def pair_files(
    images: Iterable[tuple[str, Path]],
    label_maps: Iterable[tuple[str, Path]],
    side: str | None = None,
) -> list[Candidate]:
    """Candidates from files and the names of their subjects."""
    files: dict[str, tuple[list[Path], list[Path]]] = defaultdict(lambda: ([], []))
    for kind, named in enumerate((images, label_maps)):
        for name, path in named:
            files[name][kind].append(path)
    return [Candidate(n, tuple(i), tuple(m), side) for n, (i, m) in sorted(files.items())]
