"""Parts of the report that are tables: all figures, the paper beside ours, times and commands."""

from __future__ import annotations

import csv
import dataclasses
import io
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtseg.evaluation.statistics import bootstrap_interval
from mtseg.evaluation.surfaces import SURFACE_TOLERANCE_MM
from mtseg.evaluation.tables import describe_decision, format_median, known_values
from mtseg.experiments.plan import read_plan
from mtseg.experiments.report.figures import label_of
from mtseg.experiments.report.page import Block, Code, Heading, Paragraph, Table
from mtseg.experiments.results import Result
from mtseg.records.reading import prepared_dir, prepared_settings
from mtseg.system.hardware import format_machine
from mtseg.system.progress import format_duration
from mtseg.tasks.label_space import TaskSelection, parse_tasks
from mtseg.tasks.task_file import GENERATED
from mtseg.training import workdir as workdir_files

_PAPER_ALIEN_PERCENT = 0.0005
"""Median share of a scan's voxels with a class of another task, less than this for all three tasks
(Moeskops et al., MICCAI 2016, section 4)."""


def to_csv(results: Sequence[Result]) -> str:
    """Every figure of every network as CSV text; an undefined figure is an empty field.

    `minibatch` is empty for the figures after the last one; for earlier ones there is mean Dice
    over the scans, whose `subject` is `all`.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["network", "minibatch", "task", "class", "subject", "metric", "value"])
    for result in results:
        name = result.experiment.name
        for point in result.curve[:-1]:
            for key, value in point["dice"].items():
                task, class_name = key.split("/")
                writer.writerow(
                    [name, point["minibatch"], task, class_name, "all", "dice", _rounded(value)]
                )
        for row in result.evaluation.rows:
            writer.writerow(
                [name, "", row.task, row.class_name, row.subject, row.metric, _rounded(row.value)]
            )
    return text.getvalue()


def _rounded(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def split_sizes(directory: Path) -> list[int]:
    """How many training and test scans a folder of prepared volumes holds."""
    splits = workdir_files.read_json(directory / "dataset_info.json")["splits"]
    sizes = {s["name"]: sum(int(n) for n in s["shardLengths"]) for s in splits}
    return [sizes.get("train", 0), sizes.get("test", 0)]


def class_blocks(largest: Result) -> list[Block]:
    """All figures of one network, class by class."""
    evaluation = largest.evaluation
    rows = []
    for task, name in evaluation.classes:
        dice = known_values(evaluation, task, name, "dice")
        interval = bootstrap_interval(dice)
        shown = f"{np.mean(dice):.3f}" if dice else "absent"
        shown += " ({:.3f} to {:.3f})".format(*interval) if interval else ""
        others = [("dice", 3), ("precision", 3), ("recall", 3), ("hd95_mm", 2)]
        others += [("surface_dice", 3), ("volume_predicted_ml", 1), ("volume_reference_ml", 1)]
        cells = [format_median(evaluation, task, name, *column) for column in others]
        rows.append(
            [task, name.replace("_", " "), describe_decision(evaluation, name), shown, *cells]
        )
    return [
        Heading("Every figure of the network for all tasks"),
        Table(
            "Mean Dice with its 95 % bootstrap interval over scans, else medians over scans. "
            "HD95: 95th percentile of the Hausdorff distance. Surface Dice at a tolerance of "
            f"{SURFACE_TOLERANCE_MM:g} mm. Where a class was not found at all, precision and HD95 "
            "are not defined: it is then said of how many scans the figure is.",
            ("task", "class", "decision", "Dice", "median", "precision", "recall", "HD95 mm",
             "surface Dice", "ml", "ml, reference"),
            rows,
            num_text_columns=3,
        ),
    ]  # fmt: skip


def paper_blocks(largest: Result, selections: Sequence[TaskSelection]) -> list[Block]:
    """What the paper states beside what was done; nothing for other tasks than its three."""
    config = largest.experiment.config
    names = {s.task.name for s in selections}
    if names != {"brain", "breast", "cta"}:
        return []
    medians = [
        f"{100 * np.median(known_values(largest.evaluation, t, 'all', 'alien_share')):.5f} ({t})"
        for t in sorted(names)
    ]
    sizes = [
        split_sizes(prepared_dir(config.data_dir, s.task.name, source, "volumes"))
        for s in selections
        for source in s.sources
    ]
    return [
        Heading("Beside the paper"),
        Table(
            "What the paper states, and what it is here. It shows Dice in figures alone.",
            ("what", "paper", "here"),
            [
                ["training / test scans", "14/20, 14/20, 6/4",
                 ", ".join(f"{train}/{test}" for train, test in sizes)],
                ["mini-batches per task", "25,000 of 210",
                 f"{config.minibatches_per_task:,} of {config.global_batch_size}"],
                ["samples per task", f"{25_000 * 210:,}",
                 f"{config.minibatches_per_task * config.global_batch_size:,}"],
                ["learning rate", "Adam",
                 f"{config.optimizer.capitalize()}, {config.schedule}, highest "
                 f"{config.learning_rate:g}"],
                ["scores", "as classes are drawn", f"class priors: {config.class_priors}"],
                ["other tasks' classes, median %", f"< {_PAPER_ALIEN_PERCENT} (all)",
                 ", ".join(medians)],
            ],
            num_text_columns=3,
        ),
    ]  # fmt: skip


def run_blocks(results: Sequence[Result], path: Path) -> list[Block]:
    """How long it took, on what, and by which commands."""
    rows: list[list[str]] = []
    commands: dict[str, Any] = {}
    machines: dict[str, Any] = {}
    for result in results:
        stored = workdir_files.read_evaluation(result.workdir) or {}
        config, seconds = result.experiment.config, result.curve[-1]["training_seconds"]
        samples = result.experiment.num_minibatches * config.global_batch_size
        rows.append(
            [
                label_of(result.experiment.name),
                f"{result.experiment.num_minibatches:,}",
                f"{samples:,}",
                format_duration(seconds),
                f"{samples / seconds:.0f}",
            ]
        )
        commands[stored.get("command", "")] = None
        if "machine" in stored:
            machines[format_machine(stored["machine"])] = None
    config = max(results, key=lambda r: len(r.experiment.task_names)).experiment.config
    _, minutes = read_plan(path) or (None, None)
    prepare = "\n".join(_prepare_commands(config.tasks, config.data_dir))
    total = sum(result.curve[-1]["training_seconds"] for result in results)
    budget = f" Their budget was {minutes:g} minutes." if minutes else ""
    return [
        Heading("Times, machine and commands"),
        Table(
            f"Training took {format_duration(total)} in all, without evaluations.{budget}",
            ("network", "mini-batches", "samples", "training", "samples/s"),
            rows,
        ),
        Paragraph(f"{'; '.join(machines)}; precision {config.precision}."),
        Code("\n".join([prepare, *(command for command in commands if command)])),
        Paragraph("The configuration of the network for all tasks:"),
        Code(config.to_json().strip()),
    ]


def _prepare_commands(tasks: str, data_dir: str) -> list[str]:
    """The commands that make the records, from the settings that are kept beside them."""
    commands = []
    for selection in parse_tasks(tasks).selections:
        for source in selection.sources:
            directory = prepared_dir(
                data_dir, selection.task.name, source, "patches", selection.task.own_file
            )
            # As it was named: a task's name, or the path of its file.
            named = dataclasses.replace(selection, sources=(source,)).spec
            command = ["mtseg-prepare", named, "--data-dir", data_dir]
            if source != GENERATED:
                command += ["--manual-dir", "SCANS"]
            settings = prepared_settings(directory)
            for name in ("size", "num_train", "num_test", "patches_per_class", "seed"):
                if settings.get(name) is not None:
                    command += [f"--{name.replace('_', '-')}", str(settings[name])]
            commands.append(shlex.join(command))
    return commands
