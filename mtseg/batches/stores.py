"""Where training patches come from: patch records on disk, or whole volumes in memory.

`PatchRecords` reads patches that were cut when the data was prepared: a limited number of each
subject and class, and little memory. `VolumePatches` holds the prepared volumes in memory and cuts
a patch at any voxel, as the paper does. Both are a `mtseg.batches.balance.PatchStore`.

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
from typing import Any

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


@dataclasses.dataclass(frozen=True, eq=False)
class PatchRecords:
    """The patch records of one source, read from disk in any order.

    Attributes:
        folder: folder of the shards, for messages.
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
        """Number of records of each class."""
        return np.array([rows.size for rows in self._rows_of_class], np.int64)

    def take(
        self,
        class_index: npt.NDArray[np.int64],
        turn: npt.NDArray[np.int64],
        draw: npt.NDArray[np.float64],
        key: tuple[int, ...],
        out: Sequence[npt.NDArray[np.float16]],
    ) -> None:
        """Reads the patches of samples by their turns, in passes over all records of a class.

        A pass has every record once, in an order that depends on `key`, the class and the number
        of the pass. `draw` is not used. See `mtseg.batches.balance.PatchStore`.
        """
        chosen = np.empty(len(turn), np.int64)
        for c in np.unique(class_index):
            rows = self._rows_of_class[c]
            number, position = np.divmod(turn, rows.size)  # of the pass, in the pass
            for n in np.unique(number[class_index == c]):
                mine = (class_index == c) & (number == n)
                order = _permute((*key, int(c), int(n)), rows.size)
                chosen[mine] = rows[order[position[mine]]]
        self.read(chosen, out)

    def read(self, rows: npt.NDArray[np.int64], out: Sequence[npt.NDArray[np.float16]]) -> None:
        """Reads the patches of some records.

        Args:
            rows: (n,), numbers of records, from 0.
            out: n arrays, float16 (3, 51, 51), to fill.

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
def _permute(key: tuple[int, ...], size: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(key).permutation(size)


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def open_patches(
    data_dir: str | Path, task_name: str, source: str, task_file: str = ""
) -> PatchRecords:
    """Opens the patch records of a source.

    All of them are read once, to compare their checksums and to note where their patches are. The
    shards stay open until the returned object is no longer used.

    Args:
        data_dir: folder of prepared records.
        task_name: the task.
        source: name of one of its sources.
        task_file: path of the task's file, for messages, if it does not come with mtseg.

    Raises:
        InputError: if the data is not prepared, a shard is damaged (the message names it), or
            there are more shards than files may be open.
    """
    folder = prepared_dir(data_dir, task_name, source, "patches", task_file)
    splits = open_builder(folder).info.splits
    paths = [Path(name) for name in splits["train"].filepaths] if "train" in splits else []
    columns: list[npt.NDArray[np.int64]] = []
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
    """Raises this process's limit of open files if it is too low for that many shards.

    Raises:
        InputError: if the system does not allow so many.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _OTHER_FILES
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise InputError(
            f"{folder}: has {count} shards, but only {hard} files may be open at once. Prepare "
            "it again: mtseg-prepare with --num-shards. Or raise the limit (ulimit -Hn)."
        )
    if soft != resource.RLIM_INFINITY and wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@dataclasses.dataclass(frozen=True, eq=False)
class VolumePatches:
    """The training volumes of one source in memory, and where the voxels of each class are.

    The samples of a class are its foreground voxels in all volumes, numbered volume by volume.

    Attributes:
        padded: the volumes, float16, each with zeros of half a patch around it.
        shapes: their shapes (I, J, K) without these zeros.
        voxels: for each class and each volume, flat indices of the class's foreground voxels.
        ends: for each class, int64 (volumes,), the number of its samples in this volume and those
            before it.
    """

    padded: tuple[npt.NDArray[np.float16], ...]
    shapes: tuple[tuple[int, ...], ...]
    voxels: tuple[tuple[npt.NDArray[np.unsignedinteger[Any]], ...], ...]
    ends: tuple[npt.NDArray[np.int64], ...]

    @property
    def num_samples(self) -> npt.NDArray[np.int64]:
        """Number of foreground voxels of each class in all volumes."""
        return np.array([ends[-1] for ends in self.ends], np.int64)

    def take(
        self,
        class_index: npt.NDArray[np.int64],
        turn: npt.NDArray[np.int64],
        draw: npt.NDArray[np.float64],
        key: tuple[int, ...],
        out: Sequence[npt.NDArray[np.float16]],
    ) -> None:
        """Cuts the patches of samples at random voxels of their classes.

        All voxels of a class are equally likely, and a voxel may be drawn again. `turn` and `key`
        are not used. See `mtseg.batches.balance.PatchStore`.
        """
        number = (draw * self.num_samples[class_index]).astype(np.int64)
        for patches, cut in zip(out, self.cut(class_index, number), strict=True):
            patches[...] = cut

    def cut(
        self, class_index: npt.NDArray[np.int64], number: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float16]:
        """Cuts the patches of some samples. Beyond the border of a volume they are 0.

        Args:
            class_index: (n,), the task's own class of each sample.
            number: (n,), each sample's number in its class, from 0.

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
    """Reads the training scans of a source into memory.

    They take about 6 bytes per voxel: 2 of the volume, and 4 for the place of a foreground voxel in
    its class. Voxels with the ignore label are never samples.

    Args:
        data_dir: folder of prepared records.
        task_name: the task.
        source: name of one of its sources.
        task_file: path of the task's file, for messages, if it does not come with mtseg.

    Raises:
        InputError: if the data is not prepared, or damaged, or has no training scan.
    """
    padded, shapes, of_scans = [], [], []
    for subject in read_volumes(data_dir, task_name, source, "train", task_file):
        padded.append(pad_volume(subject.image, dtype=np.float16))
        shapes.append(subject.image.shape)
        foreground = np.flatnonzero(subject.image > 0)
        classes = subject.class_index_map.ravel()[foreground]
        order = np.argsort(classes, kind="stable")
        kind = np.uint32 if subject.image.size < 2**32 else np.uint64
        # The ignore label is the largest, so its voxels come last in the order and are cut off.
        counts = np.bincount(classes, minlength=256)[:IGNORED]
        ends = np.cumsum(counts)
        of_scans.append(np.split(foreground[order].astype(kind)[: ends[-1]], ends[:-1]))
    if not padded:
        raise InputError(
            f"{data_dir}: has no training scan of {task_name}:{source}. Prepare it again: "
            f"{prepare_command(data_dir, task_name, source, task_file)} --overwrite"
        )
    by_class = list(zip(*of_scans, strict=True))
    shown = [c for c, voxels in enumerate(by_class) if any(v.size for v in voxels)]
    voxels = tuple(by_class[: max(shown, default=-1) + 1])
    ends_of_class = tuple(np.cumsum([v.size for v in of_class]) for of_class in voxels)
    return VolumePatches(tuple(padded), tuple(shapes), voxels, ends_of_class)
