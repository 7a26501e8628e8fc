"""What each choice of `--preset fast` brings: the preset with one choice at a time undone.

    python benchmarks/recipes.py --data-dir mtseg_data --tasks brain:miccai2012 --workdir recipes

Every run sees the same number of samples. Rerun the command to resume if it was stopped.
`again` is the preset with another seed: what chance alone makes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

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
    "dropout 0.2": {"dropout-rate": 0.2},
    "dropout 0.1, Muon, rate 0.005": {
        "dropout-rate": 0.1, "optimizer": "muon", "learning-rate": 5e-3,
    },
    "whole volumes": {"input": "volumes"},
    "whole volumes, flipped": {"input": "volumes", "augment": "flip"},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", default="mtseg_data", help="(%(default)s)")
    parser.add_argument("--tasks", default="brain:miccai2012", help="one task (%(default)s)")
    parser.add_argument("--workdir", default="recipes", help="folder of the runs (%(default)s)")
    parser.add_argument("--samples", type=int, default=17_500, help="of a run (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    arguments = parser.parse_args()
    for name in arguments.only:
        size = VARIANTS[name].get("global-batch-size", FAST_BATCH_SIZE)
        count = arguments.samples // size
        workdir = Path(arguments.workdir) / name.replace(" ", "_").replace("'", "")
        flags = {
            "preset": "fast", "tasks": arguments.tasks, "data-dir": arguments.data_dir,
            "workdir": workdir, "minibatches-per-task": count, "evaluate-every": count,
            **VARIANTS[name],
        }  # fmt: skip
        command = "import sys; from mtseg.cli.train import main; sys.exit(main())"
        typed = [part for flag, value in flags.items() for part in (f"--{flag}", str(value))]
        subprocess.run(
            [sys.executable, "-c", command, *typed], check=True, stdout=subprocess.DEVNULL
        )
        (*_, point) = json.loads((workdir / "learning_curve.json").read_text())
        print(f"{name:<32}{point['mean_dice']:.3f}", flush=True)


if __name__ == "__main__":
    main()
