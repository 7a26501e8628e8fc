"""Draws the learning curves of several runs: mean Dice on the test scans against training time.

    python benchmarks/time_to_dice.py mtseg_runs/fast mtseg_runs/paper --out curves.png

Minutes are those of training, without evaluations. It trains nothing and takes seconds. It prints
when each run first reached a mean Dice of 0.80 and 0.85. `pip install 'mtseg[report]'` installs the
library that draws.

    OTHER_minutes_to_LEVEL_over_FIRST   minutes that another run needs, over those of the first run;
                                        undefined if one of them does not reach the level
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from comparison import finish, make_parser, require_modules, run_benchmark

LEVELS = (0.80, 0.85)
LINES = ("-", "--", ":", "-.")


@dataclasses.dataclass(frozen=True)
class Curve:
    """The learning curve of a run."""

    name: str
    label: str
    minutes: list[float]
    dice: list[float]
    samples_per_s: float

    def minutes_to(self, level: float) -> float | None:
        """Minutes of training until mean Dice first reached a level; None if it never did."""
        reached = (m for m, d in zip(self.minutes, self.dice, strict=True) if d >= level)
        return next(reached, None)


def read_curve(workdir: Path) -> Curve:
    """Reads the learning curve of a run."""
    config = json.loads((workdir / "config.json").read_text())
    points = json.loads((workdir / "learning_curve.json").read_text())
    samples = points[-1]["minibatch"] * config["global_batch_size"]
    return Curve(
        workdir.name,
        f"{workdir.name} ({config['global_batch_size']} per mini-batch, {config['precision']})",
        [point["training_seconds"] / 60 for point in points],
        [point["mean_dice"] for point in points],
        samples / points[-1]["training_seconds"],
    )


def draw(curves: list[Curve], out: Path) -> None:
    """Draws the curves into a file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="minutes of training", ylabel="mean Dice on the test scans")
    for number, curve in enumerate(curves):
        line = LINES[number % len(LINES)]
        axes.plot(curve.minutes, curve.dice, line, marker="o", markersize=3, label=curve.label)
    for level in LEVELS:
        axes.axhline(level, color="0.8", linewidth=0.8, zorder=0)
    axes.grid(alpha=0.2)
    axes.legend(loc="lower right")
    figure.savefig(out, dpi=150)


def main() -> None:
    """Runs the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("workdirs", nargs="+", type=Path, metavar="WORKDIR")
    parser.add_argument(
        "--out", type=Path, default=Path("learning_curves.png"), help="(%(default)s)"
    )
    arguments = parser.parse_args()
    require_modules(["matplotlib"], "Run: pip install 'mtseg[report]'")
    first, *others = curves = [read_curve(workdir) for workdir in arguments.workdirs]
    for curve in curves:
        for level in LEVELS:
            minutes = curve.minutes_to(level)
            when = (
                f"not in {curve.minutes[-1]:.1f} min"
                if minutes is None
                else (f"after {minutes:.1f} min")
            )
            print(f"{curve.name}: mean Dice {level:.2f} {when}")
        print(f"{curve.name}: {max(curve.dice):.3f} at best, {curve.samples_per_s:.0f} samples/s")
    draw(curves, arguments.out)
    ratios: dict[str, float | None] = {}
    for other in others:
        for level in LEVELS:
            theirs, ours = other.minutes_to(level), first.minutes_to(level)
            name = f"{other.name}_minutes_to_{level:.2f}_over_{first.name}"
            ratios[name] = theirs / ours if theirs is not None and ours else None
    finish("time_to_dice", ratios, {}, 1, arguments.json)


if __name__ == "__main__":
    run_benchmark(main)
