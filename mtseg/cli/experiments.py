"""mtseg-experiments: single-task and multi-task networks, and their comparison."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from pathlib import Path
from typing import Any

from mtseg.cli.command import (
    DONE,
    Parser,
    add_part_flags,
    number,
    run,
)
from mtseg.cli.training_flags import (
    add_training_flags,
    announce_kind,
    prepare_phantoms,
    read_training_flags,
)
from mtseg.errors import InputError
from mtseg.runs.config import TrainConfig
from mtseg.system.atomic_files import writing_to
from mtseg.system.devices import uses_jax


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = Parser(
        "experiments",
        description="Train single-task and multi-task networks: one for each set of tasks, and "
        "the first once more with another seed. Evaluate and compare them. With three tasks these "
        "are the paper's seven experiments and the repeat.",
        epilog="Rerun the command to resume if it was stopped. Then: mtseg-report OUT",
    )
    parser.add_argument(
        "--out",
        default="mtseg_experiments",
        metavar="DIR",
        help="folder of the experiments, with a folder for each run (default: %(default)s)",
    )
    parser.add_argument(
        "--minutes",
        type=number,
        metavar="X",
        help="time for all experiments and evaluations, in place of --minibatches-per-task; "
        "measures the speed of this machine first",
    )
    add_part_flags(parser.add_argument_group("for several jobs that share the experiments"))
    add_training_flags(parser, without_strategies=("multiworker",))
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    return run(_experiments, argv)


def _experiments(argv: list[str]) -> int:
    arguments = vars(make_parser().parse_args(argv))
    out, minutes = Path(arguments.pop("out")), arguments.pop("minutes")
    num_parts, part_id = arguments.pop("num_parts"), arguments.pop("part_id")
    if minutes is not None:
        _check_budget(minutes, num_parts, arguments)
    if uses_jax():
        raise InputError(
            "KERAS_BACKEND=jax: is for mtseg-train. Experiments evaluate their networks, which "
            "TensorFlow computes: leave it unset."
        )
    config, may_prepare = read_training_flags(arguments)
    from mtseg.scans.discovery import take_part

    take_part((), num_parts, part_id)  # refuses a number that is none before TensorFlow is loaded
    if may_prepare:
        prepare_phantoms(config)
    from mtseg.experiments.compare import comparison_table
    from mtseg.experiments.plan import COMPARISON, plan_experiments
    from mtseg.experiments.run import run_experiments
    from mtseg.runs.workdir import read_json

    if minutes is not None:
        config = _fit_minutes(config, out, minutes)
    experiments = plan_experiments(config)
    own = take_part(experiments, num_parts, part_id)
    print(
        f"{len(experiments)} experiments, {config.minibatches_per_task} mini-batches of "
        f"{config.global_batch_size} per task, {config.precision}: "
        f"{', '.join(e.name for e in experiments)}; results in {out}.",
        flush=True,
    )
    if num_parts > 1:
        print(f"Of these, this job has: {', '.join(e.name for e in own) or 'none'}.", flush=True)
    announce_kind(config)
    command = shlex.join(["mtseg-experiments", *argv])
    results = run_experiments(config, out, command, num_parts=num_parts, part_id=part_id)
    if results is None:
        return DONE
    if len(results) < len(experiments):
        print(
            f"{len(results)} of {len(experiments)} experiments are finished; the others are those "
            "of other jobs. The job that ends last compares them."
        )
        return DONE
    print(f"\n{comparison_table(read_json(out / COMPARISON))}\n")
    print(f"Report:  mtseg-report {out}")
    return DONE


def _check_budget(minutes: float, num_parts: int, arguments: dict[str, Any]) -> None:
    if num_parts > 1:
        raise InputError(
            "--minutes: is the time of one machine for all experiments. With --num-parts, give "
            "--minibatches-per-task."
        )
    if not 0 < minutes < float("inf"):
        raise InputError(f"--minutes: {minutes} is not a length of time. Give a number above 0.")
    for name in ("minibatches_per_task", "evaluate_every"):
        if arguments[name] is not None:
            raise InputError(
                f"--{name.replace('_', '-')}: follows from --minutes. Leave one of the two out."
            )


def _fit_minutes(config: TrainConfig, out: Path, minutes: float) -> TrainConfig:
    """The configuration that the minutes allow: measured once, then kept in the plan."""
    from mtseg.experiments.budget import fit_budget, measure_costs
    from mtseg.experiments.plan import WRITE_REMEDY, read_plan, write_plan

    stored = read_plan(out)
    if stored is not None and stored[1] == minutes:
        fitted, _ = stored
        return dataclasses.replace(
            config,
            minibatches_per_task=fitted.minibatches_per_task,
            evaluate_every=fitted.evaluate_every,
        )
    with writing_to(out, WRITE_REMEDY):
        out.mkdir(parents=True, exist_ok=True)
    print("Measuring how fast this machine is …", flush=True)
    config = fit_budget(config, minutes, measure_costs(config))
    write_plan(out, config, minutes)
    return config
