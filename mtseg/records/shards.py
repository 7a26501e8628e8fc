"""Shard files: their two formats, and how staged files are put together into shards.

Read this when records are copied from file to file, or when the bytes of one record are looked up
in a shard. No TensorFlow is needed for either.

Patches are in TFRecord files. Such a file is a sequence of frames and nothing else, so a record is
copied together with its frame. A frame is the length of the data (8 bytes, little-endian), a
checksum of the length (4 bytes), the data, and a checksum of the data (4 bytes). There is no index
and no footer. What the data contain is the business of `mtseg.records.schema`.

Volumes are in array_record files, of the package of that name. They have an index and checksums,
and TFDS reads them with `as_data_source`. They are not compressed, so that their size is known
beforehand and reading takes no time of the processor.

Reference: tensorflow/core/lib/io/record_writer.h; https://github.com/google/array_record.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

TFRECORD, ARRAY_RECORD = "tfrecord", "array_record"
"""The two file formats, as TFDS names them, in its descriptions and in the names of shards."""

_LENGTH_BYTES = 8
_CHECKSUM_BYTES = 4
_HEADER_BYTES = _LENGTH_BYTES + _CHECKSUM_BYTES
"""Bytes of a frame before the data."""

_FRAME_BYTES = _HEADER_BYTES + _CHECKSUM_BYTES
"""Bytes of a frame without the data."""

_WRITE_BUFFER_BYTES = 2**22

_ARRAY_RECORD_WRITING = "group_size:1,uncompressed"
"""With one record in a group, a record is read without its neighbours."""

_BLOCK_BYTES = 2**16

_ARRAY_RECORD_READING = "readahead_buffer_size:0"
"""Without buffers: a record is read as a whole, and once."""


def find_frames(descriptor: int) -> npt.NDArray[np.int64]:
    """Finds the frames of a TFRecord file. Reads lengths only, and checks no checksum.

    Args:
        descriptor: of the open file.

    Returns:
        int64 (records, 2): for each record, the offset of its frame in the file and the frame's
        size, both in bytes. An empty file gives (0, 2).
    """
    frames = []
    offset, end = 0, os.fstat(descriptor).st_size
    while offset < end:
        length = int.from_bytes(os.pread(descriptor, _LENGTH_BYTES, offset), "little")
        frames.append((offset, length + _FRAME_BYTES))
        offset += length + _FRAME_BYTES
    return np.array(frames, np.int64).reshape(-1, 2)


def data_offsets(
    lengths: npt.NDArray[np.int64], start: int = 0
) -> tuple[npt.NDArray[np.int64], int]:
    """Computes where the data of consecutive records begin.

    Args:
        lengths: (n,), bytes of each record's data, without the frame.
        start: offset of the first frame in the file.

    Returns:
        `(offsets, end)`: int64 (n,), the offset of each record's data, and the offset of the frame
        that follows the last one.

    Example:
        >>> data_offsets(np.array([10, 20]))
        (array([12, 38]), 62)
    """
    ends = start + np.cumsum(lengths + _FRAME_BYTES)
    offsets = ends - lengths - (_FRAME_BYTES - _HEADER_BYTES)
    return offsets, int(ends[-1]) if len(ends) else start


def write_array_record(path: Path, records: Iterable[bytes]) -> None:
    """Writes an array_record file.

    Raises:
        RuntimeError: if it cannot be written.
    """
    writer = ArrayRecordWriter(str(path), _ARRAY_RECORD_WRITING)
    for record in records:
        writer.write(record)
    writer.close()


def read_array_record(path: Path) -> Iterator[bytes]:
    """Yields the records of an array_record file, in their order.

    Raises:
        RuntimeError: if it cannot be read, or a checksum is wrong.
    """
    reader = ArrayRecordReader(str(path), _ARRAY_RECORD_READING)
    for n in range(reader.num_records()):
        yield reader.read([n])[0]
    reader.close()


def array_record_bytes(data_bytes: int) -> int:
    """The size of an array_record file with one record of so many bytes.

    The format fills up blocks of 64 KB, and the index has one of its own.
    """
    return (math.ceil(data_bytes / _BLOCK_BYTES) + 1) * _BLOCK_BYTES


def link_shards(sources: Sequence[Path], shards: Sequence[Path]) -> tuple[list[int], int]:
    """Makes each file of records a shard by a hard link, or a copy if the disk has no links.

    Args:
        sources: files of records, in either format.
        shards: as many files to make.

    Returns:
        As `write_shards`. For array_record files the bytes are those of the files.
    """
    num_records, num_bytes = [], 0
    for source, shard in zip(sources, shards, strict=True):
        try:
            os.link(source, shard)
        except OSError:
            shutil.copyfile(source, shard)
        if source.suffix == f".{ARRAY_RECORD}":
            reader = ArrayRecordReader(str(source), _ARRAY_RECORD_READING)
            num_records.append(reader.num_records())
            reader.close()
            num_bytes += source.stat().st_size
            continue
        with source.open("rb") as file:
            frames = find_frames(file.fileno())
        num_records.append(len(frames))
        num_bytes += _count_data_bytes(frames)
    return num_records, num_bytes


def write_shards(
    sources: Sequence[Path], shards: Sequence[Path], rng: np.random.Generator
) -> tuple[list[int], int]:
    """Shuffles the records of several files and divides them equally among shards.

    Args:
        sources: files of records.
        shards: files to write. Their numbers of records differ by at most one.
        rng: decides the order of the records.

    Returns:
        `(num_records, num_bytes)`: how many records each shard has, and the bytes of the data of
        all of them, without frames.
    """
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(path.open("rb")).fileno() for path in sources]
        frames_of_file = [find_frames(file) for file in files]
        frames = np.concatenate(frames_of_file)
        file_of_frame = np.repeat(files, [len(found) for found in frames_of_file])
        parts = np.array_split(rng.permutation(len(frames)), len(shards))
        for path, part in zip(shards, parts, strict=True):
            with path.open("wb", buffering=_WRITE_BUFFER_BYTES) as shard:
                for n in part.tolist():
                    offset, size = frames[n]
                    shard.write(os.pread(file_of_frame[n], size, offset))
    return [len(part) for part in parts], _count_data_bytes(frames)


def _count_data_bytes(frames: npt.NDArray[np.int64]) -> int:
    return int((frames[:, 1] - _FRAME_BYTES).sum())
