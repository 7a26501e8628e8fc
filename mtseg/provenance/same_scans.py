"""The same scan on both sides of a split, across sources and tasks.

Scans are compared by their checksums, so a copy under another name is known.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from mtseg.provenance.fingerprint import Fingerprint, SubjectPrint
from mtseg.tasks.task import first_ten


@dataclasses.dataclass(frozen=True)
class SameScan:
    """A scan that is scored, and the same scan where it is trained on.

    Attributes:
        scored: the subject that is scored.
        scored_spec: its task and source.
        trained: the subject that is trained on.
        trained_spec: its task and source.
    """

    scored: SubjectPrint
    scored_spec: str
    trained: SubjectPrint
    trained_spec: str

    @property
    def is_of_one_task(self) -> bool:
        """Whether both subjects belong to the same task."""
        return self.scored_spec.split(":")[0] == self.trained_spec.split(":")[0]

    def __str__(self) -> str:
        return (
            f"{self.scored.name} ({self.scored.split} in {self.scored_spec}) and "
            f"{self.trained.name} ({self.trained.split} in {self.trained_spec})"
        )


def find_same_scans(
    trained: Iterable[Fingerprint],
    scored: Iterable[Fingerprint],
    splits: Sequence[str] = ("validation", "test"),
) -> list[SameScan]:
    """Finds the scans that are scored though they are trained on.

    Args:
        trained: their training subjects count.
        scored: their subjects of the other splits count.
        splits: the splits that are scored.

    Returns:
        One item for each such scan that is scored.
    """
    known: dict[str, tuple[SubjectPrint, str]] = {}
    for print_ in trained:
        for subject in print_.of_splits("train"):
            for checksum in _checksums(subject):
                known.setdefault(checksum, (subject, print_.spec))
    found = []
    for print_ in scored:
        for subject in print_.of_splits(*splits):
            if matches := [known[c] for c in _checksums(subject) if c in known]:
                found.append(SameScan(subject, print_.spec, *matches[0]))
    return found


def _checksums(subject: SubjectPrint) -> Iterator[str]:
    """The checksum of the voxels, and that of the file, which a new reader does not change."""
    if subject.image is not None:
        yield from filter(None, (subject.scan_checksum, subject.image.sha256))


def show_same_scans(found: Iterable[SameScan]) -> str:
    """The scans for a message."""
    return first_ten(found)
