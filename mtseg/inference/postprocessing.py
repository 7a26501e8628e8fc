"""Post-processing of a label map: only the largest component of a class, and no holes in it.

A task file may ask for it, class by class (`largest_component`, `fill_holes`); the tasks that come
with the package do not. `mtseg-predict` and an evaluation both apply it to the label map right
after the decision rule, so it is the same for a network on this machine and on a server:

1. Of each class with `largest_component`, the component with most voxels stays and all others
   become background. Voxels that share a face, an edge or a corner are connected. Of several
   largest components, the one stays whose first voxel in C order of the array is the lowest.
2. Of each class with `fill_holes`, in the order of the classes, every hole is filled. A hole is
   what a path from face to face cannot leave without a voxel of the class. Only its background
   gets the class; other classes in it stay. What is open to the volume's border is no hole.

All classes pass step 1 before the first hole is filled, so a stray component that was removed
inside a structure is filled as well. A class without voxels stays as it is. No step changes a class
that has none of these options.

Each class is handled in its bounding box, which bounds time and memory.

The paper has no post-processing; the rule is this project's.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mtseg.tasks.task import Task

_BYTES_PER_VOXEL = 7
"""Memory per voxel of a bounding box: two masks, component numbers of 32 bits, and a margin."""

_VOXELS_AT_ONCE = 1 << 22
"""Voxels that are counted at once; NumPy counts in integers of 64 bits."""


@dataclasses.dataclass(frozen=True)
class ClassRule:
    """What is done to one class.

    Attributes:
        class_index: its combined class index.
        name: its name.
        largest_component: whether only the largest component stays.
        fill_holes: whether holes are filled.
    """

    class_index: int
    name: str
    largest_component: bool
    fill_holes: bool


@dataclasses.dataclass(frozen=True)
class Change:
    """What post-processing did to one class.

    Attributes:
        rule: what was asked for.
        num_removed: voxels that became background.
        num_filled: background voxels that got the class.
    """

    rule: ClassRule
    num_removed: int
    num_filled: int

    def describe(self) -> str:
        """What was done, in words."""
        done = []
        if self.rule.largest_component:
            done.append(f"{self.num_removed} voxels outside its largest component removed")
        if self.rule.fill_holes:
            done.append(f"{self.num_filled} voxels of holes filled")
        return f"post-processing of {self.rule.name}: {', '.join(done)}"

    def to_json(self) -> dict[str, Any]:
        """The values as the verdict file stores them."""
        return {
            "class": self.rule.name,
            "largest_component": self.rule.largest_component,
            "fill_holes": self.rule.fill_holes,
            "removed_voxels": self.num_removed,
            "filled_voxels": self.num_filled,
        }


def class_rules(tasks: Sequence[Task]) -> tuple[ClassRule, ...]:
    """The classes of a network that are post-processed, in their order.

    Args:
        tasks: the network's tasks, in the order of its label space.
    """
    classes = [tissue for task in tasks for tissue in task.classes]
    return tuple(
        ClassRule(class_index, tissue.name, tissue.largest_component, tissue.fill_holes)
        for class_index, tissue in enumerate(classes, start=1)
        if tissue.largest_component or tissue.fill_holes
    )


def postprocessing_bytes(shape: Sequence[int], rules: Sequence[ClassRule]) -> int:
    """Highest memory of `postprocess`, if a class reaches through the whole volume; an estimate."""
    return _BYTES_PER_VOXEL * math.prod(size + 2 for size in shape) if rules else 0


def postprocess(labels: npt.NDArray[np.uint8], rules: Sequence[ClassRule]) -> tuple[Change, ...]:
    """Applies post-processing to a label map in place; the module's docstring has the rule.

    Args:
        labels: uint8 (I, J, K), combined class index, with the axes of RAS+; changed.
        rules: from `class_rules`, in the order of the classes.

    Returns:
        What was done to each class, in the order of `rules`.

    Example:
        >>> labels = np.array([[[1, 0, 1, 1]]], np.uint8)
        >>> postprocess(labels, [ClassRule(1, "vessel", True, False)])[0].num_removed
        1
        >>> labels.tolist()
        [[[0, 0, 1, 1]]]
    """
    if not rules:
        return ()
    boxes = ndimage.find_objects(labels, max_label=max(rule.class_index for rule in rules))
    removed, filled = [0] * len(rules), [0] * len(rules)
    for number, rule in enumerate(rules):
        box = boxes[rule.class_index - 1]
        if rule.largest_component and box is not None:
            removed[number] = _keep_largest(labels[box], rule.class_index)
    for number, rule in enumerate(rules):
        box = boxes[rule.class_index - 1]  # after step 1 it may be too large, which does no harm
        if rule.fill_holes and box is not None:
            filled[number] = _fill_holes(labels[box], rule.class_index)
    return tuple(Change(*of_class) for of_class in zip(rules, removed, filled, strict=True))


def _keep_largest(labels: npt.NDArray[np.uint8], class_index: int) -> int:
    """Removes all components of a class but the largest; returns how many voxels were removed."""
    components = np.empty(labels.shape, np.int32)
    num_components = ndimage.label(labels == class_index, np.ones((3, 3, 3)), output=components)
    if num_components < 2:
        return 0
    sizes = np.zeros(num_components + 1, np.int64)
    flat = components.ravel()
    for start in range(0, flat.size, _VOXELS_AT_ONCE):
        part = np.bincount(flat[start : start + _VOXELS_AT_ONCE])
        sizes[: len(part)] += part
    sizes[0] = 0  # all that is not of the class
    is_largest = sizes == sizes.max()
    kept = flat[np.argmax(is_largest[flat])]  # the first voxel of any of the largest
    is_removed = components > 0
    is_removed &= components != kept
    labels[is_removed] = 0
    return int(sizes.sum() - sizes[kept])


def _fill_holes(labels: npt.NDArray[np.uint8], class_index: int) -> int:
    """Gives the background in holes of a class that class; returns how many voxels it was."""
    # One voxel around the box, so that all that is outside of the class is connected there.
    outside = np.pad(labels != class_index, 1, constant_values=True)
    components = np.empty(outside.shape, np.int32)
    ndimage.label(outside, output=components)  # connected by faces
    within = components[1:-1, 1:-1, 1:-1]
    is_filled = within != components[0, 0, 0]
    is_filled &= labels == 0
    labels[is_filled] = class_index
    return int(np.count_nonzero(is_filled))
