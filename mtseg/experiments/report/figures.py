"""Draws the figures of the report with Matplotlib.

The colours are those of Okabe and Ito, which colour-blind readers can tell apart. Every network
also has its own line style and marker. The background is white for printing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mtseg.evaluation.metrics import precision_recall, threshold_number
from mtseg.evaluation.pictures import PALETTE, WHITE, colour_labels, palette_index
from mtseg.evaluation.tables import known_values
from mtseg.experiments.plan import label_of
from mtseg.experiments.results import Result

matplotlib.rcParams.update(
    {
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.hashsalt": "mtseg",  # so that the same figure gives the same file
        "text.parse_math": False,  # a dollar sign in the name of a scan begins no formula
    }
)

_COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000", "#999999"]
_LINES = ["-", "--", "-.", ":"]
_MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]

_PANEL_COLUMNS = 4
"""Panels in a row of a figure."""

_ERROR_PERCENT = 1e-4, 1.0
"""Ends of the colour bar of errors between tasks, in percent of a task's voxels."""


def style_of(result: Result) -> dict[str, Any]:
    """Colour, line style and marker of an experiment, the same in every figure."""
    number = result.experiment.number - 1
    if result.experiment.is_repeat:  # that of the first experiment, but dashed and open
        return {"color": _COLOURS[0], "linestyle": "--", "marker": "o", "markerfacecolor": "none"}
    return {
        "color": _COLOURS[number % len(_COLOURS)],
        # After eight experiments colours and markers repeat, with another line style.
        "linestyle": _LINES[(number + number // len(_COLOURS)) % len(_LINES)],
        "marker": _MARKERS[number % len(_MARKERS)],
    }


def _make_panels(names: Sequence[str], height_inches: float = 2.1) -> tuple[Figure, list[Axes]]:
    """A figure with one titled panel per class name."""
    columns = min(_PANEL_COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(2.3 * columns, height_inches * rows + 0.6), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[len(names) :]:
        axis.remove()
    for axis, name in zip(axes, names, strict=False):
        axis.set_title(name.replace("_", " "))
    return figure, axes[: len(names)]


def learning_curves(results: Sequence[Result]) -> Figure:
    """One panel per class, one line per experiment, as in Fig. 2 of the paper."""
    classes = _classes(results)
    figure, axes = _make_panels([name for _, name in classes])
    for axis, (task, class_name) in zip(axes, classes, strict=True):
        for result in _with_task(results, task):
            num_tasks = len(result.experiment.task_names)
            per_task = [point["minibatch"] / num_tasks for point in result.curve]
            dice = [point["dice"][f"{task}/{class_name}"] for point in result.curve]
            axis.plot(per_task, dice, markersize=4, linewidth=1.2, **style_of(result))
        axis.set_ylim(0, 1)
        axis.grid(alpha=0.25)
        axis.set_xlim(left=0)
    figure.supxlabel("mini-batches per task", fontsize=9)
    figure.supylabel("Dice", fontsize=9)
    handles = [Line2D([], [], label=label_of(r.experiment.name), **style_of(r)) for r in results]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    return figure


def dice_distributions(results: Sequence[Result]) -> Figure:
    """Dice of each test scan: one panel per class, one column per experiment; all on one scale."""
    classes = _classes(results)
    figure, axes = _make_panels([name for _, name in classes], height_inches=2.4)
    lowest = 1.0
    for axis, (task, class_name) in zip(axes, classes, strict=True):
        shown = _with_task(results, task)
        for place, result in enumerate(shown):
            values = known_values(result.evaluation, task, class_name, "dice")
            colour = style_of(result)["color"]
            spread = (np.arange(len(values)) - (len(values) - 1) / 2) / max(len(values), 8) * 0.6
            axis.plot(
                place + spread, values, linestyle="", marker=style_of(result)["marker"],
                markersize=4, color=colour, alpha=0.7, markerfacecolor="none",
            )  # fmt: skip
            if values:
                lowest = min(lowest, *values)
                axis.hlines(np.median(values), place - 0.4, place + 0.4, color=colour, linewidth=2)
        axis.set_xticks(
            range(len(shown)), [label_of(r.experiment.name) for r in shown], rotation=45,
            ha="right", fontsize=7,
        )  # fmt: skip
        axis.grid(alpha=0.25, axis="y")
    # A tenth below the worst scan, rounded, so that panels can be compared.
    bottom = max(0.0, math.floor(10 * lowest - 0.5) / 10)
    for axis in axes:
        axis.set_ylim(bottom, 1 + 0.02 * (1 - bottom))
    figure.supylabel("Dice; bar: median", fontsize=9)
    return figure


def precision_recall_curves(results: Sequence[Result]) -> Figure | None:
    """Precision against recall: one panel per class, one line per experiment with its mark.

    Returns:
        A figure of the classes that have an operating point; None if there is no such class.
    """
    classes = [
        (task, name)
        for task, name in _classes(results)
        if any(name in r.evaluation.operating_points for r in results)
    ]
    if not classes:
        return None
    figure, axes = _make_panels([name for _, name in classes], height_inches=3.0)
    most_lines = max(len(_with_task(results, task)) for task, _ in classes)
    columns = min(_PANEL_COLUMNS, len(axes))
    rows = math.ceil(len(axes) / columns)
    figure.set_size_inches(3.4 * columns, (3.3 + 0.16 * most_lines) * rows)
    for axis, (task, class_name) in zip(axes, classes, strict=True):
        for result in _with_task(results, task):
            point = result.evaluation.operating_points.get(class_name)
            if point is None:
                continue
            precision, recall = precision_recall(**result.evaluation.curves[class_name])
            style = style_of(result)
            axis.plot(recall, precision, linewidth=1.2, color=style["color"],
                      linestyle=style["linestyle"])  # fmt: skip
            at = threshold_number(point)
            axis.plot(
                recall[at], precision[at], linestyle="", markersize=6, color=style["color"],
                marker=style["marker"],
                label=f"{label_of(result.experiment.name)}: p ≥ {point:.2f}",
            )  # fmt: skip
        axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
        axis.grid(alpha=0.25)
        # Below the panel, where it covers no curve.
        axis.legend(loc="upper left", bbox_to_anchor=(0, -0.2), fontsize=7, frameon=False)
    return figure


def confusion_percent(result: Result) -> dict[str, npt.NDArray[np.float64]]:
    """Percent of the voxels > 0 of each task's test scans that get each class, by argmax.

    Returns:
        Task name -> float64 (num_classes,), in the order of combined class indices; all 0 if the
        scans have no voxels > 0.
    """
    percent = {}
    for task, counts in result.evaluation.confusion.items():
        predicted = np.array(counts, np.float64).sum(axis=0)
        percent[task] = 100 * predicted / max(predicted.sum(), 1)
    return percent


def confusion_matrix(result: Result) -> Figure:
    """The result of `confusion_percent`: one row per task, one column per class.

    Classes of the scans' own task are grey. The colour of the others follows the logarithm of their
    percentage, so that small errors show as well; a bar gives the scale.
    """
    names = result.label_space.class_names
    percent = confusion_percent(result)
    tasks, shares = list(percent), np.array(list(percent.values()))
    figure = Figure(figsize=(1.1 * len(names) + 2.4, 0.62 * len(tasks) + 1.7), layout="constrained")
    axis = figure.subplots()
    is_own = np.array(
        [[class_task in (None, task) for class_task in result.label_space.class_task]
         for task in tasks]
    )  # fmt: skip
    # The lightest colours, so that black text can be read on all of them.
    colours = LinearSegmentedColormap.from_list("errors", ["#fff6e5", "#E69F00"]).with_extremes(
        bad="#e6e9ed", under="white"
    )
    # Above 0, since a share of 0 has no logarithm; it is shown white.
    shown = np.ma.array(np.maximum(shares, 1e-9), mask=is_own)
    picture = axis.imshow(shown, cmap=colours, norm=LogNorm(*_ERROR_PERCENT), aspect="auto")
    bar = figure.colorbar(picture, ax=axis, extend="both", pad=0.01, format="%g")
    bar.set_label("class of another task,\n% of voxels > 0", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    for row, column in np.ndindex(shares.shape):
        share = shares[row, column]
        text = "0" if share == 0 else f"{share:.2f}" if share >= 0.1 else f"{share:.4f}"
        weight = "normal" if is_own[row, column] else "bold"
        axis.text(column, row, text, ha="center", va="center", fontsize=8, weight=weight)
    axis.set_xticks(range(len(names)), [n.replace("_", "\n") for n in names], fontsize=7)
    axis.set_yticks(range(len(tasks)), tasks)
    axis.set_xlabel("class by argmax (bold: of another task), % of voxels > 0")
    axis.set_ylabel("scans of")
    axis.spines[:].set_visible(False)
    return figure


def segmentations(
    examples: Sequence[
        tuple[str, npt.NDArray[np.float32], list[tuple[str, npt.NDArray[np.uint8]]]]
    ],
    class_names: Sequence[str],
) -> Figure:
    """One axial slice per task: scan, reference, and every network, as in Fig. 3 of the paper.

    Args:
        examples: for each task its title, the slice, float32 (I, J), intensities as prepared, and
            the titles and label maps that are drawn over it, combined class indices (I, J).
        class_names: a name for each combined class index.
    """
    columns = 1 + max(len(layers) for _, _, layers in examples)
    figure = Figure(figsize=(1.75 * columns, 2.25 * len(examples) + 0.5), layout="constrained")
    axes = figure.subplots(len(examples), columns, squeeze=False)
    for row, (title, image, layers) in zip(axes, examples, strict=True):
        grey = np.clip(image / WHITE, 0, 1)
        panels = [("scan", np.zeros(image.shape, np.uint8)), *layers]
        for axis, (name, labels) in zip(row, panels, strict=False):
            picture = colour_labels(grey, labels)
            axis.imshow(np.flip(picture.transpose(1, 0, 2), 0), interpolation="nearest")
            axis.set_title(name, fontsize=8)
        for axis in row:
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
        for axis in row[len(panels) :]:
            axis.set_visible(False)
        row[0].set_ylabel(title)
    handles = [
        Patch(color=tuple(PALETTE[palette_index(c)] / 255), label=name.replace("_", " "))
        for c, name in enumerate(class_names)
        if c > 0
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(4, columns), frameon=False,
        fontsize=8,
    )  # fmt: skip
    return figure


def _classes(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Task and name of every class, in the order of the experiments."""
    return list(dict.fromkeys(c for r in results for c in r.evaluation.classes))


def _with_task(results: Sequence[Result], task: str) -> list[Result]:
    """The results of the networks for a task."""
    return [r for r in results if task in r.experiment.task_names]
