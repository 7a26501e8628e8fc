"""Read prepared records: a data folder comes in, volumes or single patch records leave.

Volumes go through TFDS. Patches do not: their shards are indexed once, so that any record can be
had at any moment and a mini-batch is a function of its number alone.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from mtseg.errors import InputError
from mtseg.records import PATCH_SPEC, VERSION
from mtseg.subject import PreparedSubject
from mtseg.task_file import GENERATED, shipped_tasks
from mtseg.tasks import LabelSpace, TaskSelection

_FRAME_BYTES = 16
_FOOTER_BYTES = 4
"""A TFRecord's framing: length (8) and its checksum (4) before the data, a checksum (4) after."""

_OTHER_FILES = 512
"""Files that a process may have open beside its shards."""


def prepare_command(data_dir: str | Path, task_name: str, source: str) -> str:
    """What prepares a task's source, for a message; of a task file only the task is known here."""
    task = task_name if task_name in shipped_tasks() else "TASK_FILE.toml"
    manual_dir = "" if source == GENERATED else " --manual-dir FOLDER"
    return f"mtseg-prepare {task}:{source} --data-dir {data_dir}{manual_dir}"


def prepared_dir(data_dir: str | Path, task_name: str, source: str, kind: str) -> Path:
    """Where the records of a task's source are.

    Raises:
        InputError: if they have not been prepared; the message holds the command that does it.
    """
    path = Path(data_dir) / f"mtseg_{task_name}" / f"{source}_{kind}" / VERSION
    if not (path / "dataset_info.json").is_file():
        raise InputError(
            f"{data_dir}: holds no prepared {kind} of {task_name}:{source}. "
            f"Run: {prepare_command(data_dir, task_name, source)}"
        )
    return path


def _open(path: Path) -> tfds.core.DatasetBuilder:
    """TFDS's view of a prepared folder, whose shards are those that its description names.

    Raises:
        InputError: if a file is missing, one is there that should not be, or one is unreadable.
    """
    try:
        builder = tfds.builder_from_directory(path)
        named = {Path(file) for split in builder.info.splits.values() for file in split.filepaths}
    except Exception as error:  # Whatever TFDS makes of descriptions that are not its own.
        raise _damaged(path) from error
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


def _damaged(path: Path) -> InputError:
    """What is said of records, or of what describes them, that cannot be read."""
    return InputError(f"{path}: these records are damaged. {_PREPARE_AGAIN}")


def _find_damaged(builder: tfds.core.DatasetBuilder, split: str) -> Path | None:
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
        raise _damaged(file) from error
    if not isinstance(settings, dict):
        raise _damaged(file)
    return settings


def read_volumes(
    data_dir: str | Path, task_name: str, source: str, split: str
) -> Iterator[PreparedSubject]:
    """Yields the prepared subjects of a split, one in memory at a time.

    Raises:
        InputError: if the data is not prepared, or damaged.
    """
    path = prepared_dir(data_dir, task_name, source, "volumes")
    builder = _open(path)
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
        raise _damaged(_find_damaged(builder, split) or path) from error
    if count != builder.info.splits[split].num_examples:
        raise _damaged(path)


def read_selection(
    data_dir: str | Path, selection: TaskSelection, split: str
) -> Iterator[PreparedSubject]:
    """Yields the prepared subjects of a task's sources, one after the other.

    Where there are several sources, a subject's name begins with its source's.

    Raises:
        InputError: if one is not prepared.
    """
    for source in selection.sources:
        for subject in read_volumes(data_dir, selection.task.name, source, split):
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
            path = prepared_dir(data_dir, selection.task.name, source, "volumes")
            splits = _open(path).info.splits
            of_source = splits["test"].num_examples if "test" in splits else 0
            if not of_source:
                raise InputError(
                    f"{path}: holds no test scan. Prepare {selection.task.name}:{source} with a "
                    "split that has one."
                )
            count += of_source
    return count


@dataclasses.dataclass(frozen=True)
class PatchRecords:
    """The patch records of one task, any of them at once.

    Attributes:
        folder: where they are.
        shards: descriptors of the open shard files.
        class_index: int64 (n,), the task's own class of every record.
        shard: int64 (n,), the shard that holds it.
        offset: int64 (n,), where its patches' bytes begin in that shard.
    """

    folder: Path
    shards: tuple[int, ...]
    class_index: np.ndarray
    shard: np.ndarray
    offset: np.ndarray

    def read(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Reads the patches of some records.

        Args:
            rows: integers (n,).
            out: float16 (n, 3, 51, 51), or a list of n such arrays without the first axis; filled.

        Raises:
            InputError: if a shard has become shorter since it was opened.
        """
        for row, patches in zip(rows, out, strict=True):
            shard = self.shards[self.shard[row]]
            if os.preadv(shard, [patches.data], self.offset[row]) != patches.nbytes:
                raise InputError(
                    f"{self.folder}: a shard of records was changed while it was in use. Prepare "
                    "it again: mtseg-prepare with --overwrite."
                )


def open_patches(data_dir: str | Path, task_name: str, source: str) -> PatchRecords:
    """Reads every patch record of a source once, checks its checksum and notes where it is.

    Raises:
        InputError: if the data is not prepared, or a shard is damaged (the message names it).
    """
    folder = prepared_dir(data_dir, task_name, source, "patches")
    splits = _open(folder).info.splits
    paths = [Path(name) for name in splits["train"].filepaths] if "train" in splits else []
    columns: list[np.ndarray] = []
    for number, path in enumerate(paths):
        try:
            of_shard = [np.insert(c, 1, number, axis=0) for c in _index_shard(path)]
        except tf.errors.OpError as error:
            raise _damaged(path) from error
        if sum(c.shape[1] for c in of_shard) != splits["train"].shard_lengths[number]:
            raise _damaged(path)
        columns += of_shard
    if not columns:
        raise InputError(
            f"{folder}: holds no patch. Prepare it again: "
            f"{prepare_command(data_dir, task_name, source)} --overwrite"
        )
    class_index, shard, offset = np.concatenate(columns, axis=1)
    _allow_open_files(len(paths), folder)
    shards = tuple(os.open(path, os.O_RDONLY) for path in paths)
    records = PatchRecords(folder, shards, class_index, shard, offset)
    weakref.finalize(records, lambda: [os.close(shard) for shard in shards])
    return records


def _allow_open_files(count: int, folder: Path) -> None:
    """Has the system allow that many more open files, as far as it does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _OTHER_FILES
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise InputError(
            f"{folder}: has {count} shards, where {hard} files may be open at once. Prepare it "
            "again with --num-shards, or raise the limit (ulimit -Hn)."
        )
    if soft != resource.RLIM_INFINITY and wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _index_shard(path: Path) -> Iterator[np.ndarray]:
    """Yields int64 (2, n): class index and offset of the patches of the next n records."""
    position = 0
    for batch in tf.data.TFRecordDataset(str(path), buffer_size=2**23).batch(512):
        fields = tf.io.parse_example(batch, PATCH_SPEC)
        examples = batch.numpy()
        # The bytes stand in the example as they are, so they can be read without parsing it again.
        inside = np.array(list(map(bytes.find, examples, fields["patches"].numpy())))
        length = np.array(list(map(len, examples)))
        starts = position + np.cumsum(length + _FRAME_BYTES) - length - _FOOTER_BYTES
        position = int(starts[-1] + length[-1] + _FOOTER_BYTES)
        yield np.stack([fields["class_index"].numpy(), starts + inside])
