"""A picture of a scan with its labels: three planes, outlines, and a legend with volumes.

Use it to look over many results quickly. It does not replace a viewer: each plane shows one slice.
Matplotlib is needed (`pip install 'mtseg[report]'`); its global state is not touched, so that
pictures can be drawn in a thread.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mtseg.errors import InputError
from mtseg.scans.volume import Volume, to_ras
from mtseg.system.atomic_files import atomic_write, writing_to
from mtseg.tasks.label_table import LabelEntry

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PLANES = (
    # name, axes to the right and upwards, and the letters of their ends. The subject's right is on
    # the left, as radiologists and the viewers show it.
    ("Axial", 2, (0, 1), "RL", "PA"),
    ("Coronal", 1, (0, 2), "RL", "IS"),
    ("Sagittal", 0, (1, 2), "AP", "IS"),
)
"""The slice's axis, the picture's axes, and where they lead; axes are those of `to_ras`."""

_LONGEST_PIXELS = 800
"""Pixels of the longest side of a panel."""

_GAP, _TITLE, _LEGEND, _ROW, _FOOTER = 20, 70, 330, 32, 34
"""Pixels: between panels; of the title; of the legend, and its rows; of a line below."""

_DPI = 100
_RIM_PIXELS = 2
_PERCENTILES = 0.5, 99.5
_WHITE = 1.15
"""Black is the lower percentile of the slices' foreground, white this many times the higher one, so
that outlines are seen on bright tissue."""

_MOST_ROWS = 24
"""Classes in the legend, the largest; the others are counted."""


def require_matplotlib() -> None:
    """Says what to install if a preview cannot be drawn.

    Raises:
        InputError: if Matplotlib is not installed.
    """
    if not has_matplotlib():
        raise InputError("a preview needs Matplotlib. Install it: pip install 'mtseg[report]'.")


def has_matplotlib() -> bool:
    """Whether a preview can be drawn."""
    return importlib.util.find_spec("matplotlib") is not None


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture that a notebook shows by itself.

    Attributes:
        png: the bytes of the PNG file.
    """

    png: bytes = dataclasses.field(repr=False)

    def save(self, path: str | Path) -> None:
        """Writes the PNG file.

        Raises:
            InputError: if it cannot be written.
        """
        path = Path(path)
        with writing_to(path, "Make room, or give another file."), atomic_write(path) as temporary:
            temporary.write_bytes(self.png)

    def _repr_png_(self) -> bytes:
        return self.png


def make_picture(
    image: Volume,
    labels: Volume,
    table: Sequence[LabelEntry],
    title: str,
    warning: str | None = None,
) -> Picture:
    """Draws a scan with its labels.

    Args:
        image: the scan as the network takes it, 0 outside the foreground; any grid.
        labels: label map on the scan's own grid.
        table: names and colours of the labels.
        title: name of the scan.
        warning: of the verdict, to be shown too.

    Raises:
        InputError: if Matplotlib is not installed.
    """
    require_matplotlib()
    figure = draw_preview(image, labels, table, title, warning)
    file = io.BytesIO()
    # Without the version of Matplotlib, so that the same scan gives the same bytes.
    figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
    return Picture(file.getvalue())


def draw_preview(
    image: Volume,
    labels: Volume,
    table: Sequence[LabelEntry],
    title: str,
    warning: str | None = None,
) -> Figure:
    """The picture of `make_picture` as a figure; its arguments are the same."""
    from matplotlib.figure import Figure

    canonical = to_ras(labels)
    centre = centre_index(canonical.array)
    spans = _visible_spans(image, canonical, centre)
    sizes_mm = [high - low for low, high in spans]
    pixels_per_mm = _LONGEST_PIXELS / max(sizes_mm)
    widths = [max(40, round(pixels_per_mm * sizes_mm[right])) for _, _, (right, _), *_ in _PLANES]
    heights = [max(40, round(pixels_per_mm * sizes_mm[up])) for _, _, (_, up), *_ in _PLANES]
    panels = [
        _panel(image, canonical, centre, axis, axes, spans, (height, width))
        for (_, axis, axes, *_), width, height in zip(_PLANES, widths, heights, strict=True)
    ]
    black, white = _window([grey for grey, _ in panels])
    rows = _legend_rows(canonical, table)
    width = sum(widths) + 5 * _GAP + _LEGEND
    lines = textwrap.wrap(f"Warning: {warning}", width // 10) if warning else []
    footer = _GAP + _FOOTER * len(lines)
    height = _TITLE + max(*heights, _ROW * len(rows)) + footer
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="black")
    write = functools.partial(figure.text, parse_math=False)  # a dollar sign begins no formula
    # The name of a file need not be text.
    title = title.encode(errors="surrogateescape").decode(errors="replace")
    write(_GAP / width, 1 - 30 / height, title, color="white", fontsize=13, va="center")
    colors = {entry.label: entry.rgb for entry in table}
    left: float = _GAP
    for (grey, outline), (name, _, _, across, along), of_width, of_height in zip(
        panels, _PLANES, widths, heights, strict=True
    ):
        rgb = _colour(np.clip((grey - black) / (white - black), 0, 1), outline, colors)
        bottom = height - _TITLE - (max(heights) + of_height) / 2
        place = (left / width, bottom / height, of_width / width, of_height / height)
        _show(figure.add_axes(place), rgb, name, across, along)
        left += of_width + _GAP
    left += _GAP
    for number, (color, name, volume) in enumerate(rows):
        y = 1 - (_TITLE + _ROW * (number + 0.5)) / height
        if color is not None:
            write(left / width, y, "■", color=color, fontsize=15, va="center_baseline")
        write((left + 24) / width, y, name, color="white", fontsize=10, va="center_baseline")
        write(
            (left + _LEGEND - _GAP) / width, y, volume, color="white", fontsize=10,
            ha="right", va="center_baseline",
        )  # fmt: skip
    for number, line in enumerate(reversed(lines)):
        y = (_GAP / 2 + _FOOTER * (number + 0.5)) / height
        write(_GAP / width, y, line, color="#FFB000", fontsize=11, va="center")
    return figure


def centre_index(labels: npt.NDArray[np.integer[Any]]) -> tuple[int, int, int]:
    """The voxel whose three slices are shown: the median of the labelled voxels along each axis.

    Args:
        labels: (I, J, K), 0 for background.

    Returns:
        Its index; the middle of the volume if nothing is labelled.
    """
    centre = []
    for axis, size in enumerate(labels.shape):
        others = tuple(other for other in range(3) if other != axis)
        counts = np.count_nonzero(labels, axis=others).cumsum()
        total = int(counts[-1])
        centre.append(int(np.searchsorted(counts, (total + 1) // 2)) if total else size // 2)
    return centre[0], centre[1], centre[2]


def _visible_spans(
    image: Volume, labels: Volume, centre: tuple[int, int, int]
) -> list[tuple[float, float]]:
    """The part of each axis, in mm from the first voxel's outer side, that has something to show.

    Large empty borders are left out: a box around the foreground and the labels of the slices.
    """
    spans = []
    for axis, size in enumerate(labels.array.shape):
        step = labels.spacing_mm[axis]
        occupied = np.zeros(size, bool)
        for plane_axis in {0, 1, 2} - {axis}:
            other = 3 - axis - plane_axis
            label_slice = np.take(labels.array, centre[plane_axis], plane_axis)
            index = [np.arange(n, dtype=float) for n in labels.array.shape]
            index[plane_axis] = np.array([float(centre[plane_axis])])
            seen = np.squeeze(_sample(image, labels, index), plane_axis) > 0
            seen |= label_slice > 0
            occupied |= seen.any(axis=0 if other < axis else 1)
        places = np.flatnonzero(occupied)
        low, high = (places[0], places[-1] + 1) if len(places) else (0, size)
        margin = 0.03 * (high - low) * step
        spans.append((max(0.0, low * step - margin), min(size * step, high * step + margin)))
    return spans


def _sample(
    image: Volume, labels: Volume, index: Sequence[npt.NDArray[np.floating[Any]]]
) -> npt.NDArray[np.float32]:
    """The scan at a rectangular block of places on the grid of its labels, linearly interpolated.

    Args:
        image: the scan.
        labels: only the affine is used.
        index: places along each axis, in voxels of `labels`.

    Returns:
        float32 of the shape that the three lengths give; 0 outside the scan.
    """
    to_image = np.linalg.inv(image.affine) @ labels.affine
    places = np.stack(np.meshgrid(*index, indexing="ij"))
    coordinates = np.tensordot(to_image[:3, :3], places, 1) + to_image[:3, 3][:, None, None, None]
    sampled: npt.NDArray[np.float32] = ndimage.map_coordinates(
        image.array, coordinates, np.float32, order=1, mode="constant"
    )
    return sampled


def _panel(
    image: Volume,
    labels: Volume,
    centre: tuple[int, int, int],
    axis: int,
    axes: tuple[int, int],
    spans: Sequence[tuple[float, float]],
    shape: tuple[int, int],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """A slice of the scan and the outlines in it, in pixels of equal size in mm.

    Returns:
        float32 intensities and uint8 labels, 0 where no outline is, each (rows, columns), the first
        row at the top.
    """
    right, up = axes
    index = [np.array([float(place)]) for place in centre]
    for along, count in ((right, shape[1]), (up, shape[0])):
        low, high = spans[along]
        middles_mm = low + (np.arange(count) + 0.5) * (high - low) / count
        index[along] = middles_mm / labels.spacing_mm[along] - 0.5
    # Rows from top to bottom; the subject's right, and the front, on the left.
    index[up], index[right] = index[up][::-1], index[right][::-1]
    grey = np.squeeze(_sample(image, labels, index), axis)
    outline = _outline(np.take(labels.array, centre[axis], axis), index[right], index[up])
    # `_sample` has the axes in the order i, j, k, so columns come before rows.
    return grey.T, outline.T


def _outline(
    labels: npt.NDArray[np.integer[Any]],
    columns: npt.NDArray[np.floating[Any]],
    rows: npt.NDArray[np.floating[Any]],
) -> npt.NDArray[np.uint8]:
    """The inner rim of each label of a slice, smoothly enlarged to pixels.

    Each label has its own rim, so that two that touch do not cover each other's.

    Args:
        labels: (columns, rows) of voxels.
        columns: place of each column of pixels, in voxels.
        rows: place of each row of pixels, in voxels.

    Returns:
        uint8 (columns, rows) of pixels: the label on rims, 0 elsewhere.
    """
    coordinates = np.stack(np.meshgrid(columns, rows, indexing="ij"))
    best = np.full(coordinates.shape[1:], -1.0, np.float32)
    enlarged = np.zeros(best.shape, np.uint8)
    for label in np.unique(labels):
        mask = (labels == label).astype(np.float32)
        share = ndimage.map_coordinates(mask, coordinates, np.float32, order=1, mode="nearest")
        enlarged[share > best] = label
        best = np.maximum(best, share)
    size = 2 * _RIM_PIXELS + 1
    is_rim = ndimage.minimum_filter(enlarged, size) != ndimage.maximum_filter(enlarged, size)
    return np.where(is_rim, enlarged, 0).astype(np.uint8)


def _window(panels: Sequence[npt.NDArray[np.float32]]) -> tuple[float, float]:
    """The intensities that are shown black and white."""
    foreground = np.concatenate([grey[grey > 0] for grey in panels])
    if not foreground.size:
        return 0.0, 1.0
    low, high = np.percentile(foreground, _PERCENTILES)
    # Black is at most the darkest tissue, so that the foreground is told from the background.
    low, high = min(float(low), 0.2 * float(high)), _WHITE * float(high)
    return low, max(high, low + 1e-6)


def _colour(
    grey: npt.NDArray[np.float32],
    outline: npt.NDArray[np.uint8],
    colors: dict[int, tuple[int, int, int]],
) -> npt.NDArray[np.uint8]:
    """Grey pixels, 0 to 1, with outlines in the labels' colours, as RGB."""
    rgb = np.repeat((255 * grey).astype(np.uint8)[..., None], 3, axis=-1)
    for label in np.unique(outline[outline > 0]).tolist():
        rgb[outline == label] = colors[label]
    return rgb


def _show(axes: Axes, rgb: npt.NDArray[np.uint8], name: str, across: str, along: str) -> None:
    """Fills a panel and writes where it leads: letters at its four sides."""
    axes.imshow(rgb, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    axes.set_title(name, color="white", fontsize=10, pad=5)
    low, high = 0.015, 0.985
    for x, y, letter, ha, va in (
        (low, 0.5, across[0], "left", "center"),
        (high, 0.5, across[1], "right", "center"),
        (0.5, low, along[0], "center", "bottom"),
        (0.5, high, along[1], "center", "top"),
    ):
        axes.text(
            x, y, letter, transform=axes.transAxes, color="#BBBBBB", fontsize=10, ha=ha, va=va
        )


def _legend_rows(labels: Volume, table: Sequence[LabelEntry]) -> list[tuple[str | None, str, str]]:
    """Colour, name and volume of each class that was found, in the order of the labels."""
    counts = np.bincount(labels.array.ravel(), minlength=256)
    found = [entry for entry in table if counts[entry.label]]
    if not found:
        return [(None, "background only", "")]
    largest = sorted(found, key=lambda entry: -counts[entry.label])[:_MOST_ROWS]
    rows: list[tuple[str | None, str, str]] = [
        (entry.color, entry.title, _in_ml(counts[entry.label] * labels.voxel_ml))
        for entry in sorted(largest, key=lambda entry: entry.label)
    ]
    if len(found) > len(largest):
        rows.append((None, f"and {len(found) - len(largest)} more", ""))
    return rows


def _in_ml(volume_ml: float) -> str:
    return f"{volume_ml:.1f} ml" if volume_ml >= 1 else f"{volume_ml:.2g} ml"
