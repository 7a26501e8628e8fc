"""mtseg-train: training and evaluation of one network."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import traceback
from pathlib import Path

from mtseg.cli.command import (
    DEFECT,
    DONE,
    Parser,
    run,
)
from mtseg.cli.training_flags import (
    add_training_flags,
    announce_kind,
    prepare_phantoms,
    read_training_flags,
)
from mtseg.runs.config import TrainConfig
from mtseg.system.devices import uses_jax


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = Parser(
        "train",
        description="Train one network for one or several segmentation tasks, and evaluate it.",
        epilog="Rerun the command to resume if it was stopped. "
        "Watch it: tensorboard --logdir WORKDIR. "
        "With KERAS_BACKEND=jax in the environment, JAX computes in place of TensorFlow.",
    )
    add_training_flags(parser)
    parser.add_argument(
        "--workdir", metavar="DIR", help="folder of the run (default: mtseg_runs/PRESET)"
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="record a few mini-batches for TensorBoard's profiler",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    argv = sys.argv[1:] if argv is None else argv
    is_one_of_several = make_parser().parse_args(argv).strategy == "multiworker"
    try:
        code = run(_train, argv)
    except Exception:
        if not is_one_of_several:
            raise
        traceback.print_exc()
        code = DEFECT
    if is_one_of_several and code != DONE:
        # After an orderly end of TensorFlow in this worker, the others would wait for it forever.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _train(argv: list[str]) -> int:
    arguments = vars(make_parser().parse_args(argv))
    is_profiling, given_workdir = arguments.pop("profile"), arguments.pop("workdir")
    config, may_prepare = read_training_flags(arguments)
    workdir = Path(given_workdir or f"mtseg_runs/{config.preset}")
    _announce(config, workdir)
    # JAX trains where the packages that prepare records may be missing.
    if may_prepare and config.strategy != "multiworker" and not uses_jax():
        prepare_phantoms(config)

    from mtseg.evaluation.tables import describe_scans, dice_table
    from mtseg.training.loop import train_and_evaluate

    evaluation = train_and_evaluate(
        config, workdir, shlex.join(["mtseg-train", *argv]), is_profiling=is_profiling
    )
    if evaluation is None:
        return DONE
    kind = "were" if evaluation.split == "train" else "were not"
    print(f"\nDice on scans that {kind} trained on:\n\n{dice_table(evaluation)}\n")
    print(describe_scans(evaluation))
    print(f"Curves and pictures:  tensorboard --logdir {workdir}")
    print(f"Segment a scan:       mtseg predict SCAN.nii.gz --model {workdir}")
    print(f"To pass it on:        mtseg export {workdir} mtseg_model")
    return DONE


def _announce(config: TrainConfig, workdir: Path) -> None:
    specs = config.tasks.split(",")
    total = config.minibatches_per_task * len(specs)
    print(
        f"Preset {config.preset}: {', '.join(specs)}; {total} mini-batches of "
        f"{config.global_batch_size}, {config.precision}; records in {config.data_dir}, "
        f"results in {workdir}."
    )
    announce_kind(config)
