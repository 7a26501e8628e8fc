"""Tables of an evaluation as text, which `mtseg-train` and `mtseg-evaluate` print."""

from __future__ import annotations

import numpy as np

from mtseg.evaluation.results import Evaluation
from mtseg.evaluation.statistics import mean_interval
from mtseg.system.text_table import format_table


def known_values(evaluation: Evaluation, task: str, class_name: str, metric: str) -> list[float]:
    """The figures of one metric and class, of the scans for which it is defined."""
    values = evaluation.values(task, class_name, metric).values()
    return [value for value in values if value is not None]


def dice_table(evaluation: Evaluation) -> str:
    """Mean and range of Dice over the scans, class by class, and how each class is decided."""
    rows = []
    for task, class_name in evaluation.classes:
        values = known_values(evaluation, task, class_name, "dice")
        figures = (np.mean(values), min(values), max(values)) if values else ()
        shown = [f"{figure:.3f}" for figure in figures] or ["absent", "", ""]
        rule = describe_decision(evaluation, class_name)
        rows.append([task, class_name, *shown, str(len(values)), rule])
    header = ("task", "class", "Dice", "min", "max", "scans", "decision")
    return format_table(header, rows, left=("task", "class", "decision"))


def describe_scans(evaluation: Evaluation) -> str:
    """Of which scans the figures are, and on which the operating points were chosen, in a line."""
    text = f"Figures of the {evaluation.split} scans"
    if evaluation.operating_points:
        text += f"; operating points chosen on: {describe_points(evaluation.points_from)}"
    return text + "."


def describe_points(points_from: str) -> str:
    """The scans on which operating points are chosen, such as `test scans (the paper's way)`."""
    return f"{points_from} scans" + " (the paper's way)" * (points_from == "test")


def describe_decision(evaluation: Evaluation, class_name: str) -> str:
    """How a class is decided: `argmax`, or its operating point such as `p >= 0.58`."""
    threshold = evaluation.operating_points.get(class_name)
    return "argmax" if threshold is None else f"p >= {threshold:.2f}"


def complete_table(evaluation: Evaluation) -> str:
    """The figures of a complete evaluation: intervals, surfaces, volumes, and cross-task error."""
    columns = (
        ("median", "dice", 3),
        ("precision", "precision", 3),
        ("recall", "recall", 3),
        ("HD95 mm", "hd95_mm", 2),
        ("surface", "surface_dice", 3),
        ("ml", "volume_predicted_ml", 1),
        ("ml, ref.", "volume_reference_ml", 1),
    )
    rows, has_interval = [], False
    for task, class_name in evaluation.classes:
        dice = known_values(evaluation, task, class_name, "dice")
        interval = mean_interval(dice, limits=(0, 1))
        shown = f"{np.mean(dice):.3f}" if dice else "absent"
        if interval is not None:
            has_interval = True
            shown += " ({:.3f} to {:.3f})".format(*interval)
        medians = [
            format_median(evaluation, task, class_name, metric, digits)
            for _, metric, digits in columns
        ]
        rows.append([task, class_name, shown, *medians])
    header = ("task", "class", "Dice, 95 % interval", *(title for title, _, _ in columns))
    lines = [format_table(header, rows, left=("task", "class"))]
    lines.append("Dice is the mean over scans with its t interval; the other figures are medians.")
    if has_interval:
        lines.append(
            "Every scan counts as one. If several are of one person, the intervals are too narrow."
        )
    for task in dict.fromkeys(task for task, _ in evaluation.classes):
        shares = known_values(evaluation, task, "all", "alien_share")
        if not shares:
            continue
        lines.append(
            f"{task}: cross-task error {100 * np.median(shares):.4f} % of the voxels in the median "
            f"scan, at most {100 * max(shares):.4f} %."
        )
    return "\n".join([*lines, *_postprocessing_lines(evaluation)])


def _postprocessing_lines(evaluation: Evaluation) -> list[str]:
    """What post-processing changes, one line per class that has it."""
    lines = []
    for task, class_name in evaluation.classes:
        changed = known_values(evaluation, task, class_name, "dice_postprocessed")
        if not changed:
            continue
        before = known_values(evaluation, task, class_name, "dice")
        distances = [
            format_median(evaluation, task, class_name, metric, 2)
            for metric in ("hd95_mm", "hd95_mm_postprocessed")
        ]
        lines.append(
            f"{task} {class_name}: with post-processing Dice {np.mean(changed):.3f} (without "
            f"{np.mean(before):.3f}), HD95 {distances[1]} mm (without {distances[0]} mm)."
        )
    return lines


def format_median(
    evaluation: Evaluation, task: str, class_name: str, metric: str, digits: int
) -> str:
    """The median of a figure over the scans that have the class, as text.

    Returns:
        `–` if the figure is undefined for all of them. If it is undefined for some, such as the
        surface distance where the class was not found, the text says for how many it is defined:
        `1.00 (3 of 4)`.
    """
    dice = evaluation.values(task, class_name, "dice")
    of_all = evaluation.values(task, class_name, metric)
    present = [of_all.get(scan) for scan, value in dice.items() if value is not None]
    values = [value for value in present if value is not None]
    if not values:
        return "–"
    text = f"{np.median(values):.{digits}f}"
    return text if len(values) == len(present) else f"{text} ({len(values)} of {len(present)})"
