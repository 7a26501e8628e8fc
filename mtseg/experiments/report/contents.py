"""The contents of the report: which headings, tables, figures and sentences, in which order.

Every figure and sentence follows from the files in the folder of the experiments.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtseg.errors import InputError
from mtseg.evaluation.statistics import MARGIN
from mtseg.evaluation.tables import known_values
from mtseg.experiments.compare import compare_networks, format_difference
from mtseg.experiments.report.facts import class_blocks, paper_blocks, run_blocks, split_sizes
from mtseg.experiments.report.figures import (
    confusion_matrix,
    confusion_rows,
    dice_distributions,
    label_of,
    learning_curves,
    precision_recall_curves,
    segmentations,
)
from mtseg.experiments.report.page import Block, Heading, Interactive, Paragraph, Picture, Table
from mtseg.experiments.report.slice_viewer import plotly_script, slice_viewer
from mtseg.experiments.results import Result
from mtseg.records.reading import prepared_dir, read_selection
from mtseg.tasks.label_space import TaskSelection, parse_tasks
from mtseg.tasks.task import IGNORED
from mtseg.tasks.task_file import GENERATED
from mtseg.training import workdir as workdir_files

TITLE = "One network for several tasks, and a network for each"


@dataclasses.dataclass(frozen=True)
class Example:
    """A test scan of a task and what networks make of it, in the classes of the largest network."""

    selection: TaskSelection
    subject: str
    image: np.ndarray
    reference: np.ndarray
    predicted: list[tuple[str, np.ndarray]]


def make_report(
    results: Sequence[Result],
    path: Path,
    unlabelled: Sequence[dict[str, Any]] = (),
    notes: str = "",
) -> list[Block]:
    """Puts a report together.

    Args:
        results: finished experiments, from `mtseg.experiments.results.read_results`.
        path: their folder.
        unlabelled: figures of scans without labels, from
            `mtseg.experiments.unlabelled.segment_unlabelled`.
        notes: paragraphs to be set below the summary, divided by empty lines.

    Raises:
        InputError: if no experiment is finished, or its records or label maps are not there.
    """
    if not results:
        raise InputError(f"{path}: no experiment is finished. Run: mtseg-experiments --out {path}")
    largest = max(results, key=lambda r: len(r.experiment.task_names))
    comparison = compare_networks(results)
    selections = parse_tasks(largest.experiment.config.tasks).selections
    examples = [_example(results, largest, selection) for selection in selections]
    return [
        Heading("Summary"),
        Paragraph(_summary(results, largest, comparison, selections)),
        *(Paragraph(" ".join(part.split())) for part in notes.split("\n\n") if part.strip()),
        *_data_blocks(selections, largest),
        *_comparison_blocks(comparison),
        Heading("Learning curves"),
        Picture(
            "learning_curves",
            learning_curves(results),
            "Line charts, one for each class: Dice on the test scans against mini-batches per "
            "task, one line for each network. The last values are in the table of classes.",
            "Dice on the test scans while the networks learn, laid out as Fig. 2 of the paper. "
            "The dashed line is the first experiment repeated.",
        ),
        Heading("Example segmentations"),
        Picture(
            "segmentations",
            _segmentation_figure(examples, largest),
            "Pictures of one axial slice of a test scan of each task: the scan, its reference, and "
            "the labels that each network gives it.",
            "The first test scan of each task, laid out as Fig. 3 of the paper.",
        ),
        *_viewer_blocks(examples),
        Heading("Dice of every scan"),
        Picture(
            "dice",
            dice_distributions(results),
            "Dot plots, one for each class: Dice of every test scan, one column for each network, "
            "with a bar at the median.",
            "Each mark is a test scan.",
        ),
        *_operating_point_blocks(results),
        *_confusion_blocks(largest, selections, unlabelled),
        *class_blocks(largest),
        *paper_blocks(largest, selections),
        *run_blocks(results, path),
    ]


def _summary(
    results: Sequence[Result],
    largest: Result,
    comparison: dict[str, Any],
    selections: Sequence[TaskSelection],
) -> str:
    config = largest.experiment.config
    rows = [r for r in comparison["rows"] if r["class"] == "all"]
    alone = {r["task"]: r["single"] for r in rows if r["network"] == largest.experiment.name}
    means = {
        s.task.name: [
            mean
            for name, mean in largest.evaluation.mean_dice().items()
            if mean is not None and name.split("/")[0] == s.task.name
        ]
        for s in selections
    }
    reached = ", ".join(
        f"{task} {np.mean(of_classes):.3f}"
        + (f" (alone {alone[task]:.3f})" if alone.get(task) is not None else "")
        for task, of_classes in means.items()
        if of_classes
    )
    several = [r for r in rows if "+" in r["network"] and r["difference"] is not None]
    within = [r for r in several if r["difference"] >= -MARGIN]
    proven = [r for r in several if r["verdict"] == "not inferior"]
    worst = max(
        float(np.median(known_values(largest.evaluation, s.task.name, "all", "alien_share")))
        for s in selections
    )
    first = (
        f"**{len(results)} networks were trained with {config.minibatches_per_task:,} "
        f"mini-batches of {config.global_batch_size} per task; the one for "
        f"{', '.join(means)} reaches a mean Dice of {reached or 'no defined value'} on the test "
        "scans.**"
    )
    second = "There is no network for several tasks to compare with one for a task alone."
    if several:
        second = (
            f"Of {len(several)} comparisons of a network for several tasks with the one for a task "
            f"alone, {len(within)} lose no more than {MARGIN} Dice on average, and in "
            f"{len(proven)} the whole 95 % interval says so."
        )
    third = (
        f"At most {100 * worst:.4f} % of the voxels of the median scan of a task get a class of "
        "another task from that network."
    )
    return f"{first} {second} {third}"


def _data_blocks(selections: Sequence[TaskSelection], largest: Result) -> list[Block]:
    data_dir = largest.experiment.config.data_dir
    rows, citations = [], []
    for selection in selections:
        for source in selection.sources:
            directory = prepared_dir(data_dir, selection.task.name, source, "volumes")
            counts = split_sizes(directory)
            kind = "synthetic (phantoms)" if source == GENERATED else "scans"
            rows.append([selection.task.title, source, kind, *map(str, counts)])
        citations.append(selection.task.citation.strip())
    return [
        Heading("Data"),
        Table(
            "Scans by task. What is measured on phantoms says nothing about real scans.",
            ("task", "source", "kind", "training", "test"),
            rows,
            num_text_columns=3,
        ),
        *(Paragraph(text) for text in dict.fromkeys(citations) if text),
    ]


def _comparison_blocks(comparison: dict[str, Any]) -> list[Block]:
    def rows(of_all: bool) -> list[list[str]]:
        return [
            [
                r["task"],
                *([] if of_all else [r["class"].replace("_", " ")]),
                label_of(r["network"]),
                _figure(r["single"]),
                _figure(r["multiple"]),
                format_difference(r),
                r["verdict"],
            ]
            for r in comparison["rows"]
            if (r["class"] == "all") == of_all
        ]

    return [
        Heading("Alone and in company"),
        Paragraph(
            "Every network is compared with the one that was trained for the task alone, paired "
            "over the test scans: the difference of Dice, and the 95 % percentile bootstrap "
            "interval of its mean. **Not inferior** means that the whole interval is above "
            f"-{MARGIN}, inferior that it is below, undecided all else. The repeat of the first "
            "experiment, with other random numbers, shows what chance alone makes. With few scans "
            "such an interval is narrower than it should be."
        ),
        Table(
            "Mean over the classes of a task.",
            ("task", "network", "alone", "here", "difference (95 % interval)", "verdict"),
            rows(True),
            num_text_columns=2,
        ),
        Table(
            "Every class.",
            ("task", "class", "network", "alone", "here", "difference (95 % interval)", "verdict"),
            rows(False),
            num_text_columns=3,
        ),
    ]


def _example(results: Sequence[Result], largest: Result, selection: TaskSelection) -> Example:
    """The first test scan of a task, with the labels of every network for the task."""
    task = selection.task.name
    data_dir = largest.experiment.config.data_dir
    subject = next(read_selection(data_dir, selection, "test"))
    lookup = np.zeros(256, np.uint8)
    to_combined = largest.label_space.to_combined(task)
    lookup[: len(to_combined)] = to_combined
    lookup[IGNORED] = 0
    names = largest.label_space.class_names
    predicted = []
    for result in results:
        # While experiments are missing, the largest may lack classes that another has.
        is_shown = set(result.experiment.task_names) <= set(largest.experiment.task_names)
        if is_shown and task in result.experiment.task_names and not result.experiment.is_repeat:
            labels = workdir_files.read_labels(result.workdir, task, subject.name)
            to_largest = np.array(
                [names.index(n) for n in result.label_space.class_names], np.uint8
            )
            predicted.append((result.experiment.name, to_largest[labels]))
    return Example(
        selection, subject.name, subject.image, lookup[subject.class_index_map], predicted
    )


def _segmentation_figure(examples: Sequence[Example], largest: Result) -> Any:
    shown = []
    for example in examples:
        k = int(np.count_nonzero(example.reference, axis=(0, 1)).argmax())
        layers = [("reference", example.reference[..., k])]
        layers += [(name, labels[..., k]) for name, labels in example.predicted]
        shown.append((example.selection.task.name, example.image[..., k], layers))
    return segmentations(shown, largest.label_space.class_names)


def _viewer_blocks(examples: Sequence[Example]) -> list[Block]:
    content = [plotly_script()]
    for example in examples:
        name = example.selection.task.name
        network, labels = example.predicted[-1]
        content.append(
            f"<h3>{name}, test scan {html.escape(example.subject)}</h3><p>Scan, reference, and "
            f"the network {label_of(network)}. Scroll, drag the slider, or use the arrow keys.</p>"
        )
        content.append(slice_viewer(name, example.image, example.reference, labels))
    return [Interactive("\n".join(content))]


def _operating_point_blocks(results: Sequence[Result]) -> list[Block]:
    figure = precision_recall_curves(results)
    if figure is None:
        return []
    rows = []
    for result in results:
        for task, name in result.evaluation.classes:
            point = result.evaluation.operating_points.get(name)
            if point is None:
                continue
            own = known_values(result.evaluation, task, name, "operating_point")
            dice = known_values(result.evaluation, task, name, "dice")
            argmax = known_values(result.evaluation, task, name, "dice_argmax")
            rows.append(
                [
                    name.replace("_", " "),
                    label_of(result.experiment.name),
                    f"{point:.2f}",
                    f"{min(own):.2f} to {max(own):.2f}",
                    f"{np.mean(dice):.3f}",
                    f"{np.mean(argmax):.3f}",
                ]
            )
    return [
        Heading("Operating points"),
        Picture(
            "precision_recall",
            figure,
            "Precision against recall over the whole test set, one line for each network, with a "
            "mark at its operating point. The table below has the thresholds.",
            "Over all voxels of the test set. The mark is the threshold with the highest Dice.",
        ),
        Table(
            "The threshold with the highest Dice over the whole test set, which threshold would be "
            "best for single scans, and mean Dice at that threshold and by argmax.",
            ("class", "network", "threshold", "scans' own", "Dice", "Dice, activation"),
            rows,
            num_text_columns=2,
        ),
    ]


def _confusion_blocks(
    largest: Result, selections: Sequence[TaskSelection], unlabelled: Sequence[dict[str, Any]]
) -> list[Block]:
    names = [name.replace("_", " ") for name in largest.label_space.class_names]
    blocks: list[Block] = [
        Heading("Confusion between tasks"),
        Picture(
            "confusion",
            confusion_matrix(largest),
            "A matrix: for the scans of each task, the percentage of voxels that get each class. "
            "The table below has the same figures.",
            f"The network {label_of(largest.experiment.name)} on the test scans of each task.",
        ),
        Table("The same in figures, percent.", ("scans of", *names), confusion_rows(largest)),
    ]
    rows = []
    for selection in selections:
        shares = known_values(largest.evaluation, selection.task.name, "all", "alien_share")
        if not shares:
            continue
        shares = [100 * share for share in shares]
        median, highest = f"{np.median(shares):.5f}", f"{max(shares):.5f}"
        rows.append([selection.task.name, str(len(shares)), median, highest])
    blocks.append(
        Table(
            "Percent of a scan's voxels > 0 with a class of another task.",
            ("scans of", "scans", "median", "highest"),
            rows,
        )
    )
    if unlabelled:
        blocks += [
            Paragraph(
                "Scans that nobody has labelled: nothing says whether the network's labels are "
                "right, but a class of another task than the scan's is wrong."
            ),
            Table(
                "Scans without labels, by the same network, at the voxel size that mtseg-predict "
                "takes. Own classes: those of the scan's task.",
                ("scan", "task", "taken for", "voxels > 0", "other tasks' classes, %",
                 "own classes, %", "mean confidence"),
                [
                    [
                        row["scan"],
                        row["task"],
                        row["taken_for"] or "none",
                        f"{row['num_voxels']:,}",
                        f"{100 * row['alien_share']:.4f}",
                        f"{100 * row['own_share']:.2f}",
                        f"{row['mean_confidence']:.3f}",
                    ]
                    for row in unlabelled
                ],
                num_text_columns=3,
            ),
        ]  # fmt: skip
    return blocks


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
