"""Puts the report together: its sections, in the order in which a reader needs them.

The text and tables of each section are in `summary`, `comparisons`, `examples`, `cross_task` and
`details`; `figures` draws. Every number comes from the files in the folder of the experiments.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mtseg.errors import InputError
from mtseg.experiments.compare import compare_networks
from mtseg.experiments.report.comparisons import (
    comparison_section,
    dice_section,
    learning_curve_section,
    operating_point_section,
)
from mtseg.experiments.report.cross_task import confusion_section, unlabelled_blocks
from mtseg.experiments.report.details import class_section, paper_section, run_section
from mtseg.experiments.report.examples import example_section, read_example
from mtseg.experiments.report.page import Block, Paragraph
from mtseg.experiments.report.summary import data_section, summary_section
from mtseg.experiments.results import Result, largest_network
from mtseg.provenance.software import describe_software
from mtseg.tasks.label_space import parse_tasks

if TYPE_CHECKING:  # it imports TensorFlow
    from mtseg.experiments.unlabelled import UnlabelledScan

TITLE = "Single-task and multi-task segmentation networks"


def make_report(
    results: Sequence[Result],
    path: Path,
    unlabelled: Sequence[UnlabelledScan] = (),
    notes: str = "",
) -> list[Block]:
    """Makes the blocks of the report, for `page.to_html` or `page.to_markdown`.

    Args:
        results: finished experiments, from `mtseg.experiments.results.read_results`.
        path: their folder.
        unlabelled: scans without labels, from `mtseg.experiments.unlabelled.segment_unlabelled`.
        notes: paragraphs to insert below the summary, separated by empty lines.

    Raises:
        InputError: if no experiment is finished, or its records or label maps are missing.
    """
    if not results:
        raise InputError(
            f"{path}: no experiment is finished. Rerun the mtseg-experiments command that made it."
        )
    largest = largest_network(results)
    comparison = compare_networks(results)
    selections = parse_tasks(largest.experiment.config.tasks).selections
    examples = [read_example(results, largest, selection) for selection in selections]
    today = datetime.date.today()
    return [
        Paragraph(f"Made on {today:%d %B %Y} by {describe_software()}."),
        *summary_section(results, largest, comparison, selections, notes),
        *data_section(selections, largest),
        *comparison_section(results, comparison),
        *learning_curve_section(results),
        *example_section(examples, largest),
        *dice_section(results),
        *operating_point_section(results),
        *confusion_section(largest, selections),
        *unlabelled_blocks(unlabelled),
        *class_section(largest),
        *paper_section(largest, selections),
        *run_section(results, path),
    ]
