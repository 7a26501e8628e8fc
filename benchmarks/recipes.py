"""Trains `--preset fast` with one setting at a time changed: an ablation of its choices.

    python benchmarks/recipes.py --data-dir mtseg_data --tasks brain:miccai2012 --workdir recipes

Every run sees the same number of samples. Rerun the command to resume if it was stopped: finished
runs are read, which is right here, because Dice is compared and not time. `again` is the preset
with another seed and shows how much chance alone varies. It prints mean Dice on the test scans.
About 7 minutes per run on 2 cores; smallest form, with phantoms: `--tasks breast
--samples 70 --only fast again`.

    fast_dice_over_VARIANT   above 1: the choice of the preset is better than the variant
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from comparison import finish, make_parser, run_benchmark

FAST_BATCH_SIZE = 35

VARIANTS: dict[str, dict[str, object]] = {
    "fast": {},
    "again": {"seed": 1},
    "float32": {"precision": "float32"},
    "classes as drawn": {"class-priors": "drawn"},
    "constant rate 0.001, no warm-up": {
        "schedule": "constant", "learning-rate": 1e-3, "warmup-minibatches": 0,
    },
    "Adam's second moment 0.999": {"adam-beta-2": 0.999},
    "mini-batches of 105": {"global-batch-size": 105},
    "batch-norm momentum 0.99": {"batch-norm-momentum": 0.99},
    "dropout 0.5": {"dropout-rate": 0.5},
    "Adam, rate 0.003": {"optimizer": "adam", "learning-rate": 3e-3},
    "rate 0.0025": {"learning-rate": 2.5e-3},
    "rate 0.01": {"learning-rate": 1e-2},
    "stored patches": {"input": "patches"},
    "flipped": {"augment": "flip"},
}  # fmt: skip


def train(name: str, tasks: str, data_dir: str, num_samples: int, workdir: Path) -> float:
    """Trains a variant, or reads it if it is finished.

    Args:
        name: key of `VARIANTS`.
        tasks: `--tasks` of mtseg-train.
        data_dir: its `--data-dir`.
        num_samples: number of samples that the run sees.
        workdir: folder of the run.

    Returns:
        Mean Dice on the test scans.
    """
    batch_size = VARIANTS[name].get("global-batch-size", FAST_BATCH_SIZE)
    assert isinstance(batch_size, int)
    count = num_samples // batch_size
    flags = {
        "preset": "fast", "tasks": tasks, "data-dir": data_dir, "workdir": workdir,
        "minibatches-per-task": count, "evaluate-every": count, **VARIANTS[name],
    }  # fmt: skip
    command = "import sys; from mtseg.cli.train import main; sys.exit(main())"
    typed = [part for flag, value in flags.items() for part in (f"--{flag}", str(value))]
    subprocess.run([sys.executable, "-c", command, *typed], check=True, stdout=subprocess.DEVNULL)
    (*_, point) = json.loads((workdir / "learning_curve.json").read_text())
    return float(point["mean_dice"])


def main() -> None:
    """Runs the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--data-dir", default="mtseg_data", help="(%(default)s)")
    parser.add_argument("--tasks", default="brain:miccai2012", help="one task (%(default)s)")
    parser.add_argument("--workdir", default="recipes", help="folder of the runs (%(default)s)")
    parser.add_argument("--samples", type=int, default=17_500, help="of a run (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    arguments = parser.parse_args()
    dice: dict[str, float] = {}
    for name in arguments.only:
        workdir = Path(arguments.workdir) / name.replace(" ", "_").replace("'", "")
        dice[name] = train(name, arguments.tasks, arguments.data_dir, arguments.samples, workdir)
        print(f"{name:<32}{dice[name]:.3f}", flush=True)
    ratios: dict[str, float | None] = {}
    floor: dict[str, float] = {}
    if "fast" in dice:
        for name, value in dice.items():
            if name != "fast":
                key = name.replace(",", "").replace("'", "").replace(" ", "_")
                ratios[f"fast_dice_over_{key}"] = dice["fast"] / value if value else None
        if "again" in dice:
            floor["dice_difference_by_chance"] = abs(dice["fast"] - dice["again"])
    finish("recipes", ratios, floor, 1, arguments.json)


if __name__ == "__main__":
    run_benchmark(main)
