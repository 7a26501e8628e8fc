"""Learning curves of several runs in one figure: mean Dice on the test scans against minutes.

    python benchmarks/time_to_dice.py mtseg_runs/fast mtseg_runs/paper --out curves.png

Minutes are those spent in training; evaluations are not counted. It prints when each run first
reached a mean Dice of 0.80 and 0.85. `pip install 'mtseg[test]'` has what it draws with.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib.figure import Figure

LEVELS = (0.80, 0.85)
LINES = ("-", "--", ":", "-.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdirs", nargs="+", type=Path, metavar="WORKDIR")
    parser.add_argument("--out", default="learning_curves.png", help="(%(default)s)")
    arguments = parser.parse_args()
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="minutes of training", ylabel="mean Dice on the test scans")
    for number, workdir in enumerate(arguments.workdirs):
        config = json.loads((workdir / "config.json").read_text())
        curve = json.loads((workdir / "learning_curve.json").read_text())
        minutes = [point["training_seconds"] / 60 for point in curve]
        dice = [point["mean_dice"] for point in curve]
        name = f"{workdir.name} ({config['global_batch_size']} a mini-batch, {config['precision']})"
        axes.plot(minutes, dice, LINES[number % len(LINES)], marker="o", markersize=3, label=name)
        for level in LEVELS:
            reached = [m for m, d in zip(minutes, dice, strict=True) if d >= level]
            when = f"after {reached[0]:.1f} min" if reached else f"not in {minutes[-1]:.1f} min"
            print(f"{workdir.name}: mean Dice {level:.2f} {when}")
        speed = curve[-1]["minibatch"] * config["global_batch_size"] / minutes[-1] / 60
        print(f"{workdir.name}: {max(dice):.3f} at best, {speed:.0f} samples/s")
    for level in LEVELS:
        axes.axhline(level, color="0.8", linewidth=0.8, zorder=0)
    axes.grid(alpha=0.2)
    axes.legend(loc="lower right")
    figure.savefig(arguments.out, dpi=150)


if __name__ == "__main__":
    main()
