"""The end of the report: every result by class, the paper's settings, run times and commands."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mtseg.evaluation.statistics import mean_interval
from mtseg.evaluation.surfaces import SURFACE_TOLERANCE_MM
from mtseg.evaluation.tables import describe_decision, format_median, known_values
from mtseg.experiments.plan import label_of, read_plan
from mtseg.experiments.report.cross_task import median_cross_task_percent
from mtseg.experiments.report.page import Block, Code, Heading, Paragraph, Table
from mtseg.experiments.report.summary import count_scans
from mtseg.experiments.results import Result, largest_network
from mtseg.provenance.fingerprint import read_fingerprint
from mtseg.records.prepared import prepared_dir, prepared_settings, records_dir
from mtseg.runs.workdir import read_evaluation
from mtseg.system.hardware import format_machine
from mtseg.system.progress import format_duration
from mtseg.tasks.label_space import TaskSelection, parse_tasks
from mtseg.tasks.task_file import GENERATED

_PAPER_CROSS_TASK_PERCENT = 0.0005
"""Median cross-task error of each of the paper's three tasks is below this (Moeskops et al., MICCAI
2016, section 4)."""

_PAPER_MINIBATCHES, _PAPER_BATCH_SIZE = 25_000, 210
"""Mini-batches per task, and their size (section 3.2)."""


def class_section(largest: Result) -> list[Block]:
    """Every result of the network for all tasks, a row per class."""
    evaluation = largest.evaluation
    columns = (
        ("dice", 3),
        ("precision", 3),
        ("recall", 3),
        ("hd95_mm", 2),
        ("surface_dice", 3),
        ("volume_predicted_ml", 1),
        ("volume_reference_ml", 1),
    )
    rows = []
    for task, name in evaluation.classes:
        dice = known_values(evaluation, task, name, "dice")
        interval = mean_interval(dice, limits=(0, 1))
        mean = f"{np.mean(dice):.3f}" if dice else "absent"
        if interval:
            mean += " ({:.3f} to {:.3f})".format(*interval)
        medians = [format_median(evaluation, task, name, *column) for column in columns]
        decision = describe_decision(evaluation, name)
        rows.append([task, name.replace("_", " "), decision, mean, *medians])
    return [
        Heading("All results of the network for all tasks"),
        Table(
            "Mean Dice with its 95 % t interval over scans, each of which counts as one, whoever "
            "it is of; the other values are medians over scans. HD95: 95th percentile of the "
            "Hausdorff distance. Surface Dice: tolerance "
            f"{SURFACE_TOLERANCE_MM:g} mm. In a scan where a class was not found at all, precision "
            "and HD95 are undefined; the table then says for how many scans they are defined.",
            ("task", "class", "decision", "mean Dice", "Dice", "precision", "recall", "HD95, mm",
             "surface Dice", "volume, ml", "reference volume, ml"),
            rows,
            num_text_columns=3,
        ),
    ]  # fmt: skip


def paper_section(largest: Result, selections: Sequence[TaskSelection]) -> list[Block]:
    """The paper's settings and results beside these; empty for other tasks than its three."""
    config = largest.experiment.config
    names = {selection.task.name for selection in selections}
    if names != {"brain", "breast", "cta"}:
        return []
    medians = {name: median_cross_task_percent(largest.evaluation, name) for name in sorted(names)}
    sizes = {
        selection.task.name: np.sum(
            [count_scans(config.data_dir, selection, source) for source in selection.sources],
            axis=0,
        )
        for selection in selections
    }
    return [
        Heading("Comparison with the paper"),
        Table(
            "Settings and results of the paper and of these experiments. The paper shows Dice in "
            "figures only.",
            ("", "paper", "this report"),
            [
                ["training / test scans (brain, breast, cta)", "14/20, 14/20, 6/4",
                 ", ".join(f"{sizes[name][0]}/{sizes[name][2]}" for name in sorted(names))],
                ["mini-batches per task", f"{_PAPER_MINIBATCHES:,} of {_PAPER_BATCH_SIZE}",
                 f"{config.minibatches_per_task:,} of {config.global_batch_size}"],
                ["samples per task", f"{_PAPER_MINIBATCHES * _PAPER_BATCH_SIZE:,}",
                 f"{config.minibatches_per_task * config.global_batch_size:,}"],
                ["optimiser", "Adam",
                 f"{config.optimizer.capitalize()}, {config.schedule} learning rate, highest "
                 f"{config.learning_rate:g}"],
                ["class priors", "as drawn", config.class_priors],
                ["median cross-task error, %", f"< {_PAPER_CROSS_TASK_PERCENT} (all tasks)",
                 ", ".join(f"{median:.5f} ({name})" for name, median in medians.items()
                           if median is not None)],
            ],
            num_text_columns=3,
        ),
    ]  # fmt: skip


def run_section(results: Sequence[Result], path: Path) -> list[Block]:
    """Training times, the machine, the commands, and the configuration."""
    rows: list[list[str]] = []
    commands: list[str] = []
    machines: list[str] = []
    for result in results:
        stored = read_evaluation(result.workdir) or {}
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
        commands.append(stored.get("command", ""))
        if "machine" in stored:
            machines.append(format_machine(stored["machine"]))
        if "software" in stored:  # not in runs of earlier versions
            machines.append(stored["software"])
    config = largest_network(results).experiment.config
    _, minutes = read_plan(path) or (None, None)
    total = sum(result.curve[-1]["training_seconds"] for result in results)
    budget = f" The budget was {minutes:g} minutes." if minutes else ""
    prepare = _prepare_commands(config.tasks, config.data_dir)
    return [
        Heading("Run times, machine and commands"),
        Table(
            f"Training took {format_duration(total)} in all, without evaluations.{budget}",
            ("network", "mini-batches", "samples", "training", "samples/s"),
            rows,
        ),
        Paragraph("; ".join([*dict.fromkeys(machines), f"trained in {config.precision}."])),
        Code("\n".join([*prepare, *(line for line in dict.fromkeys(commands) if line)])),
        Paragraph("Configuration of the network for all tasks:"),
        Code(config.to_json().strip()),
    ]


def _prepare_commands(tasks: str, data_dir: str) -> list[str]:
    """The commands that make the records, from the settings that are stored with them."""
    commands = []
    for selection in parse_tasks(tasks).selections:
        for source in selection.sources:
            task = selection.task
            folder = prepared_dir(data_dir, task.name, source, "volumes", task.own_file)
            settings, made_of = prepared_settings(folder), read_fingerprint(folder)
            patches = records_dir(data_dir, task.name, source, "patches")
            has_patches = (patches / "dataset_info.json").is_file()
            if has_patches:
                settings |= prepared_settings(patches)
                made_of = read_fingerprint(patches)
            # A task that comes with mtseg is given by name, another by the path of its file.
            spec = dataclasses.replace(selection, sources=(source,)).spec
            command = ["mtseg-prepare", spec, "--data-dir", data_dir]
            if source != GENERATED:
                command += ["--manual-dir", "SCANS"]
            if has_patches:
                command += ["--kinds", "patches,volumes"]
            if made_of is not None:
                entities = made_of.source["filter"] or {}
                filters = [f"{entity}={value}" for entity, value in entities.items()]
                command += ["--bids-filter", ",".join(filters)] if filters else []
                settings["num_shards"] = made_of.settings.get("num_shards")
            names = ["size", "num_train", "num_test", "patches_per_class", "num_shards", "seed"]
            for name in (*names, "validation_share", "fold", "split_seed"):
                if settings.get(name) is not None:
                    command += [f"--{name.replace('_', '-')}", str(settings[name])]
            commands.append(shlex.join(command))
    return commands
