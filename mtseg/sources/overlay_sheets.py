"""Sheets of pictures of a data set: every subject in three planes with its label map over it.

`mtseg-check --pictures DIR` writes them. A label map that is shifted, mirrored, or of another
subject shows at a glance, and no rule of a check finds all of these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.scans.volume import Volume, to_ras
from mtseg.sources.checks import SubjectReport
from mtseg.sources.reading import read_subject
from mtseg.system.atomic_files import atomic_write, writing_to
from mtseg.tasks.task import IGNORED, LabelSource, Task

SUBJECTS_PER_SHEET = 20

_COLUMNS = 4
"""Subjects side by side on a sheet."""

_PANEL_PIXELS = 220
"""Size of a picture of one plane: the longest extent of the scan fills it."""

_TINT = 0.25
"""Share of the colour inside a structure; its outline has the full colour."""

_IGNORED_RGB = (255, 255, 255)


@dataclasses.dataclass(frozen=True, eq=False)
class SubjectPicture:
    """The three planes of a subject side by side: axial, coronal, sagittal.

    Attributes:
        title: name and split.
        rgb: uint8 (rows, columns, 3).
    """

    title: str
    rgb: npt.NDArray[np.uint8]


def draw_subject(
    task: Task, labels: LabelSource, colours: npt.NDArray[np.uint8], report: SubjectReport
) -> SubjectPicture | None:
    """Draws the three planes of a subject that show most of its label map.

    Up is anterior or superior, and the subject's left is on the left. Grey reaches from the 1st to
    the 99th percentile of the foreground.

    Args:
        task: the task.
        labels: its source, in which every label is a value.
        colours: from `class_colours`.
        report: of the subject.

    Returns:
        None if the scan or its label map cannot be used; the issues say why.
    """
    if report.figures is None:
        return None
    try:
        image, label_map = read_subject(task, labels.name, report.subject)
        where = report.subject.label_path or report.subject.name
        class_index_map = task.map_labels(label_map.array, labels, where)
    except InputError:
        return None
    low, *_, high = report.figures.percentiles
    in_ras = to_ras(image)
    grey = np.clip((in_ras.array - low) / max(high - low, 1e-6), 0, 1)
    class_index_map = to_ras(Volume(class_index_map, image.affine)).array
    panels = [
        _draw_plane(grey, class_index_map, axis, in_ras.spacing_mm, colours) for axis in (2, 1, 0)
    ]
    title = f"{report.subject.name} ({report.subject.split})"
    return SubjectPicture(title, np.concatenate(panels, axis=1))


def _draw_plane(
    grey: npt.NDArray[np.floating[Any]],
    class_index_map: npt.NDArray[np.uint8],
    axis: int,
    spacing_mm: Sequence[float],
    colours: npt.NDArray[np.uint8],
) -> npt.NDArray[np.uint8]:
    """The slice across an axis that has most labelled voxels, on a square of `_PANEL_PIXELS`."""
    others = tuple(other for other in range(3) if other != axis)
    has_label = (class_index_map > 0) & (class_index_map != IGNORED)
    labelled = np.count_nonzero(has_label, axis=others)
    index = int(labelled.argmax()) if labelled.any() else grey.shape[axis] // 2
    planes = [np.take(array, index, axis).T[::-1] for array in (grey, class_index_map)]
    extent_mm = [grey.shape[other] * spacing_mm[other] for other in reversed(others)]
    pixel_mm = max(size * step for size, step in zip(grey.shape, spacing_mm, strict=True))
    pixel_mm /= _PANEL_PIXELS
    places = [
        np.linspace(0, size - 1, max(round(extent / pixel_mm), 1)).round().astype(int)
        for size, extent in zip(planes[0].shape, extent_mm, strict=True)
    ]
    grey_plane, class_plane = (plane[np.ix_(*places)] for plane in planes)
    panel = np.zeros((_PANEL_PIXELS, _PANEL_PIXELS, 3), np.uint8)
    rows, columns = class_plane.shape
    top, left = (_PANEL_PIXELS - rows) // 2, (_PANEL_PIXELS - columns) // 2
    panel[top : top + rows, left : left + columns] = outline_labels(
        grey_plane, class_plane, colours
    )
    return panel


def class_colours(rgb: Iterable[Sequence[int]]) -> npt.NDArray[np.uint8]:
    """A table of colours: RGB of each class index, (256, 3). Ignored voxels are white.

    Args:
        rgb: colour of each class, without background.
    """
    colours = np.zeros((256, 3), np.uint8)
    for class_index, colour in enumerate(rgb, start=1):
        colours[class_index] = colour
    colours[IGNORED] = _IGNORED_RGB
    return colours


def outline_labels(
    grey: npt.NDArray[np.floating[Any]],
    class_index_map: npt.NDArray[np.uint8],
    colours: npt.NDArray[np.uint8],
) -> npt.NDArray[np.uint8]:
    """Lays the outlines of structures over a grey picture, and a light tint inside them.

    A pixel is outline if a pixel above, below, left or right of it has another class. Pixels at the
    border of the picture have no neighbour there.

    Args:
        grey: floats 0 (black) to 1 (white), (rows, columns).
        class_index_map: (rows, columns), 0 for background.
        colours: RGB of each class index.

    Returns:
        uint8 RGB (rows, columns, 3).
    """
    base = np.repeat((grey * 255).astype(np.uint8)[..., None], 3, axis=-1)
    is_outline = np.zeros(class_index_map.shape, bool)
    for axis in (0, 1):
        differs = np.diff(class_index_map.astype(np.int16), axis=axis) != 0
        first = [slice(None), slice(None)]
        second = list(first)
        first[axis], second[axis] = slice(None, -1), slice(1, None)
        is_outline[tuple(first)] |= differs
        is_outline[tuple(second)] |= differs
    weight = np.where(is_outline, 1.0, _TINT)[..., None] * (class_index_map > 0)[..., None]
    mixed = (1 - weight) * base + weight * colours[class_index_map]
    return np.asarray(mixed.round(), np.uint8)


def require_matplotlib() -> None:
    """Refuses pictures before hours are spent, if they could not be drawn.

    Raises:
        InputError: if Matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise InputError(
            "mtseg-check --pictures needs Matplotlib. Install it: pip install 'mtseg[report]'"
        ) from error


def write_sheets(
    folder: Path,
    task: Task,
    source: str,
    colours: npt.NDArray[np.uint8],
    pictures: Sequence[SubjectPicture],
) -> Iterator[Path]:
    """Writes PNG sheets of `SUBJECTS_PER_SHEET` subjects, each atomically.

    Args:
        folder: made if it does not exist.
        task: the task.
        source: name of the source.
        colours: from `class_colours`.
        pictures: of the subjects, in the order in which they are shown.

    Yields:
        The path of each sheet that is written.

    Raises:
        InputError: if the folder cannot be written.
    """
    from matplotlib import rc_context

    num_sheets = -(-len(pictures) // SUBJECTS_PER_SHEET)
    for number in range(num_sheets):
        path = folder / f"{task.name}_{source}_{number + 1:0{len(str(num_sheets))}}.png"
        shown = pictures[number * SUBJECTS_PER_SHEET : (number + 1) * SUBJECTS_PER_SHEET]
        title = f"{task.name}:{source}, sheet {number + 1} of {num_sheets}"
        with rc_context({"text.parse_math": False}):  # a dollar sign begins no formula
            figure = _make_sheet(task, title, colours, shown)
        with writing_to(folder, "Make room, or give mtseg-check --pictures another folder."):
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as temporary:
                figure.savefig(temporary, dpi=100, facecolor="white")
        yield path


def _make_sheet(
    task: Task, title: str, colours: npt.NDArray[np.uint8], pictures: Sequence[SubjectPicture]
) -> Any:
    """A Matplotlib figure with the subjects in rows of `_COLUMNS`, and the colours below them."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    num_rows = -(-len(pictures) // _COLUMNS)
    pixels = 3 * _PANEL_PIXELS
    width, height = _COLUMNS * (pixels + 20) / 100, num_rows * (_PANEL_PIXELS + 40) / 100 + 0.9
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=14)
    axes = list(figure.subplots(num_rows, _COLUMNS, squeeze=False).flat)
    for axis in axes:
        axis.set_axis_off()
    for axis, picture in zip(axes, pictures, strict=False):
        axis.imshow(picture.rgb, interpolation="nearest")
        axis.set_title(picture.title, fontsize=10)
    handles = [
        Patch(facecolor=colours[index] / 255, edgecolor="black", label=tissue.title)
        for index, tissue in enumerate(task.classes, start=1)
    ]
    handles.append(Patch(facecolor="white", edgecolor="black", label="ignored"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 8))
    return figure
