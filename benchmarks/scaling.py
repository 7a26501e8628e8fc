"""Compares training on one, two and four replicas, and computes the speed of many workers.

    python benchmarks/scaling.py

First it trains on the same mini-batches on this machine's processor as one, two and four logical
devices, in float64 and with dropout as in the paper; the losses must agree. The replicas share the
cores, so they are not expected to be faster: the ratio shows what dividing and synchronising cost.

Then it computes the time of the paper's mini-batch of 210 on many workers like this machine; this
is a calculation, not a measurement. A worker's step takes a + b × samples seconds, fitted to
measured steps. The gradients are exchanged, and for every batch normalisation two vectors forward
and two backward, each as its own collective, which waits for the network twice per doubling of the
workers.

Nothing else should run on the machine. About 3 minutes on 2 cores; smallest form: `--samples 4
--steps 3 --fit-sizes 2 4`.

    one_replica_seconds_over_N_replicas   a step on one replica, over the same step on N
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from comparison import finish, make_parser, run_benchmark, seconds_of

from mtseg.system.text_table import format_table

if TYPE_CHECKING:
    import tensorflow as tf

NUM_REPLICAS = (1, 2, 4)
NUM_WORKERS = (1, 2, 3, 7, 15, 30, 70, 210)
"""Divisors of the paper's mini-batch."""
PAPER_BATCH_SIZE = 210

COLLECTIVES_OF_A_NORMALISATION = 4
BYTES = 4
"""Of a float32."""

WARM_UP_STEPS = 2
"""Steps of a run that are not timed: they trace and compile."""


def run_replicas(num_replicas: int, num_samples: int, num_steps: int) -> dict[str, Any]:
    """Losses and median seconds of steps on logical devices; runs in its own process.

    Args:
        num_replicas: number of logical devices.
        num_samples: size of the mini-batch.
        num_steps: number of steps, more than `WARM_UP_STEPS`.
    """
    import tensorflow as tf

    from mtseg.runs.config import TrainConfig
    from mtseg.scans.patches import PATCH_SIZE
    from mtseg.tasks.label_space import parse_tasks
    from mtseg.training.engines.strategies import make_replicas
    from mtseg.training.engines.tensorflow_step import TrainingStep

    if num_replicas > 1:
        (processor,) = tf.config.list_physical_devices("CPU")
        devices = [tf.config.LogicalDeviceConfiguration()] * num_replicas
        tf.config.set_logical_device_configuration(processor, devices)
    replicas = make_replicas("mirrored" if num_replicas > 1 else "default")
    config = TrainConfig("brain", "", global_batch_size=num_samples, precision="float64")
    step = TrainingStep(config, parse_tasks(config.tasks), replicas)
    rng = np.random.default_rng(0)
    patches = rng.random((num_steps, num_samples, 3, PATCH_SIZE, PATCH_SIZE)).astype(np.float16)
    class_index = rng.integers(0, 7, (num_steps, num_samples), np.int32)

    def make_dataset(shares: list[slice]) -> tf.data.Dataset:
        parts = [
            (patches[[n], share], class_index[[n], share])
            for n in range(num_steps)
            for share in shares
        ]
        return tf.data.Dataset.from_tensor_slices(
            tuple(np.stack(part) for part in zip(*parts, strict=True))
        )

    losses: list[float] = []
    seconds: list[float] = []
    batches = replicas.distribute(make_dataset, num_samples)
    for _ in range(num_steps):
        patches_and_classes = next(batches)

        def run(batch: Any = patches_and_classes) -> None:
            losses.append(float(step(*batch)[0].numpy()[0]))

        seconds.append(seconds_of(run))
    return {"losses": losses, "seconds": statistics.median(seconds[WARM_UP_STEPS:])}


def fit_step(sizes: list[int], num_steps: int) -> tuple[float, float]:
    """Fits the seconds of a worker's step in float32: those of any step, and those per sample."""
    from train_step import make_step

    medians = []
    for size in sizes:
        run = make_step("float32", size)
        run()
        run()
        medians.append(statistics.median(seconds_of(run) for _ in range(num_steps)))
    of_sample, of_step = np.polyfit(sizes, medians, 1)
    return max(float(of_step), 0.0), float(of_sample)


def count_exchanged() -> tuple[int, int, int]:
    """Bytes of the gradients, bytes of the statistics, and number of collectives of a step."""
    import keras

    from mtseg.network.model import build_patch_model
    from mtseg.tasks.label_space import parse_tasks

    model = build_patch_model(parse_tasks("brain,breast,cta").num_classes)
    layers = list(model._flatten_layers(include_self=False, recursive=True))
    normalisations = [lay for lay in layers if isinstance(lay, keras.layers.BatchNormalization)]
    features = sum(layer.gamma.shape[0] for layer in normalisations)
    gradients = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    return (
        BYTES * gradients,
        BYTES * COLLECTIVES_OF_A_NORMALISATION * features,
        1 + COLLECTIVES_OF_A_NORMALISATION * len(normalisations),
    )


def predict_scaling(
    of_step: float,
    of_sample: float,
    exchanged: tuple[int, int, int],
    gbit_per_s: float,
    latency_us: float,
) -> str:
    """A table of the paper's mini-batch on more and more workers, computed.

    Args:
        of_step: seconds of any step.
        of_sample: seconds per sample.
        exchanged: from `count_exchanged`.
        gbit_per_s: rate of a link.
        latency_us: of a message, in microseconds.
    """
    gradients, statistics_bytes, collectives = exchanged
    one_worker = of_step + PAPER_BATCH_SIZE * of_sample
    rows = []
    for workers in NUM_WORKERS:
        samples = PAPER_BATCH_SIZE // workers
        computing = of_step + samples * of_sample
        # A ring moves 2 (n - 1) / n of the bytes over every link.
        moved = 2 * (workers - 1) / workers * (gradients + statistics_bytes)
        waits = collectives * 2 * math.ceil(math.log2(workers))
        exchanging = moved * 8 / (gbit_per_s * 1e9) + waits * latency_us / 1e6
        step = computing + exchanging
        rows.append(
            [
                str(workers),
                str(samples),
                f"{computing:.3f}",
                f"{exchanging:.4f}",
                f"{step:.3f}",
                f"{one_worker / step:.1f}",
            ]
        )
    header = (
        "workers", "samples each", "computing s", "exchanging s", "step s", "times one worker",
    )  # fmt: skip
    return format_table(header, rows)


def main() -> None:
    """Runs the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--samples", type=int, default=24, help="of a mini-batch (%(default)s)")
    parser.add_argument("--steps", type=int, default=6, help="at least 3 (%(default)s)")
    parser.add_argument(
        "--fit-sizes", type=int, nargs="+", default=[7, 35, 105], help="mini-batches (%(default)s)"
    )
    parser.add_argument("--gbit", type=float, default=10.0, help="Gbit/s of a link (%(default)s)")
    parser.add_argument("--microseconds", type=float, default=50.0, help="latency (%(default)s)")
    parser.add_argument("--replicas", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.steps <= WARM_UP_STEPS:
        parser.error(f"--steps: {arguments.steps} are too few: {WARM_UP_STEPS} are not timed")
    if arguments.replicas:
        print(json.dumps(run_replicas(arguments.replicas, arguments.samples, arguments.steps)))
        return

    results = {}
    for count in NUM_REPLICAS:
        command = [sys.executable, __file__, "--replicas", str(count)]
        command += ["--samples", str(arguments.samples), "--steps", str(arguments.steps)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        results[count] = json.loads(done.stdout.splitlines()[-1])
        losses = np.array(results[count]["losses"])
        difference = np.abs(losses - results[1]["losses"]).max()
        print(
            f"{count} replicas: largest difference of a loss in {len(losses)} steps "
            f"{difference:.0e}, {results[count]['seconds']:.2f} s per step",
            flush=True,
        )

    of_step, of_sample = fit_step(arguments.fit_sizes, arguments.steps)
    gradients, statistics_bytes, collectives = exchanged = count_exchanged()
    print(
        f"A worker's step: {of_step:.3f} s + {of_sample:.4f} s per sample. Exchanged in a step: "
        f"{gradients / 1e6:.1f} MB of gradients, {statistics_bytes / 1e3:.0f} kB of statistics, in "
        f"{collectives} collectives; links of {arguments.gbit:g} Gbit/s, "
        f"{arguments.microseconds:g} µs."
    )
    print(predict_scaling(of_step, of_sample, exchanged, arguments.gbit, arguments.microseconds))
    ratios = {
        f"one_replica_seconds_over_{count}_replicas": results[1]["seconds"]
        / results[count]["seconds"]
        for count in NUM_REPLICAS[1:]
    }
    floor = {"bytes_exchanged": gradients + statistics_bytes, "collectives": collectives}
    finish("scaling", ratios, floor, 1, arguments.json)


if __name__ == "__main__":
    run_benchmark(main)
