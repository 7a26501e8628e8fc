"""Measures how many patches per second the input pipeline delivers, from patches and volumes.

    mtseg-prepare brain:miccai2012 --manual-dir SCANS --data-dir mtseg_data --kinds patches,volumes
    python benchmarks/input_pipeline.py --data-dir mtseg_data --tasks brain:miccai2012

It compares balanced mini-batches of 210 with TFDS's `as_dataset` over the patch records of the
first task, which are not balanced, and with reading the bytes of the shards and nothing more. All
of them find the files in the page cache. `volumes` and `device` end in the memory of the device
that trains, cut by the host and by the device. Nothing else should run on the machine. About 1
minute on 2 cores; smallest form, with phantoms: `--tasks breast --batches 5 --pairs 1`.

    INPUT_over_as_dataset   patches per second of INPUT, `patches` or `volumes`, over as_dataset's
    INPUT_over_raw          the same, over the patches whose bytes are read per second
    device_over_volumes     patches per second, cut by the device over cut by the host
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
import tensorflow_datasets as tfds
from comparison import (
    add_pairs_option,
    finish,
    make_parser,
    median_ratio,
    run_benchmark,
    seconds_of,
)

from mtseg.batches.pipeline import make_dataset, open_balanced_samples
from mtseg.batches.placed_samples import PlacedSamples, Places
from mtseg.records.prepared import prepared_dir
from mtseg.scans.patches import PATCH_SIZE, PLANES
from mtseg.tasks.label_space import parse_tasks
from mtseg.training.engines.cutting import cut_from_buffer

BATCH_SIZE = 210
PATCH_BYTES = len(PLANES) * PATCH_SIZE**2 * 2  # float16


def main() -> None:
    """Runs the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--data-dir", default="mtseg_data", help="(%(default)s)")
    parser.add_argument("--tasks", default="brain:miccai2012", help="(%(default)s)")
    parser.add_argument("--batches", type=int, default=200, help="in a run (%(default)s)")
    add_pairs_option(parser)
    arguments = parser.parse_args()
    label_space = parse_tasks(arguments.tasks)
    folders = [
        prepared_dir(arguments.data_dir, s.task.name, s.sources[0], "patches", s.task.own_file)
        for s in label_space.selections
    ]
    count = arguments.batches * BATCH_SIZE

    calls = [(n, n + 1) for n in range(arguments.batches + 10)]

    def stored() -> Callable[[], Iterable[Any]]:
        samples = open_balanced_samples(arguments.data_dir, label_space, 0, kind="patches")
        return lambda: make_dataset(samples, BATCH_SIZE, calls)

    def on_device(kind: str) -> Callable[[], Iterable[Any]]:
        """Mini-batches in the device's memory."""
        samples = open_balanced_samples(arguments.data_dir, label_space, 0)
        if kind == "volumes":
            move = tf.function(tf.identity)
            return lambda: (
                wait_for(move(patches)) for patches, _ in make_dataset(samples, BATCH_SIZE, calls)
            )
        placed = PlacedSamples(samples)
        volumes = tf.constant(placed.make_buffer())

        @tf.function
        def cut(volumes: tf.Tensor, places: Places) -> tf.Tensor:
            return cut_from_buffer(volumes, Places(places.steps[0], places.factors[0]))

        return lambda: (
            wait_for(cut(volumes, places)) for places, _ in make_dataset(placed, BATCH_SIZE, calls)
        )

    def wait_for(patches: tf.Tensor) -> tf.Tensor:
        """Returns when the device has computed them."""
        tf.reshape(patches, [-1])[0].numpy()
        return patches

    def as_dataset() -> Iterable[Any]:
        builder = tfds.builder_from_directory(folders[0])
        dataset = builder.as_dataset(split="train", shuffle_files=True).repeat()
        return dataset.batch(BATCH_SIZE).prefetch(4)

    def measure_rate(dataset: Iterable[Any]) -> float:
        """Patches per second."""
        batches = iter(dataset)
        for _ in range(10):  # opens files, starts threads
            next(batches)
        return count / seconds_of(lambda: [next(batches) for _ in range(arguments.batches)])

    def read_shards() -> None:
        """Reads as many bytes as the patches have, from one shard after the other."""
        left = count * PATCH_BYTES
        buffer = bytearray(2**20)
        while left > 0:
            for path in sorted(path for f in folders for path in f.glob("*.tfrecord-*")):
                with path.open("rb", buffering=0) as shard:
                    while left > 0 and (size := shard.readinto(buffer)):
                        left -= size

    made = {
        "patches": stored(),
        "volumes": on_device("volumes"),
        "device": on_device("device"),
        "as_dataset": as_dataset,
    }
    speeds: dict[str, list[float]] = {name: [] for name in (*made, "raw")}
    for make in made.values():
        measure_rate(make())
    read_shards()
    for _ in range(arguments.pairs):
        for name, make in made.items():
            speeds[name].append(measure_rate(make()))
        speeds["raw"].append(count / seconds_of(read_shards))
    for name, measured in speeds.items():
        print(
            f"{name}: {statistics.median(measured):,.0f} patches/s, "
            f"{statistics.median(measured) * PATCH_BYTES / 1e9:.2f} GB/s"
        )
    ratios = {
        f"{name}_over_{other}": median_ratio(speeds[name], speeds[other])
        for name in ("patches", "volumes")
        for other in ("as_dataset", "raw")
    }
    ratios["device_over_volumes"] = median_ratio(speeds["device"], speeds["volumes"])
    floor = {
        "bytes_per_patch": PATCH_BYTES,
        "raw_patches_per_s": statistics.median(speeds["raw"]),
    }
    finish("input_pipeline", ratios, floor, arguments.pairs, arguments.json)


if __name__ == "__main__":
    run_benchmark(main)
