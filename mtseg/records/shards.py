"""The bytes of records: their encoding, the two formats of shards, and how shards are put together.

Read this when records are copied from file to file, or when the bytes of one record are looked up
in a shard. No TensorFlow is needed for either.

Patches are in TFRecord files. Such a file is a sequence of frames and nothing else, so a record is
copied together with its frame. A frame is the length of the data (8 bytes, little-endian), a
checksum of the length (4 bytes), the data, and a checksum of the data (4 bytes). There is no index
and no footer. What the data contain is the business of `mtseg.records.schema`.

Volumes are in array_record files, of the package of that name. They have an index and checksums,
and TFDS reads them with `as_data_source`. They are not compressed, so that their size is known
beforehand and reading takes no time of the processor.

A record is named values, encoded as a `tf.train.Example`. TensorFlow's own message class copies a
value three times and does not always write the fields in the same order. Here a value is copied
once, and equal values always give equal bytes, so two preparations of the same data can be compared
file by file.

Reference: tensorflow/core/lib/io/record_writer.h; https://github.com/google/array_record;
tensorflow/core/example/feature.proto; https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

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

_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3
"""Field numbers in the message `Feature`. Each of these lists has its values in field 1."""

Value: TypeAlias = bytes | memoryview | npt.ArrayLike
"""What a field may have: bytes, or one or several integers or floats."""

_Part: TypeAlias = bytes | memoryview


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


def count_records(path: Path) -> int:
    """The number of records of a TFRecord file."""
    with path.open("rb") as file:
        return len(find_frames(file.fileno()))


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


def shuffle_rng(seed: int, num_files: int) -> np.random.Generator:
    """The generator with which the records of so many files are shuffled among shards."""
    return np.random.default_rng([seed, num_files])


def unshuffle_shards(
    shards: Sequence[Path],
    files: Sequence[Path | None],
    num_records: Sequence[int],
    rng: np.random.Generator,
) -> None:
    """Undoes `write_shards`: writes the files whose records were shuffled.

    Args:
        shards: all shards, in their order.
        files: the files to write, in the order in which they were shuffled; None leaves one out.
        num_records: how many records each file has, also those that are left out.
        rng: in the same state as for `write_shards`.

    Raises:
        ValueError: if the shards have another number of records.
    """
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(path.open("rb")).fileno() for path in shards]
        frames_of_shard = [find_frames(shard) for shard in opened]
        frames = np.concatenate(frames_of_shard)
        if len(frames) != sum(num_records):
            raise ValueError(f"{len(frames)} records in place of {sum(num_records)}")
        shard_of_frame = np.repeat(opened, [len(found) for found in frames_of_shard])
        place = np.argsort(rng.permutation(len(frames)))
        ends = np.cumsum(num_records)
        for path, count, end in zip(files, num_records, ends, strict=True):
            if path is None:
                continue
            with path.open("wb", buffering=_WRITE_BUFFER_BYTES) as file:
                for n in place[end - count : end].tolist():
                    offset, size = frames[n]
                    file.write(os.pread(shard_of_frame[n], size, offset))


def _count_data_bytes(frames: npt.NDArray[np.int64]) -> int:
    return int((frames[:, 1] - _FRAME_BYTES).sum())


# The encoding of a record.


def encode_example(values: Mapping[str, Value]) -> bytes:
    """Encodes an example, with the fields in alphabetical order.

    Args:
        values: name -> bytes, or integers or floats of any shape, which are stored in C order
            without the shape. Integers become int64, floats become float32: the message has no
            other types of numbers.

    Example:
        >>> encode_example({"a": b"xy"}).hex()
        '0a0d0a0b0a016112060a040a027879'
    """
    entries: list[_Part] = []
    for name in sorted(values):
        feature = _feature(values[name])
        entries += _message(1, [*_message(1, [name.encode()]), *_message(2, feature)])
    return b"".join(_message(1, entries))


def array_bytes(array: npt.NDArray[Any]) -> memoryview:
    """The bytes of an array in C order, without a copy if it is already stored in this order."""
    return np.ascontiguousarray(array).data.cast("B")


def _feature(value: Value) -> list[_Part]:
    if isinstance(value, (bytes, memoryview)):
        return _message(_BYTES_LIST, _message(1, [value]))
    array = np.atleast_1d(value)
    if array.dtype.kind == "f":
        return _message(_FLOAT_LIST, _message(1, [array.astype("<f4").tobytes()]))
    packed = b"".join(_varint(number) for number in array.ravel().tolist())
    return _message(_INT64_LIST, _message(1, [packed]))


def _message(field: int, parts: Sequence[_Part]) -> list[_Part]:
    """A length-delimited field: its number and wire type 2, its length in bytes, its content."""
    return [bytes([field << 3 | 2]) + _varint(sum(map(len, parts))), *parts]


def _varint(number: int) -> bytes:
    """Seven bits to a byte, the lowest first; the eighth bit says that more bytes follow."""
    number &= 2**64 - 1  # A negative number is written as its 64-bit two's complement.
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def decode_example(encoded: bytes) -> dict[str, memoryview | npt.NDArray[Any]]:
    """Decodes an example.

    Args:
        encoded: from `encode_example`, or from TensorFlow.

    Returns:
        name -> a view of the bytes, or float32 (n,) or int64 (n,). A field with several byte
        strings gives the last one: no record has several.

    Raises:
        ValueError: if it is not an example.

    Example:
        >>> bytes(decode_example(encode_example({"a": b"xy"}))["a"])
        b'xy'
    """
    values = {}
    for features in _contents(memoryview(encoded), 1):
        for entry in _contents(features, 1):
            (name,), (feature,) = _contents(entry, 1), _contents(entry, 2)
            values[str(name, "utf-8")] = _value(feature)
    return values


def _value(feature: memoryview) -> memoryview | npt.NDArray[Any]:
    for field, content in _fields(feature):
        parts = [part for number, part in _fields(content) if number == 1]
        if field == _BYTES_LIST:
            return parts[-1] if parts else memoryview(b"")
        if field == _FLOAT_LIST:
            return np.frombuffer(b"".join(parts), "<f4")
        if field == _INT64_LIST:
            return _decode_varints(b"".join(parts))
    return memoryview(b"")


def _contents(message: memoryview, field: int) -> list[memoryview]:
    return [content for number, content in _fields(message) if number == field]


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The number and the content of each field of a message.

    Raises:
        ValueError: if a field ends after the message, or is not length-delimited: an example has no
            other fields.
    """
    position = 0
    while position < len(message):
        if message[position] & 7 != 2:
            raise ValueError("not a tf.train.Example: a field of another type")
        field, length, shift, position = message[position] >> 3, 0, 0, position + 1
        while True:
            if position >= len(message) or shift > 63:
                raise ValueError("not a tf.train.Example: a length is not complete")
            byte, position = message[position], position + 1
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        if position + length > len(message):
            raise ValueError("not a tf.train.Example: a field is longer than its message")
        yield field, message[position : position + length]
        position += length


def _decode_varints(packed: bytes) -> npt.NDArray[np.int64]:
    numbers, number, shift = [], 0, 0
    for byte in packed:
        number |= (byte & 127) << shift
        shift += 7
        if number >= 2**64:
            raise ValueError("not a tf.train.Example: a number has more than 64 bits")
        if byte < 128:
            numbers.append(number)
            number = shift = 0
    if shift:
        raise ValueError("not a tf.train.Example: a number is not complete")
    return np.array(numbers, np.uint64).astype(np.int64)
