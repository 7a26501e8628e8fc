"""The slice viewer of the report: scan, reference and labels of a network, slice by slice.

The page holds all slices of a layer as one picture, from which `slice_viewer.js` draws one slice.
So the page needs no network connection and stays small. `mtseg-view` shows whole volumes in three
planes: the viewer NiiVue and one scan of a brain would be larger than the whole report.
"""

from __future__ import annotations

import base64
import html
import io
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from mtseg.evaluation.pictures import PALETTE, WHITE, palette_index

MAX_SLICES = 64
"""A longer scan shows every second or third slice, to keep the page small."""

_JPEG_QUALITY = 80

_SHEET_COLUMNS = 8

_MARGIN = 2
"""Voxels that are kept around the foreground."""


def viewer_script() -> str:
    """The JavaScript as HTML; a page with viewers needs it once, after them."""
    return f"<script>{Path(__file__).with_name('slice_viewer.js').read_text()}</script>"


def slice_viewer(
    name: str,
    image: npt.NDArray[np.float32],
    layers: Sequence[tuple[str, npt.NDArray[np.uint8]]],
    class_names: Sequence[str],
    max_bytes: int,
) -> str:
    """A viewer as HTML: the scan, and each layer over it, one axial slice at a time.

    Args:
        name: unique on the page, and what it is called.
        image: float32 (I, J, K), intensities as prepared. Slices without a voxel > 0 are left out,
            as are rows and columns around the scan; if there is no such voxel, all are shown.
        layers: titles and label maps, combined class indices (I, J, K).
        class_names: a name for each combined class index.
        max_bytes: of the pictures. Slices are left out until they fit; one stays.
    """
    crop, filled = _foreground(image)
    first_step = max(1, -(-len(filled) // MAX_SLICES))
    for step in itertools.count(first_step):
        slices = filled[::step]
        sheets = [_sheet_of_scan(image[crop][..., slices])]
        sheets += [_sheet_of_labels(labels[crop][..., slices]) for _, labels in layers]
        if sum(map(len, sheets)) <= max_bytes or len(slices) == 1:
            break
    size = {"width": image[crop].shape[0], "height": image[crop].shape[1]}
    content = {"slices": slices.tolist(), "columns": _SHEET_COLUMNS, **size, "sheets": sheets}
    titles = ["scan", *(title for title, _ in layers)]
    panels = "".join(
        f"<figure><figcaption>{html.escape(title)}</figcaption>"
        f'<canvas role="img" aria-label="{html.escape(title)}" width="{size["width"]}" '
        f'height="{size["height"]}"></canvas></figure>'
        for title in titles
    )
    middle = len(slices) // 2
    return (
        f'<div class="slices" role="group" aria-label="{html.escape(name)}">'
        f'<script type="application/json">{json.dumps(content)}</script>'
        f'<div class="panels">{panels}</div>{_legend(layers, class_names)}'
        f'<div class="controls"><label>Axial slice <output>{slices[middle]}</output>'
        f'<input type="range" class="slice" max="{len(slices) - 1}" value="{middle}"></label>'
        "<label>Opacity of the labels <output>65 %</output>"
        '<input type="range" class="opacity" max="100" value="65"></label></div></div>'
    )


def _foreground(
    image: npt.NDArray[np.float32],
) -> tuple[tuple[slice, slice], npt.NDArray[np.intp]]:
    """Where along I and J the scan is, and its slices."""
    is_filled = image > 0
    if not is_filled.any():
        is_filled = np.ones(image.shape, bool)
    crop = []
    for axes in ((1, 2), (0, 2)):
        places = np.flatnonzero(is_filled.any(axis=axes))
        crop.append(slice(max(0, int(places[0]) - _MARGIN), int(places[-1]) + _MARGIN + 1))
    return (crop[0], crop[1]), np.flatnonzero(is_filled.any(axis=(0, 1)))


def _legend(layers: Sequence[tuple[str, npt.NDArray[np.uint8]]], class_names: Sequence[str]) -> str:
    """The colours of the classes that a layer has."""
    found = sorted({int(c) for _, labels in layers for c in np.unique(labels)} - {0})
    items = "".join(
        f'<li><span style="background:#{PALETTE[palette_index(c)].tobytes().hex()}"></span>'
        f"{html.escape(class_names[c].replace('_', ' '))}</li>"
        for c in found
    )
    return f'<ul class="legend">{items}</ul>'


def _sheet(voxels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Lays slices (I, J, K) out in rows: anterior up, the subject's left on the left."""
    width, height, count = voxels.shape
    num_rows = -(-count // _SHEET_COLUMNS)
    sheet = np.zeros((num_rows * height, _SHEET_COLUMNS * width), np.uint8)
    for number in range(count):
        row, column = divmod(number, _SHEET_COLUMNS)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = np.flip(
            voxels[..., number].T, 0
        )
    return sheet


def _sheet_of_scan(image: npt.NDArray[np.float32]) -> str:
    grey = (255 * np.clip(image / WHITE, 0, 1)).astype(np.uint8)
    return _data_url(Image.fromarray(_sheet(grey)), "jpeg", quality=_JPEG_QUALITY)


def _sheet_of_labels(labels: npt.NDArray[np.uint8]) -> str:
    """The colours alone; background is transparent."""
    picture = Image.fromarray(_sheet(palette_index(labels).astype(np.uint8)))
    picture.putpalette(PALETTE.tobytes())
    return _data_url(picture, "png", transparency=0, optimize=True)


def _data_url(picture: Image.Image, image_format: str, **options: int) -> str:
    file = io.BytesIO()
    picture.save(file, image_format, **options)
    return f"data:image/{image_format};base64,{base64.b64encode(file.getvalue()).decode()}"
