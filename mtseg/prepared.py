"""Read prepared records: a data folder comes in, volumes or single patch records leave.

Volumes go through TFDS. Patches do not: their shards are mapped into memory and indexed once, so
that any record can be had at any moment and a mini-batch is a function of its number alone.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from mtseg.errors import InputError
from mtseg.records import PATCH_SPEC, VERSION
from mtseg.subject import PreparedSubject
from mtseg.tasks import LabelSpace

_HEADER_BYTES = 12
_FOOTER_BYTES = 4
"""A TFRecord's framing: length (8) and its checksum (4) before the data, a checksum (4) after."""


def prepared_dir(data_dir: str | Path, task_name: str, source: str, kind: str) -> Path:
    """Where the records of a task's source are.

    Raises:
        InputError: if they have not been prepared; the message holds the command that does it.
    """
    path = Path(data_dir) / f"mtseg_{task_name}" / f"{source}_{kind}" / VERSION
    if not (path / "dataset_info.json").is_file():
        manual_dir = "" if source == "phantom" else " --manual-dir FOLDER"
        raise InputError(
            f"{data_dir}: holds no prepared {kind} of {task_name}:{source}. "
            f"Run: mtseg-prepare {task_name}:{source} --data-dir {data_dir}{manual_dir}"
        )
    return path


def prepared_settings(path: Path) -> dict[str, Any]:
    """The settings that the records in a prepared folder were made with."""
    return json.loads((path / "metadata.json").read_text())


def read_volumes(
    data_dir: str | Path, task_name: str, source: str, split: str
) -> Iterator[PreparedSubject]:
    """Yields the prepared subjects of a split, one in memory at a time.

    Raises:
        InputError: if the data is not prepared.
    """
    path = prepared_dir(data_dir, task_name, source, "volumes")
    dataset = tfds.builder_from_directory(path).as_dataset(
        split=split, read_config=tfds.ReadConfig(try_autocache=False)
    )
    for example in tfds.as_numpy(dataset):
        yield PreparedSubject(
            name=example["subject"].decode(),
            image=example["image"],
            class_index_map=example["class_index_map"],
            affine=example["affine"],
        )


def count_test_scans(data_dir: str | Path, label_space: LabelSpace) -> int:
    """How many test scans the tasks of a label space have together.

    Raises:
        InputError: if a task is not prepared.
    """
    count = 0
    for selection in label_space.selections:
        path = prepared_dir(data_dir, selection.task.name, selection.source, "volumes")
        count += tfds.builder_from_directory(path).info.splits["test"].num_examples
    return count


@dataclasses.dataclass(frozen=True)
class PatchRecords:
    """The patch records of one task, any of them at once.

    Attributes:
        shards: the shard files, mapped into memory.
        class_index: int64 (n,), the task's own class of every record.
        shard: int64 (n,), the shard that holds it.
        offset: int64 (n,), where its bytes begin in that shard.
        length: int64 (n,), how many they are.
    """

    shards: tuple[np.ndarray, ...]
    class_index: np.ndarray
    shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray

    def read(self, row: int) -> bytes:
        """The serialised example of one record."""
        start = self.offset[row]
        return self.shards[self.shard[row]][start : start + self.length[row]].tobytes()


def open_patches(data_dir: str | Path, task_name: str, source: str) -> PatchRecords:
    """Reads every patch record of a source once, checks its checksum and notes where it is.

    Raises:
        InputError: if the data is not prepared, or a shard is damaged (the message names it).
    """
    folder = prepared_dir(data_dir, task_name, source, "patches")
    paths = sorted(folder.glob(f"mtseg_{task_name}-train.tfrecord-*"))
    shards, columns = [], []
    for number, path in enumerate(paths):
        try:
            columns += [np.insert(c, 1, number, axis=0) for c in _index_shard(path)]
        except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
            raise InputError(
                f"{path}: this shard of records is damaged. Prepare it again: "
                f"mtseg-prepare {task_name}:{source} --data-dir {data_dir} --overwrite"
            ) from error
        # An empty file cannot be mapped; TFDS writes one where a shard got no example.
        is_empty = path.stat().st_size == 0
        shards.append(np.zeros(0, np.uint8) if is_empty else np.memmap(path, np.uint8, "r"))
    if not columns:
        raise InputError(
            f"{folder}: holds no patch. Prepare it again: "
            f"mtseg-prepare {task_name}:{source} --data-dir {data_dir} --overwrite"
        )
    class_index, shard, offset, length = np.concatenate(columns, axis=1)
    return PatchRecords(tuple(shards), class_index, shard, offset, length)


def _index_shard(path: Path) -> Iterator[np.ndarray]:
    """Yields int64 (3, n): class index, offset and length of the next n records of a shard."""
    position = 0
    only_class = {"class_index": PATCH_SPEC["class_index"]}
    for examples in tf.data.TFRecordDataset(str(path), buffer_size=2**23).batch(512):
        class_index = tf.io.parse_example(examples, only_class)["class_index"].numpy()
        length = tf.strings.length(examples).numpy().astype(np.int64)
        ends = position + np.cumsum(length + _HEADER_BYTES + _FOOTER_BYTES)
        position = int(ends[-1])
        yield np.stack([class_index, ends - _FOOTER_BYTES - length, length])
