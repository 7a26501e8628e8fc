"""The slice viewer of the report: an interactive Plotly figure of a scan and its labels.

The picture of every slice is inside the page, so it needs no network connection.
"""

from __future__ import annotations

import base64
import io

import numpy as np
import plotly.graph_objects as go
from PIL import Image
from plotly.offline import get_plotlyjs

from mtseg.evaluation.pictures import compare_slices

MOST_SLICES = 64
"""Slices in a viewer at most: every second or third of a longer scan, to keep the page small."""


_SMALLEST_WIDTH = 160
"""Pixels of one panel at least: smaller scans are enlarged."""


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
"""Plotly's slider alone is moved by dragging; this adds the wheel, the keys and screen readers."""


def plotly_script() -> str:
    """Plotly's JavaScript, once for all viewers of a page."""
    return f"<script>{get_plotlyjs()}</script>"


def slice_viewer(name: str, image: np.ndarray, reference: np.ndarray, predicted: np.ndarray) -> str:
    """HTML of a viewer: scan, reference and prediction side by side, slice by slice.

    Args:
        name: unique on the page.
        image: float32 (I, J, K), intensities as prepared.
        reference: combined class index (I, J, K).
        predicted: combined class index (I, J, K).
    """
    labelled = np.flatnonzero((image > 0).any(axis=(0, 1)))
    step = max(1, -(-len(labelled) // MOST_SLICES))
    slices = labelled[::step].tolist()
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
        margin={"l": 0, "r": 0, "t": 4, "b": 0},
        height=430,
        dragmode=False,
        template="plotly_white",
    )
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=f"viewer-{name}",
        post_script=_KEYS_AND_WHEEL,
        auto_play=False,
        config={"displayModeBar": False, "responsive": True},
    )


def _picture(image: np.ndarray, reference: np.ndarray, predicted: np.ndarray) -> str:
    """A slice as the data of a JPEG."""
    picture = Image.fromarray(compare_slices(image, reference, predicted))
    scale = -(-_SMALLEST_WIDTH // image.shape[0])
    picture = picture.resize(
        (picture.width * scale, picture.height * scale), Image.Resampling.NEAREST
    )
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
