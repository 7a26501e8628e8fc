"""The beginning of the report: the main results in one paragraph, and the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mtseg.evaluation.statistics import MARGIN, MIN_SCANS
from mtseg.experiments.compare import mean_dice_of_scans
from mtseg.experiments.report.cross_task import median_cross_task_percent
from mtseg.experiments.report.page import Block, Heading, Paragraph, Table
from mtseg.experiments.results import Result
from mtseg.records.prepared import prepared_dir
from mtseg.runs.workdir import read_json
from mtseg.tasks.label_space import TaskSelection
from mtseg.tasks.task_file import GENERATED


def summary_section(
    results: Sequence[Result],
    largest: Result,
    comparison: dict[str, Any],
    selections: Sequence[TaskSelection],
    notes: str,
) -> list[Block]:
    """The main results in sentences, and the notes of the user.

    Args:
        results: finished experiments.
        largest: that of the network for most tasks.
        comparison: from `mtseg.experiments.compare.compare_networks`.
        selections: the tasks of `largest`.
        notes: paragraphs separated by empty lines.
    """
    sentences = [
        _dice_sentence(results, largest, comparison, selections),
        _comparison_sentence(results, comparison),
        _cross_task_sentence(largest, selections),
    ]
    return [
        Heading("Summary"),
        Paragraph(" ".join(sentence for sentence in sentences if sentence)),
        *(Paragraph(" ".join(part.split())) for part in notes.split("\n\n") if part.strip()),
    ]


def _dice_sentence(
    results: Sequence[Result],
    largest: Result,
    comparison: dict[str, Any],
    selections: Sequence[TaskSelection],
) -> str:
    config = largest.experiment.config
    compared = {
        row["task"]: row
        for row in comparison["rows"]
        if row["class"] == "all" and row["network"] == largest.experiment.name
    }
    reached = []
    for task in (selection.task.name for selection in selections):
        row = compared.get(task, {"multiple": mean_dice_of_scans(largest, task), "single": None})
        if row["multiple"] is not None:
            single = row["single"]
            beside = "" if single is None else f" (single-task network {single:.3f})"
            reached.append(f"{task} {row['multiple']:.3f}{beside}")
    count = f"{len(results)} networks were" if len(results) > 1 else "1 network was"
    return (
        f"**{count} trained with {config.minibatches_per_task:,} mini-batches of "
        f"{config.global_batch_size} samples per task. Mean Dice on the test scans of the network "
        f"for {', '.join(largest.experiment.task_names)}: {', '.join(reached) or 'undefined'}.**"
    )


def _comparison_sentence(results: Sequence[Result], comparison: dict[str, Any]) -> str:
    multi_task = {r.experiment.name for r in results if len(r.experiment.task_names) > 1}
    rows = [
        row
        for row in comparison["rows"]
        if row["class"] == "all" and row["network"] in multi_task and row["difference"] is not None
    ]
    if not rows:
        return "There is no multi-task network yet to compare with single-task networks."
    num_within = sum(row["difference"] >= -MARGIN for row in rows)
    num_proven = sum(row["verdict"] == "not inferior" for row in rows)
    return (
        f"A multi-task network was compared with the single-task network of a task {len(rows)} "
        f"times: in {num_within} of them it loses at most {MARGIN} Dice on average, and in "
        f"{num_proven} the whole 95 % interval, on {MIN_SCANS} scans or more, lies above -{MARGIN}."
    )


def _cross_task_sentence(largest: Result, selections: Sequence[TaskSelection]) -> str:
    medians = [
        median
        for selection in selections
        if (median := median_cross_task_percent(largest.evaluation, selection.task.name))
        is not None
    ]
    if not medians:
        return ""
    return (
        "The cross-task error of that network, the share of voxels > 0 that get a class of another "
        f"task, is at most {max(medians):.4f} % for the median scan of each task."
    )


def data_section(selections: Sequence[TaskSelection], largest: Result) -> list[Block]:
    """The number of scans of each source, and the citations that the tasks ask for."""
    data_dir = largest.experiment.config.data_dir
    rows, citations = [], []
    for selection in selections:
        for source in selection.sources:
            kind = "synthetic (phantoms)" if source == GENERATED else "scans"
            counts = count_scans(data_dir, selection, source)
            rows.append([selection.task.title, source, kind, *map(str, counts)])
        citations.append(selection.task.citation.strip())
    return [
        Heading("Data"),
        Table(
            "Number of scans of each task. Results on phantoms say nothing about real scans.",
            ("task", "source", "kind", "training", "validation", "test"),
            rows,
            num_text_columns=3,
        ),
        *(Paragraph(text) for text in dict.fromkeys(citations) if text),
    ]


def count_scans(data_dir: str, selection: TaskSelection, source: str) -> tuple[int, int, int]:
    """Number of training, validation and test scans among the prepared records of a source.

    Raises:
        InputError: if the records are missing or damaged.
    """
    task = selection.task
    directory = prepared_dir(data_dir, task.name, source, "volumes", task.own_file)
    splits = read_json(directory / "dataset_info.json")["splits"]
    sizes = {split["name"]: sum(int(n) for n in split["shardLengths"]) for split in splits}
    return sizes.get("train", 0), sizes.get("validation", 0), sizes.get("test", 0)
