"""Replicas: the same losses on one, two and four, and what many workers would bring, on paper.

    python benchmarks/scaling.py

First the same mini-batches are trained on in this machine's processor as one, two and four logical
devices, in float64 and with dropout as in the paper; the losses have to agree. They share the same
cores, so this is no gain: it shows what dividing and synchronising cost.

Then the paper's mini-batch on many workers like this machine. A worker's seconds are
a + b × samples, fitted to measured steps. What is exchanged is counted: the gradients, and for
every batch normalisation two vectors forward and two backward, each a collective of its own that
waits for the network twice for every doubling of the workers.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from comparison import finish, seconds_of

NUM_REPLICAS = (1, 2, 4)
NUM_WORKERS = (1, 2, 3, 7, 15, 30, 70, 210)
"""Divisors of the paper's mini-batch."""

COLLECTIVES_OF_A_NORMALISATION = 4
BYTES = 4


def run_replicas(num_replicas: int, num_samples: int, num_steps: int) -> dict:
    """Losses and seconds of steps on logical devices; in a process of its own."""
    import tensorflow as tf

    from mtseg.network.model import PATCH_SIZE
    from mtseg.tasks.label_space import parse_tasks
    from mtseg.training.config import TrainConfig
    from mtseg.training.strategies import make_replicas
    from mtseg.training.tensorflow_step import TrainingStep

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

    losses, seconds = [], []
    batches = replicas.distribute(make_dataset, num_samples)
    for _ in range(num_steps):
        batch = next(batches)
        seconds.append(seconds_of(lambda batch=batch: losses.append(step(*batch)[0])))
    return {
        "losses": [float(loss.numpy()[0]) for loss in losses],
        "seconds": statistics.median(seconds[2:]),
    }


def fit_step(sizes: list[int], num_steps: int) -> tuple[float, float]:
    """Seconds a step and seconds a sample of one worker, in float32."""
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
    """Bytes of the gradients, bytes of the statistics, collectives of a step."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=24, help="of a mini-batch (%(default)s)")
    parser.add_argument("--steps", type=int, default=6, help="(%(default)s)")
    parser.add_argument("--gbit", type=float, default=10.0, help="Gbit/s of a link (%(default)s)")
    parser.add_argument("--microseconds", type=float, default=50.0, help="latency (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON line at the end")
    parser.add_argument("--replicas", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
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
            f"{difference:.0e}, {results[count]['seconds']:.2f} s a step",
            flush=True,
        )

    of_step, of_sample = fit_step([7, 35, 105], arguments.steps)
    gradients, statistics_, collectives = count_exchanged()
    print(
        f"A worker's step: {of_step:.3f} s + {of_sample:.4f} s a sample. Exchanged in a step: "
        f"{gradients / 1e6:.1f} MB of gradients, {statistics_ / 1e3:.0f} kB of statistics, in "
        f"{collectives} collectives; links of {arguments.gbit:g} Gbit/s, "
        f"{arguments.microseconds:g} µs."
    )
    print("workers  samples each  computing s  exchanging s  step s  times one worker")
    alone = of_step + 210 * of_sample
    for workers in NUM_WORKERS:
        computing = of_step + 210 // workers * of_sample
        # A ring moves 2 (n - 1) / n of the bytes over every link.
        moved = 2 * (workers - 1) / workers * (gradients + statistics_)
        waits = collectives * 2 * math.ceil(math.log2(workers))
        exchanging = moved * 8 / (arguments.gbit * 1e9) + waits * arguments.microseconds / 1e6
        step = computing + exchanging
        print(
            f"{workers:7}  {210 // workers:12}  {computing:11.3f}  {exchanging:12.4f}  {step:6.3f}"
            f"  {alone / step:16.1f}"
        )
    ratios = {
        f"seconds_of_{count}_replicas_over_one": results[count]["seconds"] / results[1]["seconds"]
        for count in NUM_REPLICAS[1:]
    }
    finish("scaling", ratios, {"bytes_exchanged": gradients + statistics_}, 1, arguments.json)


if __name__ == "__main__":
    main()
