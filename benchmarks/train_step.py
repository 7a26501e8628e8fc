"""Measures a whole training step against PyTorch and against the machine's matrix products.

    pip install torch==2.13.0
    python benchmarks/train_step.py

A step is forward, backward and update, on a mini-batch in memory. PyTorch's network is the same,
written plainly, channels last. `--torch-python` names another interpreter that has PyTorch;
`--without-torch` leaves it out. Nothing else should run on the machine. About 10 minutes on 2
cores, 3 without PyTorch; smallest form: `--samples 7 --pairs 1 --without-torch`.

Ratios, for each precision and number of samples N:

    PRECISION_N_torch_seconds_over_ours    the faster of eager and compiled PyTorch
    PRECISION_N_rate_over_matrix_product   operations per second, over those of the product of two
                                           4096 × 4096 matrices
    float32_seconds_over_bfloat16_N        our step in both precisions
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from comparison import (
    MatrixProduct,
    Worker,
    add_pairs_option,
    finish,
    make_parser,
    median_ratio,
    require_modules,
    run_benchmark,
    seconds_of,
)
from network_costs import flop_of_sample

from mtseg.runs.config import TrainConfig
from mtseg.scans.patches import PATCH_SIZE
from mtseg.tasks.label_space import parse_tasks
from mtseg.training.engines.strategies import make_replicas
from mtseg.training.engines.tensorflow_step import TrainingStep

PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
HOW = ("eager", "compiled")


def make_step(precision: str, num_samples: int, steps_per_call: int = 1) -> Callable[[], object]:
    """Our training step on a mini-batch in memory; the first call traces and compiles.

    Args:
        precision: key of `PRECISIONS`.
        num_samples: size of the mini-batch.
        steps_per_call: mini-batches of one call.

    Returns:
        A function that returns the losses, after the step is computed.
    """
    config = TrainConfig(
        "brain", "", global_batch_size=num_samples, precision=PRECISIONS[precision],
        steps_per_call=steps_per_call,
    )  # fmt: skip
    label_space = parse_tasks(config.tasks)
    step = TrainingStep(config, label_space, make_replicas("default"))
    rng = np.random.default_rng(0)
    patches = rng.random((steps_per_call, num_samples, 3, PATCH_SIZE, PATCH_SIZE))
    patches = tf.constant(patches.astype(np.float16))
    class_index = tf.constant(rng.integers(0, 7, (steps_per_call, num_samples), np.int32))
    return lambda: step(patches, class_index)[0].numpy()


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--samples", type=int, nargs="+", default=[30, 105], help="of a mini-batch (%(default)s)"
    )
    add_pairs_option(parser)
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter with torch")
    parser.add_argument("--without-torch", action="store_true")
    arguments = parser.parse_args()
    if not arguments.without_torch:
        remedy = "Install it, name another --torch-python, or give --without-torch."
        require_modules(["torch"], remedy, arguments.torch_python)
    worker = str(Path(__file__).parent / "torch_worker.py")
    products = {precision: MatrixProduct(precision) for precision in PRECISIONS}
    flop = flop_of_sample(7)
    ratios, floor = {}, {"gflop_per_sample": flop / 1e9}
    for num_samples in arguments.samples:
        with contextlib.ExitStack() as stack:
            runs: dict[tuple[str, str], Callable[[], Any]] = {}
            seconds: dict[tuple[str, str], list[float]] = {}
            rates: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
            for precision in PRECISIONS:
                run = make_step(precision, num_samples)
                print(
                    f"{num_samples} samples, {precision}: first step after {seconds_of(run):.1f} s",
                    flush=True,
                )
                run()
                runs[precision, "ours"] = run
                for how in () if arguments.without_torch else HOW:
                    command = (worker, "train", precision, how, str(num_samples))
                    torch = stack.enter_context(Worker(arguments.torch_python, *command))
                    torch.run()
                    runs[precision, how] = torch.run
            # Several steps of a small mini-batch, so that every measurement takes seconds.
            steps = max(1, 210 // num_samples)
            for _ in range(arguments.pairs):
                for key, run in runs.items():
                    is_ours = key[1] == "ours"
                    took = sum(seconds_of(run) if is_ours else run() for _ in range(steps))
                    seconds.setdefault(key, []).append(took / steps)
                for precision, product in products.items():
                    rates[precision].append(product.flop_per_s())
        for (precision, how), took in seconds.items():
            speed = num_samples / statistics.median(took)
            print(
                f"{num_samples} samples, {precision}, {how}: {speed:.1f} samples/s, "
                f"{speed * flop / 1e9:.0f} GFLOP/s"
            )
        for precision in PRECISIONS:
            ours = seconds[precision, "ours"]
            name = f"{precision}_{num_samples}"
            rate = [num_samples * flop / took for took in ours]
            ratios[f"{name}_rate_over_matrix_product"] = median_ratio(rate, rates[precision])
            floor[f"{name}_matrix_product_gflop_per_s"] = statistics.median(rates[precision]) / 1e9
            if not arguments.without_torch:
                theirs = min((seconds[precision, how] for how in HOW), key=statistics.median)
                ratios[f"{name}_torch_seconds_over_ours"] = median_ratio(theirs, ours)
        ratios[f"float32_seconds_over_bfloat16_{num_samples}"] = median_ratio(
            seconds["float32", "ours"], seconds["bfloat16", "ours"]
        )
    finish("train_step", ratios, floor, arguments.pairs, arguments.json)


if __name__ == "__main__":
    run_benchmark(main)
