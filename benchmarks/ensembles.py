"""What mirror images and ensembles at test time bring, and what they cost.

    python benchmarks/ensembles.py [SCAN=LABELS ...] [--model DIR] [--ensemble DIR DIR ...]

Segments labelled scans with one model, and with the mean over the scan and its mirror image
(`--tta flip`); with --ensemble also with each of its models and with their mean. Every scan is
scored on its own grid, against its own label file. Prints mean Dice over the classes of the task,
the differences with 95 % t intervals over scans, and seconds a scan, without the first scan, which
pays for what is compiled at a first use. Without SCAN it takes the test brains in the folder that
`MTSEG_REAL_DATA` names. On two cores, half a minute for each scan and each pass over it.

    plain_error_over_flip, member_error_over_ensemble        1 - mean Dice, of the best member
    plain_seconds_over_flip, member_seconds_over_ensemble    what it costs: 0.5 is twice the time
"""

from __future__ import annotations

import csv
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from comparison import finish, make_parser, run_benchmark

import mtseg
from mtseg.api.label_files import FilePair, score_files
from mtseg.api.model import Model
from mtseg.errors import InputError
from mtseg.evaluation.statistics import mean_interval
from mtseg.prediction.outcome import Segmentation
from mtseg.system.text_table import format_table
from mtseg.tasks.label_space import parse_tasks

Way = Callable[[Path], Segmentation]
"""A way to segment a scan."""


def find_test_brains() -> dict[Path, Path]:
    """The brains for testing in the folder that `MTSEG_REAL_DATA` names: scan -> label file.

    Raises:
        InputError: if they are not there.
    """
    folder = Path(os.environ.get("MTSEG_REAL_DATA", "../shared/data")) / "brain_miccai2012"
    try:
        rows = list(csv.DictReader((folder / "split.csv").read_text().splitlines()))
    except OSError as error:
        raise InputError(
            f"{folder}: has no split.csv. Set MTSEG_REAL_DATA, or give SCAN=LABELS."
        ) from error
    names = [row["subject"] for row in rows if row["split"] == "test"]
    return {folder / f"{name}_SS.nii.gz": folder / f"{name}_glm.nii.gz" for name in names}


def read_pairs(texts: list[str]) -> dict[Path, Path]:
    """Scans with their label files, from SCAN=LABELS.

    Raises:
        InputError: if a text has another form, or a file is missing.
    """
    pairs = {}
    for text in texts:
        scan, equals, labels = text.partition("=")
        if not equals:
            raise InputError(f"{text}: is not SCAN=LABELS.")
        pairs[Path(scan)] = Path(labels)
    for path in [*pairs, *pairs.values()]:
        if not path.is_file():
            raise InputError(f"{path}: no such file. Give SCAN=LABELS.")
    return pairs


def name_ways(model: Model, members: list[Model], mean: Model | None, task: str) -> dict[str, Way]:
    """What is compared: name -> how a scan is segmented."""
    ways: dict[str, Way] = {
        "plain": lambda scan: model.segment(scan, task=task),
        "flip": lambda scan: model.segment(scan, task=task, tta="flip"),
    }
    for number, member in enumerate(members, start=1):
        ways[f"member {number}"] = lambda scan, member=member: member.segment(scan, task=task)
    if mean is not None:
        ways["ensemble"] = lambda scan: mean.segment(scan, task=task)
    return ways


def measure(
    ways: Mapping[str, Way], pairs: Mapping[Path, Path], task: str
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Segments every scan in every way.

    Returns:
        Name -> mean Dice over classes, a number for each scan; name -> seconds, likewise.
    """
    dice: dict[str, list[float]] = {name: [] for name in ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        for scan, labels in pairs.items():
            shown = []
            for name, way in ways.items():
                started = time.perf_counter()
                found = way(scan)
                seconds[name].append(time.perf_counter() - started)
                saved = found.save(Path(folder) / "labels.nii.gz")
                score = score_files([FilePair(scan.name, saved, labels)], task).overall_dice()
                dice[name].append(score)
                shown.append(f"{name} {score:.4f} in {seconds[name][-1]:.1f} s")
            print(f"{scan.name}: {'; '.join(shown)}", flush=True)
    return dice, seconds


def show_difference(values: list[float], base: list[float]) -> str:
    """The mean difference of two lists with its 95 % t interval."""
    differences = [a - b for a, b in zip(values, base, strict=True)]
    interval = mean_interval(differences)
    text = f"{statistics.fmean(differences):+.4f}"
    return text if interval is None else text + " ({:+.4f} to {:+.4f})".format(*interval)


def main() -> None:
    """Runs the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("pairs", nargs="*", metavar="SCAN=LABELS")
    parser.add_argument("--model", help="folder of a model (the one that comes with mtseg)")
    parser.add_argument("--ensemble", nargs="+", default=[], help="folders of two models or more")
    parser.add_argument("--task", default="brain:miccai2012", help="TASK:SOURCE (%(default)s)")
    arguments = parser.parse_args()
    pairs = read_pairs(arguments.pairs) or find_test_brains()
    task = parse_tasks(arguments.task).selections[0].task.name
    members = [mtseg.load(folder) for folder in arguments.ensemble]
    mean = mtseg.load(arguments.ensemble) if members else None
    ways = name_ways(mtseg.load(arguments.model), members, mean, task)
    dice, all_seconds = measure(ways, pairs, arguments.task)
    seconds = {name: of_scans[1:] or of_scans for name, of_scans in all_seconds.items()}
    base = {name: "plain" if name in ("plain", "flip") else "member 1" for name in ways}
    rows = [
        [
            name,
            f"{np.mean(dice[name]):.4f}",
            "" if name == base[name] else show_difference(dice[name], dice[base[name]]),
            f"{statistics.fmean(seconds[name]):.1f}",
        ]
        for name in ways
    ]
    header = ("", "mean Dice", "difference to plain or member 1, 95 % interval", "seconds")
    print(f"\n{format_table(header, rows, left=('',))}\n{len(pairs)} scans\n")
    error = {name: 1 - statistics.fmean(values) for name, values in dice.items()}
    time_of = {name: sum(values) for name, values in seconds.items()}
    ratios = {
        "plain_error_over_flip": error["plain"] / error["flip"],
        "plain_seconds_over_flip": time_of["plain"] / time_of["flip"],
    }
    if members:
        best = min(error[f"member {number}"] for number in range(1, len(members) + 1))
        ratios |= {
            "member_error_over_ensemble": best / error["ensemble"],
            "member_seconds_over_ensemble": time_of["member 1"] / time_of["ensemble"],
        }
    finish("ensembles", ratios, {}, 1, arguments.json)


if __name__ == "__main__":
    run_benchmark(main)
