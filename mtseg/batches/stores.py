"""The two stores that training patches come from: patch records on disk, and volumes in memory.

`PatchRecords` reads patches that were cut when the data was prepared. `VolumePatches` holds whole
prepared volumes and cuts a patch at any voxel, as the paper draws them.

Reference: Moeskops et al., MICCAI 2016, section 3.2.
"""

from __future__ import annotations

import dataclasses
import os
import resource
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from mtseg.errors import InputError
from mtseg.records.reading import (
    OTHER_FILES,
    damaged_records,
    open_builder,
    prepare_command,
    prepared_dir,
    read_volumes,
)
from mtseg.records.schema import PATCH_SPEC
from mtseg.scans.patches import PATCH_SIZE, PLANES, cut_patches, pad_volume
from mtseg.tasks.task import IGNORED

_FRAME_BYTES = 16


_FOOTER_BYTES = 4
"""A TFRecord's framing: length (8) and its checksum (4) before the data, a checksum (4) after."""


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


def open_patches(
    data_dir: str | Path, task_name: str, source: str, task_file: str = ""
) -> PatchRecords:
    """Reads every patch record of a source once, checks its checksum and notes where it is.

    Raises:
        InputError: if the data is not prepared, or a shard is damaged (the message names it).
    """
    folder = prepared_dir(data_dir, task_name, source, "patches", task_file)
    splits = open_builder(folder).info.splits
    paths = [Path(name) for name in splits["train"].filepaths] if "train" in splits else []
    columns: list[np.ndarray] = []
    for number, path in enumerate(paths):
        try:
            of_shard = [np.insert(c, 1, number, axis=0) for c in _index_shard(path)]
        except tf.errors.OpError as error:
            raise damaged_records(path) from error
        if sum(c.shape[1] for c in of_shard) != splits["train"].shard_lengths[number]:
            raise damaged_records(path)
        columns += of_shard
    if not columns:
        raise InputError(
            f"{folder}: has no patch. Prepare it again: "
            f"{prepare_command(data_dir, task_name, source, task_file)} --overwrite"
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
    wanted = count + OTHER_FILES
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise InputError(
            f"{folder}: has {count} shards, where {hard} files may be open at once. Prepare it "
            "again: mtseg-prepare with --num-shards. Or raise the limit (ulimit -Hn)."
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


@dataclasses.dataclass(frozen=True)
class VolumePatches:
    """The training scans of one task, and where the voxels of each class are.

    Attributes:
        padded: float16, each scan with half a patch of zeros around it.
        shapes: of the scans without it.
        voxels: for each class, int64 flat indices of its foreground voxels in each scan.
        ends: for each class, int64 (scans,), how many voxels there are up to each scan's last.
    """

    padded: tuple[np.ndarray, ...]
    shapes: tuple[tuple[int, ...], ...]
    voxels: tuple[tuple[np.ndarray, ...], ...]
    ends: tuple[np.ndarray, ...]

    @property
    def num_voxels(self) -> tuple[int, ...]:
        """Foreground voxels of each class in all scans together."""
        return tuple(int(ends[-1]) for ends in self.ends)

    def cut(self, class_index: np.ndarray, number: np.ndarray) -> np.ndarray:
        """Cuts the patches of voxels that are given by their class and number in that class.

        Args:
            class_index: integers (n,), the task's own.
            number: integers (n,), from 0 to the class's `num_voxels`.

        Returns:
            float16 (n, 3, 51, 51).
        """
        patches = np.empty((len(number), len(PLANES), PATCH_SIZE, PATCH_SIZE), np.float16)
        scan, flat = np.empty((2, len(number)), np.int64)
        for sample, (c, n) in enumerate(zip(class_index, number, strict=True)):
            s = scan[sample] = np.searchsorted(self.ends[c], n, side="right")
            voxels = self.voxels[c][s]
            flat[sample] = voxels[n - (self.ends[c][s] - voxels.size)]
        for s in np.unique(scan):
            mine = np.flatnonzero(scan == s)
            index_ijk = np.stack(np.unravel_index(flat[mine], self.shapes[s]), axis=1)
            patches[mine] = cut_patches(self.padded[s], index_ijk)
        return patches


def open_volumes(
    data_dir: str | Path, task_name: str, source: str, task_file: str = ""
) -> VolumePatches:
    """Reads the training scans of a task into memory: about 6 bytes per voxel.

    Raises:
        InputError: if the task is not prepared, or has no training scan.
    """
    padded, shapes, of_scans = [], [], []
    for subject in read_volumes(data_dir, task_name, source, "train", task_file):
        padded.append(pad_volume(subject.image, dtype=np.float16))
        shapes.append(subject.image.shape)
        foreground = np.flatnonzero(subject.image > 0)
        classes = subject.class_index_map.ravel()[foreground]
        order = np.argsort(classes, kind="stable")
        kind = np.uint32 if subject.image.size < 2**32 else np.uint64
        counts = np.bincount(classes, minlength=256)[:IGNORED]  # the last in the order
        ends = np.cumsum(counts)
        of_scans.append(np.split(foreground[order].astype(kind)[: ends[-1]], ends[:-1]))
    if not padded:
        raise InputError(
            f"{data_dir}: has no training scan of {task_name}:{source}. Prepare it again: "
            f"{prepare_command(data_dir, task_name, source, task_file)} --overwrite"
        )
    by_class = [voxels for voxels in zip(*of_scans, strict=True)]
    last = max(c for c, voxels in enumerate(by_class) if any(v.size for v in voxels))
    voxels = tuple(by_class[: last + 1])
    ends = tuple(np.cumsum([v.size for v in of_class]) for of_class in voxels)
    return VolumePatches(tuple(padded), tuple(shapes), voxels, ends)
