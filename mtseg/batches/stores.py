"""The two stores that training patches come from: patch records on disk, and volumes in memory.

`PatchRecords` reads patches that were cut when the data was prepared. `VolumePatches` holds whole
prepared volumes and cuts a patch at any voxel, as the paper draws them.

Reference: Moeskops et al., MICCAI 2016, section 3.2.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import resource
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from mtseg.errors import InputError
from mtseg.records.reading import (
    damaged_records,
    index_patches,
    open_builder,
    prepare_command,
    prepared_dir,
    read_volumes,
)
from mtseg.scans.patches import PATCH_SIZE, PLANES, cut_patches, pad_volume
from mtseg.tasks.task import IGNORED

_OTHER_FILES = 512
"""Files that a process may have open beside its shards."""


class PatchStore(Protocol):
    """The training samples of one source: what `mtseg.batches.balance` draws from."""

    @property
    def num_samples(self) -> npt.NDArray[np.int64]:
        """Number of different samples of each class, by the task's own class index.

        Classes after the last one that the source shows may be missing.
        """

    def take(
        self,
        class_index: npt.NDArray[np.int64],
        turn: npt.NDArray[np.int64],
        draw: npt.NDArray[np.float64],
        key: tuple[int, ...],
        out: Sequence[npt.NDArray[np.float16]],
    ) -> None:
        """Reads the patches of some samples.

        Args:
            class_index: (n,), the task's own class of each sample.
            turn: (n,), how many samples of that class the source has given before.
            draw: (n,), random numbers from 0 to 1.
            key: numbers that identify this source in this run.
            out: n arrays, float16 (3, 51, 51); filled.
        """


@dataclasses.dataclass(frozen=True, eq=False)
class PatchRecords:
    """The patch records of one source; any of them can be read at any time.

    Attributes:
        folder: where they are.
        shards: descriptors of the open shard files.
        class_index: int64 (n,), the task's own class of every record.
        shard: int64 (n,), the shard of every record.
        offset: int64 (n,), where the bytes of its patches begin in that shard.
    """

    folder: Path
    shards: tuple[int, ...]
    class_index: npt.NDArray[np.int64]
    shard: npt.NDArray[np.int64]
    offset: npt.NDArray[np.int64]

    @functools.cached_property
    def _rows_of_class(self) -> list[npt.NDArray[np.int64]]:
        num_classes = int(self.class_index.max()) + 1
        return [np.flatnonzero(self.class_index == c) for c in range(num_classes)]

    @property
    def num_samples(self) -> npt.NDArray[np.int64]:
        """As `PatchStore` says."""
        return np.array([rows.size for rows in self._rows_of_class], np.int64)

    def take(
        self,
        class_index: npt.NDArray[np.int64],
        turn: npt.NDArray[np.int64],
        draw: npt.NDArray[np.float64],
        key: tuple[int, ...],
        out: Sequence[npt.NDArray[np.float16]],
    ) -> None:
        """As `PatchStore` says: every pass over a class reads each of its records once.

        The order within a pass follows from `key`, the class and the number of the pass.
        """
        chosen = np.empty(len(turn), np.int64)
        for c in np.unique(class_index):
            rows = self._rows_of_class[c]
            number, position = np.divmod(turn, rows.size)
            for n in np.unique(number[class_index == c]):
                mine = (class_index == c) & (number == n)
                order = _permutation((*key, int(c), int(n)), rows.size)
                chosen[mine] = rows[order[position[mine]]]
        self.read(chosen, out)

    def read(self, rows: npt.NDArray[np.int64], out: Sequence[npt.NDArray[np.float16]]) -> None:
        """Reads the patches of some records.

        Args:
            rows: (n,), numbers of records.
            out: n arrays, float16 (3, 51, 51); filled.

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


@functools.lru_cache(maxsize=256)
def _permutation(key: tuple[int, ...], size: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(key).permutation(size)


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


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
            of_shard = [np.insert(c, 1, number, axis=0) for c in index_patches(path)]
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
    weakref.finalize(records, _close_all, shards)
    return records


def _allow_open_files(count: int, folder: Path) -> None:
    """Has the system allow that many more open files, as far as it does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _OTHER_FILES
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise InputError(
            f"{folder}: has {count} shards, where {hard} files may be open at once. Prepare it "
            "again: mtseg-prepare with --num-shards. Or raise the limit (ulimit -Hn)."
        )
    if soft != resource.RLIM_INFINITY and wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@dataclasses.dataclass(frozen=True, eq=False)
class VolumePatches:
    """The training volumes of one source in memory, and where the voxels of each class are.

    Attributes:
        padded: float16, each volume with zeros of half a patch around it.
        shapes: shapes of the volumes without these zeros.
        voxels: for each class, flat indices of its foreground voxels in each volume.
        ends: for each class, int64 (volumes,), number of its voxels up to the end of each volume.
    """

    padded: tuple[npt.NDArray[np.float16], ...]
    shapes: tuple[tuple[int, ...], ...]
    voxels: tuple[tuple[npt.NDArray[np.unsignedinteger[Any]], ...], ...]
    ends: tuple[npt.NDArray[np.int64], ...]

    @property
    def num_samples(self) -> npt.NDArray[np.int64]:
        """As `PatchStore` says: the foreground voxels of each class in all volumes."""
        return np.array([ends[-1] for ends in self.ends], np.int64)

    def take(
        self,
        class_index: npt.NDArray[np.int64],
        turn: npt.NDArray[np.int64],
        draw: npt.NDArray[np.float64],
        key: tuple[int, ...],
        out: Sequence[npt.NDArray[np.float16]],
    ) -> None:
        """As `PatchStore` says: every voxel of a class is equally likely, each time anew."""
        number = (draw * self.num_samples[class_index]).astype(np.int64)
        for patches, cut in zip(out, self.cut(class_index, number), strict=True):
            patches[...] = cut

    def cut(
        self, class_index: npt.NDArray[np.int64], number: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float16]:
        """Cuts the patches of voxels that are given by their class and number in that class.

        Args:
            class_index: (n,), the task's own class index.
            number: (n,), from 0 to the class's number of samples.

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
    by_class = list(zip(*of_scans, strict=True))
    last = max(c for c, voxels in enumerate(by_class) if any(v.size for v in voxels))
    voxels = tuple(by_class[: last + 1])
    ends_of_class = tuple(np.cumsum([v.size for v in of_class]) for of_class in voxels)
    return VolumePatches(tuple(padded), tuple(shapes), voxels, ends_of_class)
