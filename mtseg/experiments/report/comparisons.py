"""The report's sections that compare networks: tables, learning curves, Dice, operating points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mtseg.evaluation.statistics import MARGIN, MIN_SCANS
from mtseg.evaluation.tables import describe_points, known_values
from mtseg.experiments.compare import UNDEFINED, format_dice, format_difference
from mtseg.experiments.plan import label_of
from mtseg.experiments.report.figures import (
    dice_distributions,
    learning_curves,
    precision_recall_curves,
)
from mtseg.experiments.report.page import Block, Heading, Paragraph, Picture, Table
from mtseg.experiments.results import Result


def comparison_section(results: Sequence[Result], comparison: dict[str, Any]) -> list[Block]:
    """Single-task and multi-task networks, by task and by class.

    Args:
        results: finished experiments.
        comparison: from `mtseg.experiments.compare.compare_networks`.
    """
    heading = Heading("Single-task and multi-task networks")
    if not comparison["rows"]:
        return [heading, Paragraph("There are no two networks for the same task to compare yet.")]
    of_tasks = [row for row in comparison["rows"] if row["class"] == "all"]
    of_classes = [row for row in comparison["rows"] if row["class"] != "all"]
    head = ("network", "single-task", "this network", "difference (95 % interval)", "verdict")
    return [
        heading,
        Paragraph(
            "Each network is compared with the single-task network, paired over the test scans. "
            "The tables show mean Dice of both, and the mean difference with its 95 % t interval. "
            f"**Not inferior** means that the whole interval is above -{MARGIN}, **inferior** that "
            f"it is below, **undecided** everything else, and any comparison on fewer than "
            f"{MIN_SCANS} scans. Scans of one person count as one, with their mean, if the task "
            "file says whose they are. Where a network was repeated with another seed, its figures "
            "are means over both runs, and the difference between the runs widens the interval. "
            "The rows of the repeat itself compare the two runs: they show how much chance alone "
            "varies."
        ),
        _dice_of_networks(results),
        Table(
            "Mean over the classes of a task.",
            ("task", *head),
            [[row["task"], *_comparison_cells(row)] for row in of_tasks],
            num_text_columns=2,
        ),
        Table(
            "By class.",
            ("task", "class", *head),
            [
                [row["task"], row["class"].replace("_", " "), *_comparison_cells(row)]
                for row in of_classes
            ],
            num_text_columns=3,
        ),
    ]


def _dice_of_networks(results: Sequence[Result]) -> Table:
    """Mean Dice of every class by every network; empty where a network is for other tasks."""
    means = [result.evaluation.mean_dice() for result in results]
    classes = dict.fromkeys(pair for result in results for pair in result.evaluation.classes)
    return Table(
        "Mean Dice of each class over the test scans, by each network.",
        ("task", "class", *(label_of(result.experiment.name) for result in results)),
        [
            [
                task,
                name.replace("_", " "),
                *(
                    format_dice(of_network[f"{task}/{name}"])
                    if f"{task}/{name}" in of_network
                    else ""
                    for of_network in means
                ),
            ]
            for task, name in classes
        ],
        num_text_columns=2,
    )


def _comparison_cells(row: dict[str, Any]) -> list[str]:
    return [
        label_of(row["network"]),
        format_dice(row["single"]),
        format_dice(row["multiple"]),
        format_difference(row),
        row["verdict"],
    ]


def learning_curve_section(results: Sequence[Result]) -> list[Block]:
    """Learning curves of all networks; empty if none was evaluated while it was trained."""
    if all(len(result.curve) < 2 for result in results):
        return []
    # All networks are trained on the same records. Curves from before say nothing: test scans.
    split = results[0].curve[-1].get("split", "test")
    is_final = split == results[0].evaluation.split
    last = " The last values are in the table of classes." if is_final else ""
    return [
        Heading("Learning curves"),
        Picture(
            "learning_curves",
            learning_curves(results),
            f"Line charts, one for each class: Dice on the {split} scans against mini-batches per "
            f"task, one line for each network.{last}",
            f"Dice on the {split} scans during training, laid out as Fig. 2 of the paper. Open "
            "circles are the repeat of the first experiment with another seed.",
        ),
    ]


def dice_section(results: Sequence[Result]) -> list[Block]:
    """Dice of each test scan and network."""
    return [
        Heading("Dice of each scan"),
        Picture(
            "dice",
            dice_distributions(results),
            "Dot plots, one for each class: Dice of each test scan, one column for each network, "
            "with a bar at the median.",
            "Each mark is a test scan; the bar is the median. All panels have the same scale.",
        ),
    ]


def operating_point_section(results: Sequence[Result]) -> list[Block]:
    """Precision-recall curves and thresholds; empty if no class has an operating point."""
    figure = precision_recall_curves(results)
    if figure is None:
        return []
    points_from = results[0].evaluation.points_from
    rows = []
    for result in results:
        for task, name in result.evaluation.classes:
            threshold = result.evaluation.operating_points.get(name)
            if threshold is None:
                continue
            best, dice, dice_argmax = (
                known_values(result.evaluation, task, name, metric)
                for metric in ("operating_point", "dice", "dice_argmax")
            )
            range_of_best = f"{min(best):.2f} to {max(best):.2f}" if best else UNDEFINED
            rows.append(
                [
                    name.replace("_", " "),
                    label_of(result.experiment.name),
                    f"{threshold:.2f}",
                    range_of_best,
                    format_dice(float(np.mean(dice)) if dice else None),
                    format_dice(float(np.mean(dice_argmax)) if dice_argmax else None),
                ]
            )
    return [
        Heading("Operating points"),
        Picture(
            "precision_recall",
            figure,
            "Precision against recall over the whole test set, one line for each network, with a "
            "mark at its operating point. The table below has the thresholds.",
            "Precision and recall over all voxels of the test set. The mark is the operating "
            f"point: the threshold with the highest Dice on the {points_from} scans.",
        ),
        Table(
            f"The threshold with the highest Dice over the whole {points_from} set, the range of "
            "the best thresholds of single test scans, and mean Dice at the threshold and by "
            f"argmax. Operating points chosen on: {describe_points(points_from)}.",
            ("class", "network", "threshold", "best of single scans", "Dice", "Dice by argmax"),
            rows,
            num_text_columns=2,
        ),
    ]
