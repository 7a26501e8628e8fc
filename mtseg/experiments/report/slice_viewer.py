"""The slice viewer of the report: an interactive Plotly figure of a scan and its labels.

The pictures of all slices are inside the page, so it needs no network connection.
"""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from PIL import Image
from plotly.offline import get_plotlyjs

from mtseg.evaluation.pictures import compare_slices

MAX_SLICES = 64
"""A longer scan shows every second or third slice, to keep the page small."""

_MIN_PANEL_WIDTH = 160
"""Width of one panel in pixels; smaller scans are enlarged."""

_JPEG_QUALITY = 80

_KEYS_AND_WHEEL = """
(() => {
  const plot = document.getElementById('{plot_id}');
  const steps = plot.layout.sliders[0].steps;
  const tell = (at) => {
    plot.setAttribute('aria-valuenow', at);
    plot.setAttribute('aria-valuetext', 'axial slice ' + steps[at].label);
  };
  const show = (by) => {
    const active = plot.layout.sliders[0].active || 0;
    const next = Math.min(Math.max(active + by, 0), steps.length - 1);
    if (next === active) return false;
    Plotly.animate(plot, [steps[next].args[0][0]], steps[next].args[1]);
    Plotly.relayout(plot, {'sliders[0].active': next});
    tell(next);
    return true;
  };
  plot.tabIndex = 0;
  plot.setAttribute('role', 'slider');
  plot.setAttribute('aria-label', 'Slices of ' + plot.id.replace('viewer-', ''));
  plot.setAttribute('aria-valuemin', 0);
  plot.setAttribute('aria-valuemax', steps.length - 1);
  tell(plot.layout.sliders[0].active);
  plot.on('plotly_sliderchange', () => tell(plot.layout.sliders[0].active));
  plot.addEventListener('wheel', (event) => {
    // At the first and last slice the page scrolls on.
    if (show(Math.sign(event.deltaY))) event.preventDefault();
  }, {passive: false});
  plot.addEventListener('keydown', (event) => {
    const by = {ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1}[event.key];
    if (by) { event.preventDefault(); show(by); }
  });
})();
"""
"""Plotly's slider moves by dragging only; this adds the wheel, the keys and screen readers."""


def plotly_script() -> str:
    """Plotly's JavaScript as HTML; a page with viewers needs it once, before them."""
    return f"<script>{get_plotlyjs()}</script>"


def slice_viewer(
    name: str,
    image: npt.NDArray[np.float32],
    reference: npt.NDArray[np.uint8],
    predicted: npt.NDArray[np.uint8],
) -> str:
    """A viewer as HTML: scan, reference and prediction side by side, one axial slice at a time.

    Args:
        name: unique on the page.
        image: float32 (I, J, K), intensities as prepared. Slices without a voxel > 0 are left out;
            if there is no other, all are shown.
        reference: combined class indices (I, J, K).
        predicted: combined class indices (I, J, K).
    """
    has_voxels = (image > 0).any(axis=(0, 1))
    filled = np.flatnonzero(has_voxels if has_voxels.any() else ~has_voxels)
    step = max(1, -(-len(filled) // MAX_SLICES))
    slices = filled[::step].tolist()
    pictures = [_picture(image[..., k], reference[..., k], predicted[..., k]) for k in slices]
    middle = len(slices) // 2
    frames = [
        go.Frame(data=[go.Image(source=source)], name=str(k))
        for k, source in zip(slices, pictures, strict=True)
    ]
    animation = {"mode": "immediate", "frame": {"duration": 0, "redraw": True},
                 "transition": {"duration": 0}}  # fmt: skip
    slider = {
        "active": middle,
        "currentvalue": {"prefix": "axial slice "},
        "pad": {"t": 10},
        "steps": [
            {"method": "animate", "label": str(k), "args": [[str(k)], animation]} for k in slices
        ],
    }
    figure = go.Figure(data=[go.Image(source=pictures[middle], hoverinfo="skip")], frames=frames)
    figure.update_layout(
        sliders=[slider],
        margin={"l": 12, "r": 12, "t": 4, "b": 30},  # room for the labels of the slider
        height=460,
        dragmode=False,
        template="plotly_white",
    )
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    content: str = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=f"viewer-{name}",
        post_script=_KEYS_AND_WHEEL,
        auto_play=False,
        config={"displayModeBar": False, "responsive": True},
    )
    return content


def _picture(
    image: npt.NDArray[np.float32],
    reference: npt.NDArray[np.uint8],
    predicted: npt.NDArray[np.uint8],
) -> str:
    """A slice, arrays (I, J), as a JPEG in a data URL."""
    picture = Image.fromarray(compare_slices(image, reference, predicted))
    scale = -(-_MIN_PANEL_WIDTH // image.shape[0])
    picture = picture.resize(
        (picture.width * scale, picture.height * scale), Image.Resampling.NEAREST
    )
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
