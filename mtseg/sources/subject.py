"""A subject of a data set, as it is found and as it is prepared, and an issue of a data set.

`mtseg.sources.find` finds subjects, `mtseg.sources.reading` prepares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.tasks.task import LabelSource, first_ten

_SIDES = ("train", "validation", "test")

IssueKind = Literal[
    "missing",  # a subject without a scan or label map
    "extra",  # several scans or label maps of a subject, or scans of no subject
    "split",  # the split cannot be used, or has a person on both sides
    "unreadable",  # a file that cannot be read
    "grid",  # scan and label map are on different grids
    "not_finite",  # voxels that are NaN or infinite
    "blank",  # a scan without foreground, or without contrast as it is read
    "labels",  # labels that are not whole numbers, not listed, or of several classes
    "empty",  # a label map without any class of the task
    "absent",  # a class that a subject, or every training subject, does not have
    "outside",  # labelled voxels outside the foreground of the scan
    "spacing",  # an implausible voxel size
    "anisotropy",  # slices much thicker than the pixels in them
    "duplicate",  # the same scan twice
]
"""What an issue is about."""


@dataclass(frozen=True)
class Subject:
    """One labelled subject: the paths of its files, or the seed of a phantom.

    Attributes:
        name: unique among all subjects of its source.
        split: `train`, `validation` or `test`.
        image_path: the scan; None for a phantom.
        label_path: the label map; None for a phantom.
        seed: of a phantom; None for a scan.
    """

    name: str
    split: str
    image_path: str | None
    label_path: str | None
    seed: int | None


@dataclass(frozen=True, eq=False)
class PreparedSubject:
    """A subject ready for sampling or evaluation.

    Attributes:
        name: of the subject.
        image: float32 (I, J, K), isotropic, RAS+, after the intensity rule: > 0 in the foreground,
            0 outside.
        class_index_map: uint8 (I, J, K), the task's own class index or `mtseg.tasks.task.IGNORED`;
            0 outside the foreground.
        affine: float64 (4, 4), voxel to RAS+ world in mm.
    """

    name: str
    image: npt.NDArray[np.float32]
    class_index_map: npt.NDArray[np.uint8]
    affine: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Issue:
    """Something that is wrong with a data set.

    Attributes:
        kind: what it is about.
        subject: name of the subject; empty if the issue is one of the whole data set.
        message: one line with the file, what is wrong, and what to do.
        is_error: whether the data cannot be prepared until it is corrected; otherwise it is a
            warning.
    """

    kind: IssueKind
    subject: str
    message: str
    is_error: bool = True


@dataclass(frozen=True)
class FoundSubjects:
    """The subjects of a source, whose files have been found but not read.

    Attributes:
        labels: the source, in which every label is a value.
        subjects: the complete ones: training, validation and test subjects, each in the order of
            the split.
        issues: what is wrong with the others, and with the split.
        split_origin: how the split came about, in words, such as `split.csv`.
    """

    labels: LabelSource
    subjects: tuple[Subject, ...]
    issues: tuple[Issue, ...] = ()
    split_origin: str = ""

    def names_of_split(self, split: str) -> list[str]:
        """Names of the complete subjects of a split, in its order."""
        return [subject.name for subject in self.subjects if subject.split == split]

    def split_members(self) -> dict[str, Any]:
        """How the split came about (`origin`) and the names on each side, for metadata."""
        names = {side: self.names_of_split(side) for side in _SIDES}
        return {"origin": self.split_origin, **names}

    def describe_split(self) -> str:
        """Sizes of the splits, how they came about, and who is held out, in one line."""
        return describe_members(self.split_members())

    def require_sound(self) -> FoundSubjects:
        """Refuses a source with an error.

        Raises:
            InputError: with the message of the first error.
        """
        for issue in self.issues:
            if issue.is_error:
                raise InputError(issue.message)
        return self


def describe_members(members: Mapping[str, Any]) -> str:
    """Sizes of the splits, how they came about, and who is held out, in one line.

    Args:
        members: from `FoundSubjects.split_members`.
    """
    sizes = ", ".join(f"{len(members[side]) or 'no'} {side}" for side in _SIDES)
    held_out = [
        f" {side.capitalize()}: {first_ten(members[side])}."
        for side in _SIDES
        if members[side] and side != "train"
    ]
    return f"{sizes} subjects ({members['origin']}).{''.join(held_out)}"
