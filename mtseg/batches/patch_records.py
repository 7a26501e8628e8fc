"""Training patches that were cut when the data was prepared: patch records, read from disk.

They are a limited number of each subject and class, so a run draws each of them again and again.
They need little memory, and can be streamed from the shared disk of a cluster.

Reference: Moeskops et al., MICCAI 2016, section 3.2.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from mtseg.errors import InputError
from mtseg.provenance.verified import describe_files, recall, remember
from mtseg.records.prepared import damaged_records, prepare_again, prepare_command, prepared_dir
from mtseg.records.reading import SplitFiles, find_shards, index_patches
from mtseg.records.shards import TFRECORD
from mtseg.system.hardware import allow_open_files

_VERIFIED = "verified.npz"
"""The file in a folder of patch records that remembers what was read of each shard."""

_OTHER_FILES = 512
"""Files that a process may have open beside its shards."""


@dataclasses.dataclass(frozen=True, eq=False)
class PatchRecords:
    """The patch records of one source, read from disk in any order.

    Attributes:
        folder: folder of the shards, for messages.
        shards: descriptors of the open shard files.
        class_index: int64 (n,), the task's own class of every record.
        scan: int64 (n,), the number of the scan that every record was cut from.
        shard: int64 (n,), the shard of every record.
        offset: int64 (n,), where the bytes of its patches begin in that shard.
    """

    folder: Path
    shards: tuple[int, ...]
    class_index: npt.NDArray[np.int64]
    scan: npt.NDArray[np.int64]
    shard: npt.NDArray[np.int64]
    offset: npt.NDArray[np.int64]

    @functools.cached_property
    def _rows_of_class(self) -> list[npt.NDArray[np.int64]]:
        num_classes = int(self.class_index.max(initial=-1)) + 1
        return [np.flatnonzero(self.class_index == c) for c in range(num_classes)]

    @property
    def num_samples(self) -> npt.NDArray[np.int64]:
        """Number of records of each class."""
        return np.array([rows.size for rows in self._rows_of_class], np.int64)

    @property
    def num_scans(self) -> npt.NDArray[np.int64]:
        """Number of scans that have a record of each class."""
        shown = [np.unique(self.scan[rows]).size for rows in self._rows_of_class]
        return np.array(shown, np.int64)

    def take(
        self,
        class_index: npt.NDArray[np.int64],
        turn: npt.NDArray[np.int64],
        draw: npt.NDArray[np.float64],
        key: tuple[int, ...],
        out: Sequence[npt.NDArray[np.float16]],
        transforms: npt.NDArray[np.float64] | None = None,
    ) -> None:
        """Reads the patches of samples by their turns, in passes over all records of a class.

        A pass has every record once, in an order that depends on `key`, the class and the number
        of the pass. `draw` is not used. See `mtseg.batches.balance.PatchStore`.
        """
        if transforms is not None:
            raise ValueError("patches that were cut before cannot be turned")
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
                    f"{self.folder}: a shard of records was changed while it was in use. "
                    f"{prepare_again(self.folder)}"
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

    The first time, all of them are read, to compare their checksums and to note where their patches
    are. The folder of the records remembers that; later only shards that have changed are read. The
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
    files = find_shards(folder).get("train", SplitFiles(TFRECORD))
    columns = _index_shards(folder, files)
    if not columns:
        raise InputError(
            f"{folder}: has no patch. Prepare it again: "
            f"{prepare_command(data_dir, task_name, source, 'patches', task_file)} --overwrite"
        )
    class_index, scan, shard, offset = np.concatenate(columns, axis=1)
    count = len(files.paths)
    allow_open_files(
        count,
        _OTHER_FILES,
        f"{folder}: has {count} shards",
        "Prepare it again: mtseg-prepare with --kinds patches --num-shards N. Or raise the limit "
        "(ulimit -Hn).",
    )
    shards = tuple(os.open(path, os.O_RDONLY) for path in files.paths)
    records = PatchRecords(folder, shards, class_index, scan, shard, offset)
    weakref.finalize(records, _close_all, shards)
    return records


def _index_shards(folder: Path, files: SplitFiles) -> list[npt.NDArray[np.int64]]:
    """Class, scan, shard and offset of the records of each shard, int64 (4, n).

    Raises:
        InputError: if a shard is damaged, or has another number of records than is described.
    """
    states = describe_files(files.paths)
    known = recall(folder / _VERIFIED, states)
    indices: dict[str, dict[str, npt.NDArray[Any]]] = {}
    for path, num_records in zip(files.paths, files.num_records, strict=True):
        try:
            index = known[path.name] if path.name in known else _read_index(path)
        except tf.errors.OpError as error:
            raise damaged_records(path) from error
        if len(index["class_index"]) != num_records:
            raise damaged_records(path)
        indices[path.name] = index
    if known.keys() != indices.keys():
        remember(folder / _VERIFIED, states, indices)
    scans: dict[str, int] = {}
    columns = []
    for number, index in enumerate(indices.values()):
        places = [scans.setdefault(name, len(scans)) for name in index["subjects"].tolist()]
        scan = np.array(places, np.int64)[index["subject"]]
        shard = np.full(len(scan), number)
        columns.append(np.stack([index["class_index"], scan, shard, index["offset"]]))
    return columns


def _read_index(path: Path) -> dict[str, npt.NDArray[Any]]:
    """What is remembered of a shard: class, subject and offset of each record.

    Returns:
        int64 (n,) each; `subject` is a place in `subjects`, the names in the order in which they
        first occur.
    """
    names: dict[bytes, int] = {}
    parts = [
        np.stack([class_index, [names.setdefault(n, len(names)) for n in subject], offset])
        for class_index, subject, offset in index_patches(path)
    ]
    columns = np.concatenate(parts, axis=1) if parts else np.empty((3, 0), np.int64)
    index = dict(zip(("class_index", "subject", "offset"), columns, strict=True))
    return index | {"subjects": np.array([name.decode() for name in names], np.str_)}
