"""Named values as a `tf.train.Example`: encoded fast and reproducibly, decoded without TensorFlow.

TensorFlow's own message class copies a value three times and does not always write the fields in
the same order. Here a value is copied once, and equal values always give equal bytes, so two
preparations of the same data can be compared file by file.

Reference: tensorflow/core/example/feature.proto; https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3
"""Field numbers in the message `Feature`. Each of these lists has its values in field 1."""

Value: TypeAlias = bytes | memoryview | npt.ArrayLike
"""What a field may have: bytes, or one or several integers or floats."""

_Part: TypeAlias = bytes | memoryview


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
        if byte < 128:
            numbers.append(number)
            number = shift = 0
    return np.array(numbers, np.uint64).astype(np.int64)
