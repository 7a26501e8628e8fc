"""Reading prepared records, and finding out what has been prepared, and from what.

Volumes are read one after the other, without TensorFlow. Patches are read at random by
`mtseg.batches.patch_records`; `index_patches` tells it where they are in a shard.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.provenance.differences import list_task_differences
from mtseg.provenance.fingerprint import Fingerprint, read_fingerprint
from mtseg.provenance.training_data import check_training_data, list_record_changes, list_stale
from mtseg.records.prepared import (
    damaged_records,
    finish_replacing_records,
    prepare_again,
    prepared_dir,
    prepared_settings,
    records_dir,
    staging_dir,
)
from mtseg.records.schema import (
    CLASS_NAMES_FILE,
    DEFAULT_KINDS,
    SPLITS,
    parse_patch_records,
    parse_volume_record,
)
from mtseg.records.shards import ARRAY_RECORD, TFRECORD, data_offsets, read_array_record
from mtseg.sources.subject import PreparedSubject
from mtseg.system.atomic_files import parse_json
from mtseg.tasks.label_space import LabelSpace, TaskSelection
from mtseg.tasks.task import Task

_INDEX_BATCH = 512
"""Records that `index_patches` parses at once."""

_INDEX_BUFFER_BYTES = 2**23


# Finding what has been prepared.


@dataclasses.dataclass(frozen=True)
class SplitFiles:
    """The shards of one split, as TFDS's description lists them.

    Attributes:
        file_format: `TFRECORD` or `ARRAY_RECORD` of `mtseg.records.shards`.
        paths: of the shards.
        num_records: in each of them.
        num_bytes: of all records together.
    """

    file_format: str
    paths: tuple[Path, ...] = ()
    num_records: tuple[int, ...] = ()
    num_bytes: int = 0


def find_shards(path: Path) -> dict[str, SplitFiles]:
    """Reads the description of a folder of records, and checks that its shards exist.

    TFDS is not needed: `dataset_info.json` is TFDS's, in the form that it writes by default.

    Args:
        path: the folder.

    Returns:
        Name of a split -> its shards.

    Raises:
        InputError: if a shard is missing, one is not in the description, or the description
            cannot be read.
    """
    try:
        info = parse_json((path / "dataset_info.json").read_text())
        parse_json((path / "features.json").read_text())["featuresDict"]
        splits = {split["name"]: _describe_split(path, info, split) for split in info["splits"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged_records(path) from error
    described = {shard for split in splits.values() for shard in split.paths}
    found = {file for kind in (TFRECORD, ARRAY_RECORD) for file in path.glob(f"*.{kind}*")}
    if missing := sorted(described - found):
        raise InputError(f"{missing[0]}: this shard of records is missing. {prepare_again(path)}")
    if unknown := sorted(found - described):
        raise InputError(
            f"{unknown[0]}: this shard is not listed in dataset_info.json, so its records belong "
            f"to other data. Remove it. Or: {prepare_again(path)}"
        )
    return splits


def _describe_split(path: Path, info: dict[str, Any], split: dict[str, Any]) -> SplitFiles:
    file_format = info.get("fileFormat", TFRECORD)
    if file_format not in (TFRECORD, ARRAY_RECORD):
        raise ValueError(f"records in {file_format}, which mtseg does not write")
    num_records = tuple(int(count) for count in split["shardLengths"])
    stem = f"{info['name']}-{split['name']}.{file_format}"
    names = [f"{stem}-{n:05d}-of-{len(num_records):05d}" for n in range(len(num_records))]
    paths = tuple(path / name for name in names)
    return SplitFiles(file_format, paths, num_records, int(split.get("numBytes", 0)))


def count_scans(data_dir: str | Path, label_space: LabelSpace, split: str) -> dict[str, int]:
    """How many scans of a split each task of a label space has, from the records' descriptions.

    No record is opened. Records made before there was a split have no scan of it.

    Args:
        data_dir: folder of prepared records.
        label_space: the tasks.
        split: `train`, `validation` or `test`.

    Raises:
        InputError: if a task is not prepared, or a description is damaged.
    """
    counts = {}
    for selection in label_space.selections:
        task = selection.task
        counts[task.name] = 0
        for source in selection.sources:
            path = prepared_dir(data_dir, task.name, source, "volumes", task.own_file)
            splits = find_shards(path)
            counts[task.name] += sum(splits[split].num_records) if split in splits else 0
    return counts


def require_scans(data_dir: str | Path, label_space: LabelSpace, split: str) -> int:
    """The number of scans of a split, over all tasks, each of which must have one.

    Raises:
        InputError: as `count_scans`, or if a task has no scan of this split.
    """
    counts = count_scans(data_dir, label_space, split)
    for selection in label_space.selections:
        if not counts[selection.task.name]:
            raise InputError(
                f"{data_dir}: {selection.spec} has no {split} scan. Prepare the task with a split "
                "that has one, or use another split."
            )
    return sum(counts.values())


def read_members(data_dir: str | Path, label_space: LabelSpace) -> dict[str, Any]:
    """Who is in which split: `TASK:SOURCE` -> `origin` and the names of each split.

    Returns:
        None in place of the names for records that were prepared before these were stored.

    Raises:
        InputError: if a task is not prepared, or its metadata cannot be read.
    """
    members = {}
    for selection in label_space.selections:
        task = selection.task
        for source in selection.sources:
            path = prepared_dir(data_dir, task.name, source, "volumes", task.own_file)
            members[f"{task.name}:{source}"] = prepared_settings(path).get("split")
    return members


# Volumes.


def read_volumes(
    data_dir: str | Path, task_name: str, source: str, split: str, task_file: str = ""
) -> Iterator[PreparedSubject]:
    """Yields the prepared subjects of a split; one at a time is in memory.

    Records without this split yield nothing.

    Args:
        data_dir: folder of prepared records.
        task_name: the task.
        source: name of one of its sources.
        split: `train`, `validation` or `test`.
        task_file: as for `prepare_command`.

    Raises:
        InputError: if the data is not prepared, or damaged.
    """
    path = prepared_dir(data_dir, task_name, source, "volumes", task_file)
    files = find_shards(path).get(split)
    if files is None:
        return
    read = read_array_record if files.file_format == ARRAY_RECORD else _read_tfrecord
    for shard, num_records in zip(files.paths, files.num_records, strict=True):
        count = 0
        try:
            for encoded in read(shard):
                count += 1
                yield parse_volume_record(encoded)
        except (RuntimeError, ValueError) as error:
            raise damaged_records(shard) from error
        if count != num_records:
            raise damaged_records(shard)


def _read_tfrecord(shard: Path) -> Iterator[bytes]:
    """Yields the records of a TFRECORD file, in which volumes were written before.

    Raises:
        RuntimeError: if a checksum is wrong, or the file ends inside a record.
    """
    import tensorflow as tf

    try:
        for record in tf.data.TFRecordDataset(str(shard)):
            yield record.numpy()
    except tf.errors.OpError as error:
        raise RuntimeError(str(error)) from error


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
        require_same_task(data_dir, task, source, "volumes")
        for subject in read_volumes(data_dir, task.name, source, split, task.own_file):
            is_one = len(selection.sources) == 1
            name = subject.name if is_one else f"{source}/{subject.name}"
            yield dataclasses.replace(subject, name=name)


# Patches.


def index_patches(
    shard: Path,
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.object_], npt.NDArray[np.int64]]]:
    """Reads a shard of patch records once, and notes the class and the place of each sample.

    Args:
        shard: a TFRecord file of patch records.

    Yields:
        `(class_index, subject, offset)` of the next n records: int64 (n,), the task's own class
        index of each sample; n names of subjects, as bytes; int64 (n,), where in the file the
        bytes of its patches begin. They can be read from there without parsing the record.

    Raises:
        tf.errors.OpError: if a checksum is wrong, the file ends inside a record, or a record is
            not a patch record.
    """
    import tensorflow as tf

    start = 0
    for records in tf.data.TFRecordDataset(str(shard), buffer_size=_INDEX_BUFFER_BYTES).batch(
        _INDEX_BATCH
    ):
        class_index, subject, patches = parse_patch_records(records)
        encoded = records.numpy()
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        inside = np.fromiter(map(bytes.find, encoded, patches), np.int64, len(encoded))
        offsets, start = data_offsets(lengths, start)
        yield class_index, subject, offsets + inside


# What they were made from.


def require_same_task(data_dir: str | Path, task: Task, source: str, kind: str) -> None:
    """Refuses records that were prepared for another definition of the task.

    This happens if a task file is edited after its records were prepared, or another task has the
    same name. Without a fingerprint, only the names of the classes are compared, and only if there
    are patch records.

    Raises:
        InputError: if classes, their order, the voxel size, the modality, or what labels mean
            differ.
    """
    finish_replacing_records(staging_dir(data_dir, task.name, source))
    folder = records_dir(data_dir, task.name, source, kind)
    stored = read_fingerprint(folder)
    if stored is not None:
        texts = list_task_differences(stored, task)
    else:
        texts = _class_differences(records_dir(data_dir, task.name, source, "patches"), task)
    if texts:
        kinds = "" if kind in DEFAULT_KINDS else f" --kinds {kind},volumes"
        raise InputError(
            f"{folder}: was prepared for another definition of the task: {'; '.join(texts)}. "
            f"mtseg-prepare with --update{kinds} brings the records up to date; or take the task "
            "as it was."
        )


def _class_differences(folder: Path, task: Task) -> list[str]:
    """Compares the names that TFDS stores beside patch records."""
    try:
        stored = (folder / CLASS_NAMES_FILE).read_text().splitlines()
    except OSError:
        return []
    except ValueError as error:
        raise damaged_records(folder) from error
    if stored == list(task.class_names):
        return []
    return [f"classes are {', '.join(task.class_names)}, were {', '.join(stored)}"]


def read_fingerprints(
    data_dir: str | Path, label_space: LabelSpace, kind: str
) -> tuple[list[Fingerprint], list[str]]:
    """What the prepared records of all tasks were made from.

    Args:
        data_dir: folder of prepared records.
        label_space: the tasks and their sources.
        kind: `patches` or `volumes`.

    Returns:
        The fingerprints, and a line for records that have none.

    Raises:
        InputError: if records are not prepared, or a fingerprint cannot be read.
    """
    prints, without = [], []
    for selection in label_space.selections:
        task = selection.task
        for source in selection.sources:
            folder = prepared_dir(data_dir, task.name, source, kind, task.own_file)
            stored = read_fingerprint(folder)
            if stored is None:
                without.append(f"{task.name}:{source}")
            else:
                prints.append(stored)
    lines = []
    if without:
        lines.append(
            f"{', '.join(without)}: these {kind} carry no fingerprint, so it is not known what "
            "they were made from. mtseg-prepare with --update gives them one."
        )
    return prints, lines


def require_unchanged(
    data_dir: str | Path, label_space: LabelSpace, before: Sequence[Fingerprint]
) -> None:
    """Checks that the records in a data folder still have the fingerprints `before`.

    Raises:
        InputError: if somebody has prepared them again.
    """
    for kind in sorted({print_.kind for print_ in before}):
        of_kind = [print_ for print_ in before if print_.kind == kind]
        now, _ = read_fingerprints(data_dir, label_space, kind)
        if texts := list_record_changes(of_kind, now, SPLITS[kind]):
            raise InputError(
                f"{data_dir}: records were prepared again while this command read them: "
                f"{'; '.join(texts)}. Rerun the command."
            )


def check_training_records(
    data_dir: str | Path, label_space: LabelSpace, kind: str
) -> tuple[list[Fingerprint], list[Fingerprint], list[str]]:
    """Checks the records of a run before it is trained.

    Args:
        data_dir: folder of prepared records.
        label_space: the tasks and their sources.
        kind: what the run is trained on, `patches` or `volumes`.

    Returns:
        The fingerprints of the records that it is trained on, those of the volumes that it scores,
        and lines to print: records without a fingerprint, and scans that have changed since they
        were prepared.

    Raises:
        InputError: if records are not prepared, patches and volumes were made from different
            subjects, or a scan of a task is on both sides of the split.
    """
    trained, lines = read_fingerprints(data_dir, label_space, kind)
    scored = trained
    if kind != "volumes":
        scored, _ = read_fingerprints(data_dir, label_space, "volumes")
    lines += check_training_data(trained, scored)
    lines += list_stale(trained, [selection.task for selection in label_space.selections])
    return trained, scored, lines
