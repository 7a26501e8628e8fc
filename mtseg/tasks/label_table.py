"""What the numbers of a label file mean: value, name, colour and code of each class.

Read this to know which number a class gets in the files that `mtseg-predict` writes. A label is a
value in such a file. The task file gives it, so a class has the same label in every network. A
class without one gets the lowest label that is free, in the order of the network's classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mtseg.tasks.task import Code, TissueClass

DEFAULT_COLORS = (
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
    "#99DDFF",
)
"""Colours that people with colour blindness can tell apart.

All but the last are those of Okabe and Ito, Color Universal Design, 2008.
"""

_SHADES = (1.0, 0.65, 0.4)
"""Brightness of the colours of the first eight classes without a colour, the next eight, …"""


@dataclass(frozen=True)
class LabelEntry:
    """A class as label files have it.

    Attributes:
        label: its value in label files, 1 to 255.
        name: as in records and figures, such as `brain_stem`.
        title: for readers, such as `Brain stem`.
        task: name of its task.
        color: `#RRGGBB`.
        code: its code in a public terminology; None if the task file gives none.
    """

    label: int
    name: str
    title: str
    task: str
    color: str
    code: Code | None = None

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Red, green and blue, 0 to 255."""
        red, green, blue = bytes.fromhex(self.color.removeprefix("#"))
        return red, green, blue


def make_label_table(classes: Iterable[tuple[str, TissueClass]]) -> tuple[LabelEntry, ...]:
    """Gives each class of a network its label and its colour.

    Args:
        classes: (name of the task, class) in the order of the network, without background. The
            labels that are given differ.

    Example:
        >>> classes = [("a", TissueClass("x", "X", label=1)), ("a", TissueClass("y", "Y"))]
        >>> [entry.label for entry in make_label_table(classes)]
        [1, 2]
    """
    classes = list(classes)
    given = {tissue.label for _, tissue in classes}
    free = iter(label for label in range(1, 256) if label not in given)
    return tuple(
        LabelEntry(
            label=next(free) if tissue.label is None else tissue.label,
            name=tissue.name,
            title=tissue.title,
            task=task,
            color=(tissue.color or default_color(number)).upper(),
            code=tissue.code,
        )
        for number, (task, tissue) in enumerate(classes)
    )


def default_color(number: int) -> str:
    """The colour of class `number`, counted from 0; darker after every eight."""
    shade = _SHADES[number // len(DEFAULT_COLORS) % len(_SHADES)]
    channels = bytes.fromhex(DEFAULT_COLORS[number % len(DEFAULT_COLORS)][1:])
    return "#" + bytes(round(shade * channel) for channel in channels).hex().upper()


def to_labels(table: Iterable[LabelEntry]) -> npt.NDArray[np.uint8]:
    """A table from combined class indices to labels.

    Returns:
        uint8 (classes, background included,). Index it with a map of combined class indices.
    """
    return np.array([0, *(entry.label for entry in table)], np.uint8)
