"""Flags of a training run, which mtseg-train and mtseg-experiments share, and what they mean."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from mtseg.training.config import (
    AUGMENTATIONS,
    BACKGROUNDS,
    CLASS_PRIORS,
    INPUTS,
    OPTIMIZERS,
    PRECISIONS,
    SCHEDULES,
    STRATEGIES,
    TrainConfig,
    configure,
)
from mtseg.training.presets import DEMO_PHANTOMS, PRESETS


def add_training_flags(
    parser: argparse.ArgumentParser, strategies: Sequence[str] = STRATEGIES
) -> None:
    """Adds the flags that decide a training run.

    Args:
        parser: of the command.
        strategies: names that `--strategy` may have.
    """
    parser.add_argument(
        "--tasks",
        default="brain,breast,cta",
        help="comma list of TASK[:SOURCE] or task files (%(default)s)",
    )
    parser.add_argument(
        "--preset",
        choices=sorted(PRESETS),
        default="paper",
        help="paper: the paper's run, days; fast: a quarter of an hour a task; demo: minutes, "
        "small phantoms (%(default)s)",
    )
    parser.add_argument(
        "--data-dir", help="prepared records; without it, phantoms are prepared where needed"
    )
    parser.add_argument("--minibatches-per-task", type=int, help="length of the run (25000)")
    parser.add_argument("--global-batch-size", type=int, help="samples in a mini-batch (210)")
    parser.add_argument("--learning-rate", type=float, help="the optimiser's (0.001)")
    parser.add_argument("--schedule", choices=SCHEDULES, help="of the learning rate (constant)")
    parser.add_argument("--warmup-minibatches", type=int, help="linear rise of the rate (0)")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, help="of the weights (adam)")
    parser.add_argument("--adam-beta-2", type=float, help="second moment's decay (0.999)")
    parser.add_argument("--dropout-rate", type=float, help="on the 192-node layers (0.5)")
    parser.add_argument("--batch-norm-momentum", type=float, help="of moving statistics (0.99)")
    parser.add_argument(
        "--class-priors", choices=CLASS_PRIORS, help="that the scores assume (drawn)"
    )
    parser.add_argument(
        "--backgrounds",
        choices=BACKGROUNDS,
        help="one score for all tasks', or each its own (shared)",
    )
    parser.add_argument(
        "--input",
        choices=INPUTS,
        help="prepared patches, or any voxel of whole scans in memory (patches)",
    )
    parser.add_argument(
        "--augment", help=f"comma list of {', '.join(AUGMENTATIONS)} (none, as in the paper)"
    )
    parser.add_argument(
        "--evaluate-every", type=int, help="mini-batches per task between evaluations (1000)"
    )
    parser.add_argument("--checkpoint-every", type=int, help="mini-batches between them (500)")
    parser.add_argument("--keep", type=int, help="checkpoints kept (2)")
    parser.add_argument(
        "--precision", choices=("auto", *PRECISIONS), help="of the convolutions (float32)"
    )
    parser.add_argument(
        "--strategy",
        choices=strategies,
        help="mirrored: all devices of this machine; multiworker: those of several (default)"
        if "multiworker" in strategies
        else "mirrored: all devices of this machine (default)",
    )
    parser.add_argument(
        "--steps-per-call", type=int, help="mini-batches that TensorFlow computes at once (1)"
    )
    parser.add_argument(
        "--deterministic",
        dest="is_deterministic",
        action="store_true",
        default=None,
        help="the same run again has the same weights to the bit",
    )
    parser.add_argument(
        "--num-threads", type=int, help="threads of an operation (TensorFlow chooses)"
    )
    parser.add_argument("--seed", type=int, help="of weights, dropout and sample order (0)")


def read_training_flags(arguments: dict[str, Any]) -> tuple[TrainConfig, bool]:
    """The configuration that the flags of `add_training_flags` ask for.

    Args:
        arguments: names and values; those of `add_training_flags` alone.

    Returns:
        The configuration, and whether phantoms may be prepared: only where no folder of records was
        named.

    Raises:
        InputError: if a value cannot be used.
    """
    from mtseg.tasks.label_space import parse_tasks

    fields = dict(arguments)
    preset, data_dir = fields.pop("preset"), fields.pop("data_dir")
    tasks = parse_tasks(fields.pop("tasks")).spec
    default_data_dir = "mtseg_data_demo" if preset == "demo" else "mtseg_data"
    return configure(preset, tasks, data_dir or default_data_dir, **fields), data_dir is None


def announce_kind(config: TrainConfig) -> None:
    """Says which scans are synthetic, and what the paper's preset means."""
    phantoms = [spec for spec in config.tasks.split(",") if spec.endswith(":phantom")]
    if phantoms:
        print(f"Synthetic scans (phantoms) are used for {', '.join(phantoms)}.")
    if config.preset == "paper":
        print(
            "This is the paper's preset: days on a processor; the estimate follows after a few "
            "mini-batches. Shorter: --preset demo (minutes) or --preset fast. "
            "Real scans: mtseg-prepare brain:miccai2012 --manual-dir FOLDER, then "
            "--tasks brain:miccai2012."
        )


def prepare_phantoms(config: TrainConfig) -> None:
    """Phantoms need no download, so a run without --data-dir makes those that are missing."""
    from mtseg.records.reading import prepared_dir
    from mtseg.records.writing import prepare
    from mtseg.tasks.label_space import parse_tasks

    settings = DEMO_PHANTOMS if config.preset == "demo" else {}
    for selection in parse_tasks(config.tasks).selections:
        for source in selection.sources:
            if source == "phantom":
                prepare(selection.task, source, config.data_dir, **settings)
            else:
                prepared_dir(config.data_dir, selection.task.name, source, "patches")
