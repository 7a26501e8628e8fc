"""Compares mtseg with nnU-Net after the same minutes of training on the same processor.

    python -m venv nnunet && nnunet/bin/pip install nnunetv2
    python benchmarks/against_nnunet.py --nnunet-python nnunet/bin/python

Both train on the same scans for 5, 15, 30 and 60 minutes. Each length is a run of its own, with its
whole schedule. Both are scored on the same test scans, on the scans' own grids, by mean Dice. A few
steps of each are timed first, in turns, and the number of steps follows from them and the minutes:
while they are timed, nothing else may run on the machine. The runs themselves are then the same
whatever else it does; the table has the minutes at the measured rate and those that they took.
mtseg trains with `--preset fast`, nnU-Net with its own plan (3d_fullres) and recipe.

Without TASK it takes the hippocampus and the brain from the folder that `MTSEG_REAL_DATA` names.
A TASK is as for mtseg-train, with the folder of its scans: `brain:miccai2012=SCANS`. Rerun the
command to resume: finished runs are read, so `kill -9` costs one run at most. Each data set takes
twice the sum of the minutes, and the time for predictions: nnU-Net's of a brain are slow, above all
mirrored ones (`--predictions plain` leaves these out).
Smallest form: `--minutes 1`. `pip install 'mtseg[report]'` installs the library that draws.

    TASK_Mmin_dice_over_nnunet   mean Dice after M minutes, over the better of nnU-Net's predictions
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from comparison import finish, make_parser, require_modules, run_benchmark
from equal_minutes import (
    PREDICTIONS,
    Data,
    OurSide,
    Result,
    TheirSide,
    find_data,
    measure_rates,
    run_length,
)
from nnunet_runs import NUM_WORKERS, NnUnet

from mtseg.errors import InputError
from mtseg.runs.presets import PRESETS
from mtseg.system.atomic_files import parse_json, write_json
from mtseg.system.hardware import has_bfloat16_instructions, num_cores
from mtseg.system.text_table import format_table
from mtseg.tasks.task import Task

OURS, THEIRS = OurSide.name, TheirSide.name


def find_overtaking(
    minutes: Sequence[float], ours: Sequence[float], theirs: Sequence[float]
) -> float | None:
    """The minute from which nnU-Net is ahead to the end; None if it is not ahead at the end.

    Between two lengths it is interpolated along straight lines.

    Args:
        minutes: lengths, ascending.
        ours: mean Dice of mtseg at each.
        theirs: mean Dice of nnU-Net at each.

    Example:
        >>> find_overtaking([5, 15, 25], [0.8, 0.8, 0.8], [0.5, 0.7, 0.9])
        20.0
    """
    ahead = [b - a for a, b in zip(ours, theirs, strict=True)]
    behind = [number for number, value in enumerate(ahead) if value <= 0]
    if not behind:
        return minutes[0]
    last = behind[-1]
    if last == len(ahead) - 1:
        return None
    share = -ahead[last] / (ahead[last + 1] - ahead[last])
    return minutes[last] + share * (minutes[last + 1] - minutes[last])


def describe_overtaking(
    task: str, minutes: Sequence[float], ours: Sequence[float], theirs: Sequence[float]
) -> str:
    """Says in a line when nnU-Net overtakes."""
    minute = find_overtaking(minutes, ours, theirs)
    if minute is None:
        return f"{task}: nnU-Net does not overtake within {minutes[-1]:g} minutes."
    if minute == minutes[0]:
        return f"{task}: nnU-Net is ahead at the shortest length, {minutes[0]:g} min, and after it."
    shorter, longer = _around(minute, minutes)
    return (
        f"{task}: nnU-Net overtakes between {shorter:g} and {longer:g} minutes; on a straight line "
        f"between them, at {minute:.0f}."
    )


def _around(minute: float, minutes: Sequence[float]) -> tuple[float, float]:
    """The lengths before and after a minute."""
    return max(m for m in minutes if m <= minute), min(m for m in minutes if m > minute)


def table(results: Mapping[float, Mapping[str, Result]], predictions: Sequence[str]) -> str:
    """A table of one data set: a row for each length."""
    rows = []
    for minutes, both in results.items():
        ours, theirs = both[OURS], both[THEIRS]
        rows.append(
            [
                f"{minutes:g}",
                *(f"{ours.steps}", f"{ours.took:.1f}", f"{ours.mean('plain'):.3f}"),
                *(f"{theirs.steps}", f"{theirs.took:.1f}"),
                *(f"{theirs.mean(name):.3f}" for name in predictions),
                f"{ours.best() - theirs.best():+.3f}",
            ]
        )
    header = (
        "minutes", "mini-batches", "took", "Dice", "iterations", "took",
        *(f"Dice {name}" for name in predictions), "difference",
    )  # fmt: skip
    return format_table(header, rows)


def class_table(task: Task, results: Mapping[float, Mapping[str, Result]]) -> str:
    """A table of the classes of one data set: a row for each class and who predicted it."""
    rows = [
        [name, f"{side} {prediction}" if side == THEIRS else side,
         *(_shown(both[side].dice[prediction][name]) for both in results.values())]
        for name in task.class_names[1:]
        for side in (OURS, THEIRS)
        for prediction in next(iter(results.values()))[side].dice
    ]  # fmt: skip
    header = ("class", "by", *(f"{minutes:g} min" for minutes in results))
    return format_table(header, rows, left=("class", "by"))


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def draw(of_tasks: Mapping[str, Mapping[float, Mapping[str, Result]]], out: Path) -> None:
    """Draws mean Dice against the minutes of each run, at the rates that were measured."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(of_tasks), 4), layout="constrained")
    axes = figure.subplots(1, len(of_tasks), squeeze=False)[0]
    for place, (task, results) in zip(axes, of_tasks.items(), strict=True):
        first = next(iter(results.values()))
        for side, label, line in ((OURS, "mtseg", "-"), (THEIRS, "nnU-Net", "--")):
            minutes = [both[side].minutes for both in results.values()]
            for number, prediction in enumerate(first[side].dice):
                means = [both[side].mean(prediction) for both in results.values()]
                name = f"{label}, {prediction}" if side == THEIRS else label
                shown = ":" if number else line
                place.plot(minutes, means, shown, marker="o", markersize=3, label=name)
        place.set(title=task, xscale="log", xlabel="minutes of training", xticks=list(results))
        place.set_xticks([], minor=True)
        place.set_xticklabels([f"{minutes:g}" for minutes in results])
        place.grid(alpha=0.2)
    axes[0].set_ylabel("mean Dice on the test scans")
    axes[-1].legend()
    figure.savefig(out, dpi=150)


def describe_conditions(data: Data, nnunet: NnUnet, preset: str) -> str:
    """What is equal and what is not, before anything runs."""
    is_16_bit = PRESETS[preset].get("precision") == "auto" and has_bfloat16_instructions()
    workers = os.environ.get(NUM_WORKERS) or min(12, os.cpu_count() or 1)
    return "\n".join(
        (
            f"{data.task.name}: {len(data.train)} training and {len(data.test)} test scans.",
            f"  Equal: the scans, the processor and its {num_cores()} cores, the minutes from the "
            "first mini-batch to the last, no validation on the way, Dice on the scans' own grids.",
            f"  Not equal: mtseg computes in {'bfloat16' if is_16_bit else 'float32'} "
            f"(--preset {preset}), nnU-Net in {nnunet.precision}, with {workers} processes more "
            "for augmentation on the same cores. mtseg's minutes hold the compiling of its step. A "
            "mini-batch and an iteration are different amounts of work.",
            "  Not counted: preparation, planning and preprocessing, loading, evaluation.",
            f"  {nnunet.describe()}.",
        )
    )


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuses a folder with runs of other settings, whose results would be read."""
    path = folder / "settings.json"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, settings)
        return
    stored = parse_json(path.read_text())
    changed = [name for name, value in settings.items() if stored.get(name) != value]
    if changed:
        raise InputError(
            f"{path}: holds runs with another {', '.join(changed)}. Give another --workdir."
        )


def compare(
    given: str, arguments: argparse.Namespace
) -> tuple[Data, dict[float, dict[str, Result]]]:
    """All runs of one data set: their results by minutes and side."""
    data = find_data(given)
    folder = Path(arguments.workdir) / data.task.name
    nnunet = NnUnet(
        arguments.nnunet_python, folder / "nnunet_data", data.task.name, arguments.nnunet_precision
    )
    check_settings(
        folder,
        {
            "spec": data.label_space.spec, "folder": str(data.folder.resolve()),
            "train": [s.name for s in data.train], "test": [s.name for s in data.test],
            "preset": arguments.preset,
            "nnunet_precision": arguments.nnunet_precision,
        },
    )  # fmt: skip
    sides = (
        OurSide(data, arguments.preset, folder),
        TheirSide(data, nnunet, arguments.timing_seconds, arguments.predictions),
    )
    for side in sides:
        side.prepare()
    rates = measure_rates(sides, folder, arguments.timing_rounds)
    print(describe_conditions(data, nnunet, arguments.preset), flush=True)
    for name, rate in rates.items():
        print(f"  {name}: {1 / rate.step_seconds:.3g} steps a second.", flush=True)
    results: dict[float, dict[str, Result]] = {}
    for minutes in sorted(arguments.minutes):
        results[minutes] = {}
        for side in sides:
            result = run_length(side, folder / side.name, rates[side.name], minutes)
            results[minutes][side.name] = result
            means = ", ".join(f"{name} {result.mean(name):.3f}" for name in result.dice)
            print(
                f"{data.task.name}, {minutes:g} min, {side.name}: {result.steps} steps in "
                f"{result.took:.1f} min, mean Dice {means}",
                flush=True,
            )
    return data, results


def main() -> None:
    """Runs the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="TASK:SOURCE=FOLDER of its scans")
    parser.add_argument("--nnunet-python", default=sys.executable, help="interpreter with nnU-Net")
    parser.add_argument(
        "--minutes", type=float, nargs="+", default=[5, 15, 30, 60], help="(%(default)s)"
    )
    parser.add_argument(
        "--preset", choices=sorted(PRESETS), default="fast", help="of mtseg-train (%(default)s)"
    )
    parser.add_argument(
        "--predictions", nargs="+", choices=list(PREDICTIONS), default=list(PREDICTIONS),
        help="nnU-Net's: every window once, or mirrored eight times, its default (both)",
    )  # fmt: skip
    parser.add_argument(
        "--nnunet-precision", choices=("float32", "bfloat16"), default="float32",
        help="of its training; float32 is its own choice on processors (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--timing-seconds", type=float, default=60, help="nnU-Net is timed for (%(default)s)"
    )
    parser.add_argument(
        "--timing-rounds", type=int, default=3, help="how often both are timed (%(default)s)"
    )
    parser.add_argument("--workdir", default="against_nnunet", help="of all runs (%(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("against_nnunet.png"), help="figure (%(default)s)"
    )
    arguments = parser.parse_args()
    require_modules(["matplotlib"], "Run: pip install 'mtseg[report]'")
    require_modules(
        ["nnunetv2"], "Install it there, or name another --nnunet-python.", arguments.nnunet_python
    )
    real = Path(os.environ.get("MTSEG_REAL_DATA", "../shared/data"))
    hippocampus = Path(__file__).parent / "hippocampus.toml"
    tasks = arguments.tasks or [
        f"{hippocampus}:folder={real / 'hippocampus_msd'}",
        f"brain:miccai2012={real / 'brain_miccai2012'}",
    ]
    ratios: dict[str, float | None] = {}
    floor: dict[str, float | None] = {}
    of_tasks = {}
    for given in tasks:
        data, results = compare(given, arguments)
        name = data.task.name
        of_tasks[name] = results
        for minutes, both in results.items():
            theirs = both[THEIRS].best()
            ratios[f"{name}_{minutes:g}min_dice_over_nnunet"] = (
                both[OURS].best() / theirs if theirs else None
            )
        lengths = list(results)
        means = [[both[side].best() for both in results.values()] for side in (OURS, THEIRS)]
        floor[f"{name}_overtaken_at_minute"] = find_overtaking(lengths, *means)
        print(f"\n{class_table(data.task, results)}")
        print(f"\n{table(results, arguments.predictions)}")
        print(describe_overtaking(name, lengths, *means), flush=True)
    draw(of_tasks, arguments.out)
    finish("against_nnunet", ratios, floor, 1, arguments.json)


if __name__ == "__main__":
    run_benchmark(main)
