"""Reading prepared volumes, and finding out what has been prepared.

Volumes are read through TFDS. Patches are read by `mtseg.batches.stores`, which indexes the shards
once and can then read any record at any time.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds

from mtseg.errors import InputError
from mtseg.records.schema import VERSION
from mtseg.sources.reading import PreparedSubject
from mtseg.tasks.label_space import LabelSpace, TaskSelection
from mtseg.tasks.task_file import GENERATED, shipped_tasks

OTHER_FILES = 512
"""Files that a process may have open beside its shards."""


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


def prepared_dir(
    data_dir: str | Path, task_name: str, source: str, kind: str, task_file: str = ""
) -> Path:
    """Where the records of a task's source are.

    Raises:
        InputError: if they have not been prepared; the message holds the command that does it.
    """
    path = Path(data_dir) / f"mtseg_{task_name}" / f"{source}_{kind}" / VERSION
    if not (path / "dataset_info.json").is_file():
        raise InputError(
            f"{data_dir}: has no prepared {kind} of {task_name}:{source}. "
            f"Run: {prepare_command(data_dir, task_name, source, task_file)}"
        )
    return path


def open_builder(path: Path) -> tfds.core.DatasetBuilder:
    """TFDS's view of a prepared folder, whose shards are those that its description names.

    Raises:
        InputError: if a file is missing, one is there that should not be, or one is unreadable.
    """
    try:
        builder = tfds.builder_from_directory(path)
        named = {Path(file) for split in builder.info.splits.values() for file in split.filepaths}
    except Exception as error:  # Whatever TFDS makes of descriptions that are not its own.
        raise damaged_records(path) from error
    there = set(path.glob("*.tfrecord*"))
    if missing := sorted(named - there):
        raise InputError(f"{missing[0]}: this shard of records is missing. {_PREPARE_AGAIN}")
    if unknown := sorted(there - named):
        raise InputError(
            f"{unknown[0]}: this shard of records is of no use here: dataset_info.json does not "
            f"name it. Remove it. Or: {_PREPARE_AGAIN}"
        )
    return builder


_PREPARE_AGAIN = "Prepare the task again: mtseg-prepare with --overwrite."


def damaged_records(path: Path) -> InputError:
    """What is said of records, or of what describes them, that cannot be read."""
    return InputError(f"{path}: these records are damaged. {_PREPARE_AGAIN}")


def find_damaged(builder: tfds.core.DatasetBuilder, split: str) -> Path | None:
    """The first shard of a split that cannot be read to its end."""
    for path in builder.info.splits[split].filepaths:
        try:
            for _ in tf.data.TFRecordDataset(str(path)):
                pass
        except tf.errors.OpError:
            return Path(path)
    return None


def prepared_settings(path: Path) -> dict[str, Any]:
    """The settings that the records in a prepared folder were made with.

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


def read_volumes(
    data_dir: str | Path, task_name: str, source: str, split: str, task_file: str = ""
) -> Iterator[PreparedSubject]:
    """Yields the prepared subjects of a split, one in memory at a time.

    Raises:
        InputError: if the data is not prepared, or damaged.
    """
    path = prepared_dir(data_dir, task_name, source, "volumes", task_file)
    builder = open_builder(path)
    dataset = builder.as_dataset(split=split, read_config=tfds.ReadConfig(try_autocache=False))
    count = 0
    try:
        for example in tfds.as_numpy(dataset):
            count += 1
            yield PreparedSubject(
                name=example["subject"].decode(),
                image=example["image"],
                class_index_map=example["class_index_map"],
                affine=example["affine"],
            )
    except tf.errors.OpError as error:
        raise damaged_records(find_damaged(builder, split) or path) from error
    if count != builder.info.splits[split].num_examples:
        raise damaged_records(path)


def read_selection(
    data_dir: str | Path, selection: TaskSelection, split: str
) -> Iterator[PreparedSubject]:
    """Yields the prepared subjects of a task's sources, one after the other.

    Where there are several sources, a subject's name begins with its source's.

    Raises:
        InputError: if one is not prepared.
    """
    for source in selection.sources:
        task = selection.task
        for subject in read_volumes(data_dir, task.name, source, split, task.own_file):
            is_one = len(selection.sources) == 1
            name = subject.name if is_one else f"{source}/{subject.name}"
            yield dataclasses.replace(subject, name=name)


def count_test_scans(data_dir: str | Path, label_space: LabelSpace) -> int:
    """How many test scans the tasks of a label space have together.

    Raises:
        InputError: if a task is not prepared, or has no test scan.
    """
    count = 0
    for selection in label_space.selections:
        for source in selection.sources:
            task = selection.task
            path = prepared_dir(data_dir, task.name, source, "volumes", task.own_file)
            splits = open_builder(path).info.splits
            of_source = splits["test"].num_examples if "test" in splits else 0
            if not of_source:
                raise InputError(
                    f"{path}: has no test scan. Prepare {task.name}:{source} with a "
                    "split that has one."
                )
            count += of_source
    return count
