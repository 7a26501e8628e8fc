"""Tables of an evaluation for people: figures come in, lines of text leave."""

from __future__ import annotations

import numpy as np

from mtseg.evaluation.results import Evaluation
from mtseg.evaluation.statistics import bootstrap_interval


def known_values(evaluation: Evaluation, task: str, class_name: str, metric: str) -> list[float]:
    """The figures of one metric and class over the scans in which it is defined."""
    values = evaluation.values(task, class_name, metric).values()
    return [value for value in values if value is not None]


def dice_table(evaluation: Evaluation) -> str:
    """Dice per class over the test scans, and how it was decided."""
    lines = [f"{'task':<10}{'class':<24}{'Dice':>6}{'min':>7}{'max':>7}{'scans':>7}  decision"]
    for task, class_name in evaluation.classes:
        values = known_values(evaluation, task, class_name, "dice")
        shown = (
            f"{np.mean(values):>6.3f}{min(values):>7.3f}{max(values):>7.3f}"
            if values
            else f"{'absent':>6}{'':>14}"
        )
        lines.append(
            f"{task:<10}{class_name:<24}{shown}{len(values):>7}  {decision(evaluation, class_name)}"
        )
    return "\n".join(lines)


def decision(evaluation: Evaluation, class_name: str) -> str:
    """How a class is decided, in words."""
    threshold = evaluation.operating_points.get(class_name)
    return "highest activation" if threshold is None else f"p >= {threshold:.2f}"


def complete_table(evaluation: Evaluation) -> str:
    """What a complete evaluation adds: intervals, surfaces, volumes; and confusion of tasks."""
    lines = [
        f"{'class':<24}{'Dice, 95 % interval':>24}{'median':>8}{'precision':>10}{'recall':>8}"
        f"{'HD95 mm':>9}"
        f"{'surface':>9}{'ml':>9}{'ml, ref.':>10}"
    ]
    for task, class_name in evaluation.classes:
        dice = known_values(evaluation, task, class_name, "dice")
        interval = bootstrap_interval(dice)
        shown = "" if not dice else f"{np.mean(dice):.3f}"
        if interval is not None:
            shown += " ({:.3f} to {:.3f})".format(*interval)
        lines.append(
            f"{class_name:<24}{shown or 'absent':>24}"
            + f"{format_median(evaluation, task, class_name, 'dice', 3):>8}"
            + f"{format_median(evaluation, task, class_name, 'precision', 3):>10}"
            + f"{format_median(evaluation, task, class_name, 'recall', 3):>8}"
            + f"{format_median(evaluation, task, class_name, 'hd95_mm', 2):>9}"
            + f"{format_median(evaluation, task, class_name, 'surface_dice', 3):>9}"
            + f"{format_median(evaluation, task, class_name, 'volume_predicted_ml', 1):>9}"
            + f"{format_median(evaluation, task, class_name, 'volume_reference_ml', 1):>10}"
        )
    lines.append("Dice is the mean over scans with its interval, all else the median.")
    for task in dict.fromkeys(task for task, _ in evaluation.classes):
        shares = known_values(evaluation, task, "all", "alien_share")
        if not shares:
            continue
        lines.append(
            f"{task}: a median of {100 * np.median(shares):.4f} % of a scan's voxels has a class "
            f"of another task (at most {100 * max(shares):.4f} %)."
        )
    return "\n".join(lines)


def format_median(
    evaluation: Evaluation, task: str, class_name: str, metric: str, digits: int
) -> str:
    """The median of a figure over the scans that have the class.

    Where it is not defined for all of them, as the distance to a class that was not found, it is
    said for how many it is.
    """
    dice = evaluation.values(task, class_name, "dice")
    of_all = evaluation.values(task, class_name, metric)
    present = [of_all.get(scan) for scan, value in dice.items() if value is not None]
    values = [value for value in present if value is not None]
    if not values:
        return "–"
    text = f"{np.median(values):.{digits}f}"
    return text if len(values) == len(present) else f"{text} ({len(values)} of {len(present)})"
