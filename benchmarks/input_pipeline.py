"""Balanced mini-batches a second, from patch records and from volumes.

Against TFDS's `as_dataset` over the same records, which is not even balanced, and against reading
the bytes of the shards and nothing more. Every figure is a ratio of runs in turn, the median of
several pairs. Nothing else should run on the machine.

    mtseg-prepare brain:miccai2012 --manual-dir SCANS --data-dir mtseg_data
    python benchmarks/input_pipeline.py --data-dir mtseg_data --tasks brain:miccai2012
"""

from __future__ import annotations

import argparse
import os
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow_datasets as tfds
from comparison import finish, median_ratio, seconds_of

from mtseg.batches.pipeline import make_dataset, open_balanced_samples
from mtseg.records.reading import prepared_dir
from mtseg.tasks.label_space import parse_tasks

BATCH_SIZE = 210
PATCH_BYTES = 3 * 51 * 51 * 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", default="mtseg_data", help="(%(default)s)")
    parser.add_argument("--tasks", default="brain:miccai2012", help="(%(default)s)")
    parser.add_argument("--batches", type=int, default=200, help="in a run (%(default)s)")
    parser.add_argument("--pairs", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON line at the end")
    arguments = parser.parse_args()
    label_space = parse_tasks(arguments.tasks)
    folders = [
        prepared_dir(arguments.data_dir, s.task.name, s.sources[0], "patches")
        for s in label_space.selections
    ]
    count = arguments.batches * BATCH_SIZE

    def ours(kind: str) -> object:
        samples = open_balanced_samples(arguments.data_dir, label_space, 0, kind=kind)
        calls = [(n, n + 1) for n in range(arguments.batches + 10)]
        return lambda: make_dataset(samples, BATCH_SIZE, calls)

    def as_dataset() -> object:
        builder = tfds.builder_from_directory(folders[0])
        dataset = builder.as_dataset(split="train", shuffle_files=True).repeat()
        return dataset.batch(BATCH_SIZE).prefetch(4)

    def patches_a_second(dataset: object) -> float:
        batches = iter(dataset)
        for _ in range(10):  # Files are opened, threads are started.
            next(batches)
        return count / seconds_of(lambda: [next(batches) for _ in range(arguments.batches)])

    def read_shards() -> None:
        """As many bytes as the patches have, from the shards, one after the other."""
        left = count * PATCH_BYTES
        buffer = bytearray(2**20)
        while left > 0:
            for path in sorted(path for f in folders for path in f.glob("*.tfrecord-*")):
                with path.open("rb", buffering=0) as shard:
                    while left > 0 and (size := shard.readinto(buffer)):
                        left -= size

    made = {"patches": ours("patches"), "volumes": ours("volumes"), "as_dataset": as_dataset}
    speeds = {name: [] for name in (*made, "raw")}
    for make in made.values():
        patches_a_second(make())
    read_shards()
    for _ in range(arguments.pairs):
        for name, make in made.items():
            speeds[name].append(patches_a_second(make()))
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
    floor = {"bytes_a_patch": PATCH_BYTES, "raw_patches_a_second": statistics.median(speeds["raw"])}
    finish("input_pipeline", ratios, floor, arguments.pairs, arguments.json)


if __name__ == "__main__":
    main()
