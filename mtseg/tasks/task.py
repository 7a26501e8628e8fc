"""A task: its classes, its voxel size, its decision rule, and the labels of its sources.

A label is a value in a label file. A class index is a class's place in its task: 0 is background,
then 1, 2, ... in the order of the task file.

Reference: Moeskops et al., MICCAI 2016, section 2.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtseg.errors import InputError

IGNORED = 255
"""Class index of voxels of which it is not known what they are: never sampled, never scored."""


TASK_FILES = Path(__file__).parent / "files"
"""Folder of the task files that come with the package."""


ANY_TASK_LAYOUTS = ("bids", "folder", "msd", "nnunet")
"""Sources that every task has without its file saying so, of the layout of that name."""


_UNLISTED = -1
"""Stands for a label that is not listed while a label map is turned into class indices."""


@dataclass(frozen=True)
class TissueClass:
    """A class of a task: its name in records and figures, and its title for readers."""

    name: str
    title: str


@dataclass(frozen=True)
class Split:
    """Names of the training and the test subjects.

    Attributes:
        train: at least one name; empty where the folder of scans decides.
        test: likewise, none of them in `train`.
        same_person: groups of subjects that are one person, who must not be on both sides.
        test_share: share of the persons that are tested on where nothing else says which.
    """

    train: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    same_person: tuple[tuple[str, ...], ...] = ()
    test_share: float | None = None

    def check(self, path: str | Path) -> None:
        """Refuses a split that would test on what was trained on; `path` says whose it is."""
        for name, side in (("train", self.train), ("test", self.test)):
            if not side:
                raise InputError(
                    f"{path}: the split has no {name} subject. List at least one.", kind="split"
                )
            if twice := [subject for subject, count in Counter(side).items() if count > 1]:
                raise InputError(
                    f"{path}: {name} subjects are listed twice: {some(twice)}.", kind="split"
                )
        if both := sorted(set(self.train) & set(self.test)):
            raise InputError(
                f"{path}: subjects are in train and test: {some(both)}. Keep each on one side.",
                kind="split",
            )
        for group in self.same_person:
            if set(group) & set(self.train) and set(group) & set(self.test):
                raise InputError(
                    f"{path}: subjects {some(group)} are one person, in train and test. Keep them "
                    "on one side.",
                    kind="split",
                )


@dataclass(frozen=True)
class LabelSource:
    """How the label files of one source show a task.

    Labels are values, or names that the data set gives to values.

    Attributes:
        name: of the source.
        layout: name of its layout in `mtseg.sources.layouts.catalog`.
        values: for each class that it annotates, in the task's order, its name and its labels. None
            takes labels that are called like the classes or, where a data set names none, 1, 2, ...
        background: labels that are background.
        split: the subjects.
        ignore: labels of which it is not known what they are.
    """

    name: str
    layout: str
    values: tuple[tuple[str, tuple[int | str, ...]], ...] | None
    background: tuple[int | str, ...]
    split: Split
    ignore: tuple[int | str, ...] = ()


@dataclass(frozen=True)
class Task:
    """One segmentation task, as its file describes it.

    Attributes:
        name: matches `[a-z][a-z0-9_]*`.
        title: for readers.
        modality: such as `MR`, for readers: the network is never told.
        classes: without background.
        spacing_rule: `fixed` or `in_plane`.
        spacing_mm: isotropic voxel size of the rule `fixed`, else None.
        decision: `argmax` or `operating_point`.
        citation: whom to cite.
        sources: where labelled subjects come from; empty if rebuilt from a trained model.
        path: the task file, as it was given; empty if rebuilt from a trained model.
        is_symmetric: whether a scan with left and right exchanged is a scan as good, so that the
            augmentation `flip` may make one.
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
        """The isotropic voxel size to resample a scan to (paper: section 2).

        Args:
            spacing_mm: the scan's voxel size along its three axes, in any order.

        Returns:
            `spacing_mm` of the task for the rule `fixed`. For `in_plane` the mean of the two
            sizes that are most alike, the finer two if there is a choice: slices are stacked
            along the third axis.
        """
        if self.spacing_mm is not None:
            return self.spacing_mm
        fine, middle, coarse = sorted(float(size) for size in spacing_mm)
        return (fine + middle) / 2 if middle - fine <= coarse - middle else (middle + coarse) / 2

    def source(self, name: str) -> LabelSource:
        """The source of that name: one of its file, or of a layout that every task may have.

        Raises:
            InputError: if there is none; the message names those there are.
        """
        for source in self.sources:
            if source.name == name:
                return source
        if name in ANY_TASK_LAYOUTS:
            return LabelSource(name, name, None, (), Split())
        names = list(dict.fromkeys([*(s.name for s in self.sources), *ANY_TASK_LAYOUTS]))
        raise InputError(
            f"task {self.name}: has no source {name!r}{hint(name, names)}. Its sources: "
            f"{', '.join(names) or 'none'}."
        )

    def map_labels(
        self, label_map: np.ndarray, source: LabelSource, path: str | Path
    ) -> np.ndarray:
        """Turns labels into the task's own class indices.

        Args:
            label_map: integers of any shape.
            source: whose labels they are, all of them values.
            path: the label file, for messages.

        Returns:
            uint8 of the same shape; 0 is background. Where the source leaves classes of the task
            out, its background may hide them, so it is `IGNORED`.

        Raises:
            InputError: if a label is not listed in the task file, or every voxel is background.
        """
        lookup = self._lookup(source)
        highest = len(lookup) - 2
        mapped = np.empty_like(label_map, np.uint8, subok=False)
        unlisted: set[int] = set()
        # Slice by slice: as int64 a whole CT would be eight times its own size.
        for index in range(label_map.shape[-1]):
            part = label_map[..., index].astype(np.int64)
            # What is outside of the listed range lands in the last place, also by way of -1.
            classes = lookup[np.clip(part, -1, highest + 1)]
            mapped[..., index] = classes
            if (classes == _UNLISTED).any():
                unlisted.update(np.unique(part[classes == _UNLISTED]).tolist())
        if unlisted:
            raise InputError(
                f"{path}: labels {some(sorted(unlisted))} are not listed for "
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

    def _lookup(self, source: LabelSource) -> np.ndarray:
        """The class index of every label up to the highest, int16; its last place is unlisted."""
        annotated = dict(source.values or ())
        is_partial = any(name not in annotated for name in self.class_names[1:])
        given = [(IGNORED if is_partial else 0, source.background), (IGNORED, source.ignore)]
        given += [(self.class_names.index(name), values) for name, values in annotated.items()]
        labels = [(class_index, [int(value) for value in values]) for class_index, values in given]
        highest = max(max([0, *values]) for _, values in labels)
        lookup = np.full(highest + 2, _UNLISTED, np.int16)
        for class_index, values in labels:
            lookup[values] = class_index
        return lookup


def some(items: Iterable[Any]) -> str:
    """The first ten of a list, and how many more there are."""
    texts = [str(item) for item in items]
    return ", ".join(texts[:10]) + (f" and {len(texts) - 10} more" if len(texts) > 10 else "")


def hint(name: str, valid: Iterable[str]) -> str:
    """A guess at what was meant, or nothing."""
    near = difflib.get_close_matches(name, list(valid), n=1)
    return f" (did you mean {near[0]}?)" if near else ""
