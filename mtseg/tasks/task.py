"""A task: its classes, its voxel size, its decision rule, and the labels of its sources.

Read this to know what a task file becomes, or how the labels of a data set become classes. Two
numbers must not be confused. A label is a value in a label file. A class index is the place of a
class in its task: 0 is background, then 1, 2, ... in the order of the task file.

Reference: Moeskops et al., MICCAI 2016, section 2.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError

IGNORED = 255
"""The ignore label: class index of voxels whose class is unknown. Never sampled, never scored."""

TASK_FILES = Path(__file__).parent / "files"
"""Folder of the task files that come with the package."""

ANY_TASK_LAYOUTS = ("bids", "folder", "msd", "nnunet")
"""Sources that every task has without an entry in its file; each has the layout of its name."""

_CT_WORDS = {"CT", "CTA", "CCTA", "NCCT"}
_MR_WORDS = {"MR", "MRI", "MRA", "CMR"}
"""Words of a task's modality by which its scans are CT, in Hounsfield units, or MR."""

_NUCLEAR_WORDS = {"PET", "SPECT", "NM"}
"""Words by which they are neither, although CT or MR may stand beside them."""

_UNLISTED = -1
"""Class index of a label that is not listed, while a label map is turned into class indices."""


@dataclass(frozen=True)
class Code:
    """What a structure is called in a terminology, as a DICOM segmentation states it.

    Attributes:
        scheme: such as `SCT` for SNOMED CT.
        value: such as `113305005`.
        meaning: in words, such as `Cerebellum`.
    """

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True)
class TissueClass:
    """A class of a task.

    Attributes:
        name: in records and figures.
        title: for readers.
        largest_component: whether post-processing keeps only its largest component (see
            `mtseg.inference.postprocessing`).
        fill_holes: whether post-processing fills its holes.
        label: its value in the label files of a prediction, 1 to 255; None lets
            `mtseg.tasks.label_table` choose.
        color: `#RRGGBB`; None likewise.
        code: its code in a terminology, if there is one.
    """

    name: str
    title: str
    largest_component: bool = False
    fill_holes: bool = False
    label: int | None = None
    color: str | None = None
    code: Code | None = None


@dataclass(frozen=True)
class Split:
    """Which subjects are for training, for validation and for testing.

    Attributes:
        train: names, at least one; empty if the folder of scans decides.
        test: names; none if all scans are to be trained on.
        same_person: groups of subjects that are one person, who must be on one side. Groups that
            share a subject are joined.
        test_share: share of the persons, at least 0 and below 1, to hold out for testing if nothing
            says which; None is the default of `mtseg.sources.splits`.
        validation: names; no subject is on two sides.
        person_before: the part of a subject's name before this text is the person; empty if names
            say nothing of persons.
        leave_out: subjects that are on no side unless `split.csv` lists them.
    """

    train: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    same_person: tuple[tuple[str, ...], ...] = ()
    test_share: float | None = None
    validation: tuple[str, ...] = ()
    person_before: str = ""
    leave_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "same_person", join_groups(self.same_person))

    def check(self, path: str | Path) -> None:
        """Refuses a split that would test on what was trained on.

        Args:
            path: the file or folder that the split is from, for the message.

        Raises:
            InputError: of kind `split`, if there is no training subject, a subject is listed twice
                or on two sides, or one person is on two sides.
        """
        sides = {"train": self.train, "validation": self.validation, "test": self.test}
        if not self.train:
            raise InputError(
                f"{path}: the split has no train subject. List at least one.", kind="split"
            )
        for name, side in sides.items():
            if twice := [subject for subject, count in Counter(side).items() if count > 1]:
                raise InputError(
                    f"{path}: {name} subjects are listed twice: {first_ten(twice)}.", kind="split"
                )
        for one, other in itertools.combinations(sides, 2):
            if both := sorted(set(sides[one]) & set(sides[other])):
                raise InputError(
                    f"{path}: subjects are in {one} and {other}: {first_ten(both)}. Keep each on "
                    "one side.",
                    kind="split",
                )
        for group in join_groups(self.same_person):
            on = [name for name, side in sides.items() if set(group) & set(side)]
            if len(on) > 1:
                raise InputError(
                    f"{path}: subjects {first_ten(group)} are one person, in {' and '.join(on)}. "
                    "Keep them on one side.",
                    kind="split",
                )


def join_groups(groups: Iterable[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    """Joins groups that share a name, each sorted.

    Example:
        >>> join_groups([("a", "b"), ("d", "e"), ("b", "c")])
        (('a', 'b', 'c'), ('d', 'e'))
    """
    joined: list[set[str]] = []
    for group in groups:
        touching = [other for other in joined if not other.isdisjoint(group)]
        joined = [other for other in joined if other.isdisjoint(group)]
        joined.append(set(group).union(*touching))
    return tuple(sorted(tuple(sorted(group)) for group in joined))


@dataclass(frozen=True)
class LabelSource:
    """What the labels of one source mean.

    Labels are numbers, or names that the data set gives to numbers.

    Attributes:
        name: name of the source.
        layout: name of its layout in `mtseg.sources.layouts.catalog`.
        values: for each class that the source annotates, in the task's order, its name and its
            labels. None if the labels are called like the classes or, in a data set without names,
            are 1, 2, ... in their order.
        background: labels that are background.
        split: which subjects are for training, validation and testing.
        ignore: labels of voxels whose class is unknown.
        images: pattern of the scans' paths, in which `*` is the subject (see
            `mtseg.sources.layouts.folders`); empty if the layout says how they are named.
        label_maps: likewise of the label maps.
        entity_filter: entities and their values that choose among the files of a BIDS data set (see
            `mtseg.sources.layouts.bids`).
    """

    name: str
    layout: str
    values: tuple[tuple[str, tuple[int | str, ...]], ...] | None
    background: tuple[int | str, ...]
    split: Split
    ignore: tuple[int | str, ...] = ()
    images: str = ""
    label_maps: str = ""
    entity_filter: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Task:
    """One segmentation task, as its file describes it.

    Attributes:
        name: matches `[a-z][a-z0-9_]*`.
        title: for readers.
        modality: such as `MR`. The network is never told, but it decides how intensities are read
            (see `is_ct`).
        classes: without background.
        spacing_rule: `fixed` or `in_plane`.
        spacing_mm: isotropic voxel size of the rule `fixed`, else None.
        decision: `argmax` or `operating_point`.
        citation: whom to cite.
        sources: where labelled subjects come from; empty if read from a trained model.
        path: the task file, as the user named it; empty if read from a trained model.
        is_symmetric: whether a scan whose left and right sides are exchanged is still a correct
            scan. Only then may the augmentation `flip` exchange them.

    Example:
        >>> from mtseg.tasks.task_file import read_task, shipped_path
        >>> read_task(shipped_path("breast")).class_names
        ('background', 'pectoral_muscle')
    """

    name: str
    title: str
    modality: str
    classes: tuple[TissueClass, ...]
    spacing_rule: str
    spacing_mm: float | None
    decision: str
    citation: str = ""
    sources: tuple[LabelSource, ...] = ()
    path: str = ""
    is_symmetric: bool = False

    @property
    def is_ct(self) -> bool | None:
        """Whether the task's scans are CT (True) or MR (False); None for another modality.

        Example:
            >>> from mtseg.tasks.task_file import read_task, shipped_path
            >>> read_task(shipped_path("cta")).is_ct
            True
        """
        words = set(re.findall("[A-Z]+", self.modality.upper()))
        if words & _NUCLEAR_WORDS:
            return None
        if words & _MR_WORDS:
            return None if words & _CT_WORDS else False
        return True if words & _CT_WORDS else None

    @property
    def is_shipped(self) -> bool:
        """Whether the task file comes with the package."""
        return Path(self.path).parent == TASK_FILES

    @property
    def own_file(self) -> str:
        """Path of the task file if it is the user's; empty if it is shipped or not known."""
        return "" if self.is_shipped else self.path

    @property
    def file_to_edit(self) -> str:
        """How a message names the file to change: not the installed package's own, but a copy."""
        if self.is_shipped:
            return f"a copy of {self.path}, and give its path in place of {self.name}"
        return self.path or "the task file"

    @property
    def num_classes(self) -> int:
        """Number of classes, background included."""
        return 1 + len(self.classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """A name for each class index, `background` first."""
        return ("background", *(tissue.name for tissue in self.classes))

    def target_spacing_mm(self, spacing_mm: tuple[float, float, float]) -> float:
        """The isotropic voxel size to resample a scan to.

        The paper resamples breast MR to its in-plane voxel size (section 2).

        Args:
            spacing_mm: the scan's voxel size along its three axes, in any order.

        Returns:
            The `spacing_mm` of the task for the rule `fixed`; `in_plane_mm` for `in_plane`.
        """
        return in_plane_mm(spacing_mm) if self.spacing_mm is None else self.spacing_mm

    def source(self, name: str) -> LabelSource:
        """Finds a source by its name: an entry of the task file, or one of `ANY_TASK_LAYOUTS`.

        Raises:
            InputError: if the task has no such source; the message lists those it has.
        """
        for source in self.sources:
            if source.name == name:
                return source
        if name in ANY_TASK_LAYOUTS:
            return LabelSource(name, name, None, (), Split())
        names = list(dict.fromkeys([*(s.name for s in self.sources), *ANY_TASK_LAYOUTS]))
        raise InputError(
            f"task {self.name}: has no source {name!r}{did_you_mean(name, names)}. Its sources: "
            f"{', '.join(names)}."
        )

    def map_labels(
        self, label_map: npt.NDArray[np.integer], source: LabelSource, path: str | Path
    ) -> npt.NDArray[np.uint8]:
        """Turns labels into the task's own class indices.

        Args:
            label_map: integers of any type and any shape with at least one axis.
            source: what the labels mean; they must be numbers, not names.
            path: the label file, for messages.

        Returns:
            uint8 of the same shape; 0 is background. If the source does not annotate all classes,
            its background may hide the others, so it is `IGNORED` instead of 0.

        Raises:
            InputError: if a label is not listed in the task file, or, of kind `empty`, if no voxel
                has a class of the task.
        """
        lookup, lowest = self._lookup(source)
        mapped = np.empty_like(label_map, np.uint8, subok=False)
        unlisted: set[int] = set()
        # Slice by slice: as int64, a whole CT would need up to eight times its own memory.
        for index in range(label_map.shape[-1]):
            part = label_map[..., index].astype(np.int64)
            # Labels outside the listed range take the last place of the table; -1 is that place.
            classes = lookup[np.clip(part - lowest, -1, len(lookup) - 1)]
            mapped[..., index] = classes
            if (classes == _UNLISTED).any():
                unlisted.update(np.unique(part[classes == _UNLISTED]).tolist())
        if unlisted:
            raise InputError(
                f"{path}: labels {first_ten(sorted(unlisted))} are not listed for "
                f"{self.name}:{source.name}. Add each to a class or to the background in "
                f"{self.file_to_edit}."
            )
        if not ((mapped > 0) & (mapped != IGNORED)).any():
            raise InputError(
                f"{path}: empty label map: no voxel has a class of {self.name}. Take the subject "
                "out of the split, or correct its labels.",
                kind="empty",
            )
        return mapped

    def _lookup(self, source: LabelSource) -> tuple[npt.NDArray[np.int16], int]:
        """A table from labels to class indices, and the label of its first place.

        Its last place, behind that of the highest label, is `_UNLISTED`.
        """
        annotated = dict(source.values or ())
        is_partial = any(name not in annotated for name in self.class_names[1:])
        listed = [(IGNORED if is_partial else 0, source.background), (IGNORED, source.ignore)]
        listed += [(self.class_names.index(name), values) for name, values in annotated.items()]
        labels = [(class_index, [int(value) for value in values]) for class_index, values in listed]
        lowest = min(min([0, *values]) for _, values in labels)
        highest = max(max([0, *values]) for _, values in labels)
        lookup = np.full(highest - lowest + 2, _UNLISTED, np.int16)
        for class_index, values in labels:
            lookup[[value - lowest for value in values]] = class_index
        return lookup, lowest


def in_plane_mm(spacing_mm: tuple[float, float, float]) -> float:
    """The voxel size in the plane of a scan's slices.

    How to find the plane is this project's choice: a header does not say along which axis slices
    were stacked, so the two axes whose voxel sizes are most alike count as the plane.

    Args:
        spacing_mm: the scan's voxel size along its three axes, in any order.

    Returns:
        The mean of the two sizes that are most alike; of two pairs that are equally alike, of the
        finer one.
    """
    fine, middle, coarse = sorted(float(size) for size in spacing_mm)
    return (fine + middle) / 2 if middle - fine <= coarse - middle else (middle + coarse) / 2


def first_ten(items: Iterable[object]) -> str:
    """The first ten items for a message, and how many more there are; empty for no items."""
    texts = [str(item) for item in items]
    return ", ".join(texts[:10]) + (f" and {len(texts) - 10} more" if len(texts) > 10 else "")


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """A guess at the valid name that was meant, for a message; empty if no name is similar."""
    near = difflib.get_close_matches(name, list(valid), n=1)
    return f" (did you mean {near[0]}?)" if near else ""
