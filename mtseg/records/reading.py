"""Reading prepared records, and finding out what has been prepared.

Volumes are read through TFDS, one after the other. Patches are read at random by
`mtseg.batches.stores`; `index_patches` tells it where they are in a shard.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_datasets as tfds

from mtseg.errors import InputError
from mtseg.records.schema import (
    CLASS_NAMES_FILE,
    VERSION,
    parse_patch_records,
    parse_volume_record,
)
from mtseg.records.shards import data_offsets
from mtseg.sources.reading import PreparedSubject
from mtseg.tasks.label_space import LabelSpace, TaskSelection
from mtseg.tasks.task import Task
from mtseg.tasks.task_file import GENERATED, shipped_tasks

_PREPARE_AGAIN = "Prepare the task again: mtseg-prepare with --overwrite."

_INDEX_BATCH = 512
"""Records that `index_patches` parses at once."""

_INDEX_BUFFER_BYTES = 2**23


# Finding what has been prepared.


def prepare_command(data_dir: str | Path, task_name: str, source: str, task_file: str = "") -> str:
    """The command that prepares a task's source, for a message.

    Args:
        data_dir: folder of prepared records.
        task_name: the task.
        source: name of the source.
        task_file: path of the task's file, if it is known and does not come with mtseg.
    """
    task = task_file or (task_name if task_name in shipped_tasks() else "TASK_FILE.toml")
    manual_dir = "" if source == GENERATED else " --manual-dir FOLDER"
    return f"mtseg-prepare {task}:{source} --data-dir {data_dir}{manual_dir}"


def records_dir(data_dir: str | Path, task_name: str, source: str, kind: str) -> Path:
    """The folder of the records of one kind, whether or not they have been prepared.

    TFDS decides its layout: `DATA_DIR/mtseg_TASK/SOURCE_KIND/VERSION`.
    """
    return Path(data_dir) / f"mtseg_{task_name}" / f"{source}_{kind}" / VERSION


def prepared_dir(
    data_dir: str | Path, task_name: str, source: str, kind: str, task_file: str = ""
) -> Path:
    """The folder of the records of one kind.

    Args:
        data_dir: folder of prepared records.
        task_name: the task.
        source: name of one of its sources.
        kind: `patches` or `volumes`.
        task_file: as for `prepare_command`.

    Raises:
        InputError: if they have not been prepared. The message has the command that does it.
    """
    path = records_dir(data_dir, task_name, source, kind)
    if not (path / "dataset_info.json").is_file():
        raise InputError(
            f"{data_dir}: has no prepared {kind} of {task_name}:{source}. "
            f"Run: {prepare_command(data_dir, task_name, source, task_file)}"
        )
    return path


def open_builder(path: Path) -> tfds.core.DatasetBuilder:
    """Opens a folder of records with TFDS and checks that it has exactly the shards it should.

    Raises:
        InputError: if a shard is missing, one is not in the description, or the description
            cannot be read.
    """
    try:
        builder = tfds.builder_from_directory(path)
        described = {Path(f) for split in builder.info.splits.values() for f in split.filepaths}
    except Exception as error:  # TFDS raises many types for a description that it did not write.
        raise damaged_records(path) from error
    found = set(path.glob("*.tfrecord*"))
    if missing := sorted(described - found):
        raise InputError(f"{missing[0]}: this shard of records is missing. {_PREPARE_AGAIN}")
    if unknown := sorted(found - described):
        raise InputError(
            f"{unknown[0]}: this shard is not listed in dataset_info.json, so its records belong "
            f"to other data. Remove it. Or: {_PREPARE_AGAIN}"
        )
    return builder


def damaged_records(path: Path) -> InputError:
    """The error for records, or files that describe them, that cannot be read."""
    return InputError(f"{path}: these records are damaged. {_PREPARE_AGAIN}")


def prepared_settings(path: Path) -> dict[str, Any]:
    """The settings that the records in a folder were made with.

    Raises:
        InputError: if they cannot be read.
    """
    file = path / "metadata.json"
    try:
        settings = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise damaged_records(file) from error
    if not isinstance(settings, dict):
        raise damaged_records(file)
    return settings


def require_same_classes(data_dir: str | Path, task: Task, source: str) -> None:
    """Refuses records whose class indices mean other classes than the task's.

    This happens if a task file is edited after its records were prepared. The names are stored with
    the patch records only; without these, nothing is compared.

    Raises:
        InputError: if the classes or their order differ.
    """
    folder = records_dir(data_dir, task.name, source, "patches")
    try:
        stored = (folder / CLASS_NAMES_FILE).read_text().splitlines()
    except OSError:
        return
    except ValueError as error:
        raise damaged_records(folder) from error
    if stored != list(task.class_names):
        raise InputError(
            f"{folder}: was prepared with the classes {', '.join(stored)}, but the task has "
            f"{', '.join(task.class_names)}. {_PREPARE_AGAIN}"
        )


def count_test_scans(data_dir: str | Path, label_space: LabelSpace) -> int:
    """How many test scans the tasks of a label space have together.

    Raises:
        InputError: if a task is not prepared, or one of its sources has no test scan.
    """
    count = 0
    for selection in label_space.selections:
        task = selection.task
        for source in selection.sources:
            path = prepared_dir(data_dir, task.name, source, "volumes", task.own_file)
            splits = open_builder(path).info.splits
            of_source = splits["test"].num_examples if "test" in splits else 0
            if not of_source:
                raise InputError(
                    f"{path}: has no test scan. Prepare {task.name}:{source} with a split that "
                    "has one."
                )
            count += of_source
    return count


# Volumes.


def read_volumes(
    data_dir: str | Path, task_name: str, source: str, split: str, task_file: str = ""
) -> Iterator[PreparedSubject]:
    """Yields the prepared subjects of a split; one at a time is in memory.

    Args:
        data_dir: folder of prepared records.
        task_name: the task.
        source: name of one of its sources.
        split: `train` or `test`.
        task_file: as for `prepare_command`.

    Raises:
        InputError: if the data is not prepared, or damaged.
    """
    path = prepared_dir(data_dir, task_name, source, "volumes", task_file)
    builder = open_builder(path)
    dataset = builder.as_dataset(split=split, read_config=tfds.ReadConfig(try_autocache=False))
    count = 0
    try:
        for record in tfds.as_numpy(dataset):
            count += 1
            yield parse_volume_record(record)
    except tf.errors.OpError as error:
        raise damaged_records(_find_damaged_shard(builder, split) or path) from error
    if count != builder.info.splits[split].num_examples:
        raise damaged_records(path)


def _find_damaged_shard(builder: tfds.core.DatasetBuilder, split: str) -> Path | None:
    """The first shard of a split that cannot be read to its end; None if all can."""
    for path in builder.info.splits[split].filepaths:
        try:
            for _ in tf.data.TFRecordDataset(str(path)):
                pass
        except tf.errors.OpError:
            return Path(path)
    return None


def read_selection(
    data_dir: str | Path, selection: TaskSelection, split: str
) -> Iterator[PreparedSubject]:
    """Yields the prepared subjects of a task's sources, one source after the other.

    If there are several sources, `SOURCE/` is put before a subject's name.

    Raises:
        InputError: if the data of a source is not prepared, or damaged, or has other classes than
            the task.
    """
    task = selection.task
    for source in selection.sources:
        require_same_classes(data_dir, task, source)
        for subject in read_volumes(data_dir, task.name, source, split, task.own_file):
            is_one = len(selection.sources) == 1
            name = subject.name if is_one else f"{source}/{subject.name}"
            yield dataclasses.replace(subject, name=name)


# Patches.


def index_patches(shard: Path) -> Iterator[npt.NDArray[np.int64]]:
    """Reads a shard of patch records once, and notes the class and the place of each sample.

    Args:
        shard: a TFRecord file of patch records.

    Yields:
        int64 (2, n) for the next n records: the task's own class index of each sample, and the
        offset in the file at which the bytes of its patches begin. They can be read from there
        without parsing the record.

    Raises:
        tf.errors.OpError: if a checksum is wrong, the file ends inside a record, or a record is
            not a patch record.
    """
    start = 0
    for records in tf.data.TFRecordDataset(str(shard), buffer_size=_INDEX_BUFFER_BYTES).batch(
        _INDEX_BATCH
    ):
        class_index, patches = parse_patch_records(records)
        encoded = records.numpy()
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        inside = np.fromiter(map(bytes.find, encoded, patches), np.int64, len(encoded))
        offsets, start = data_offsets(lengths, start)
        yield np.stack([class_index, offsets + inside])
