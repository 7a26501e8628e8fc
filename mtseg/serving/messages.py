"""The messages of TensorFlow Serving's `PredictionService`, without TensorFlow.

The official Python package of these messages needs all of TensorFlow. Here are the fields that the
client uses; their numbers are those of `tensorflow_serving/apis/predict.proto`, `model.proto`, and
TensorFlow's `tensor.proto` and `tensor_shape.proto`. Begin with `encode_request` and
`decode_response`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_PACKAGE = "mtseg.serving"

_STRING = 7
"""TensorFlow's number of a type whose values are bytes of any length."""

_NUMBERS: dict[np.dtype[Any], int] = {
    np.dtype(np.float32): 1, np.dtype(np.float64): 2, np.dtype(np.int32): 3, np.dtype(np.uint8): 4,
    np.dtype(np.int16): 5, np.dtype(np.int8): 6, np.dtype(np.int64): 9, np.dtype(np.bool_): 10,
    np.dtype(np.float16): 19,
}  # fmt: skip
"""Type of an array -> TensorFlow's number of it."""

_TYPES = {number: dtype for dtype, number in _NUMBERS.items()}

_VALUE_FIELDS = {
    1: "float_val", 2: "double_val", 3: "int_val", 4: "int_val", 5: "int_val", 6: "int_val",
    7: "string_val", 9: "int64_val", 10: "bool_val", 19: "half_val",
}  # fmt: skip
"""TensorFlow's number of a type -> the field that holds its values one by one."""

_FIELDS: dict[str, dict[str, tuple[int, str]]] = {
    "Dim": {"size": (1, "int64")},
    "TensorShape": {"dim": (2, "Dim*")},
    "Tensor": {
        "dtype": (1, "int32"),
        "tensor_shape": (2, "TensorShape"),
        "tensor_content": (4, "bytes"),
        # Packed numbers of four and eight bytes are read as the bytes that they are, which is many
        # times as fast as one by one.
        "float_val": (5, "bytes*"),
        "double_val": (6, "bytes*"),
        "int_val": (7, "int32*"),
        "string_val": (8, "bytes*"),
        "int64_val": (10, "int64*"),
        "bool_val": (11, "bool*"),
        "half_val": (13, "int32*"),
    },
    # A map is a list of keys with their values.
    "Item": {"key": (1, "string"), "value": (2, "Tensor")},
    "Version": {"value": (1, "int64")},
    "ModelSpec": {
        "name": (1, "string"),
        "version": (2, "Version"),
        "signature_name": (3, "string"),
    },
    "PredictRequest": {
        "model_spec": (1, "ModelSpec"),
        "inputs": (2, "Item*"),
        "output_filter": (3, "string*"),
    },
    "PredictResponse": {"outputs": (1, "Item*"), "model_spec": (2, "ModelSpec")},
}
"""Message -> its fields, each with its number and type; `*` for any number of values."""


def encode_request(
    model: str,
    version: int | None,
    signature: str,
    inputs: Mapping[str, npt.NDArray[Any]],
    outputs: Sequence[str],
) -> bytes:
    """The bytes of a `PredictRequest`.

    Args:
        model: name of the model.
        version: its version; None is the newest.
        signature: name of the signature.
        inputs: input name -> array of numbers.
        outputs: names of the outputs to return.
    """
    message = _messages()["PredictRequest"]()
    message.model_spec.name = model
    message.model_spec.signature_name = signature
    if version is not None:
        message.model_spec.version.value = version
    for name, array in inputs.items():
        item = message.inputs.add(key=name)
        item.value.dtype = _NUMBERS[array.dtype]
        for size in array.shape:
            item.value.tensor_shape.dim.add(size=size)
        item.value.tensor_content = array.tobytes()
    message.output_filter.extend(outputs)
    body: bytes = message.SerializeToString()
    return body


def decode_response(body: bytes) -> tuple[dict[str, npt.NDArray[Any]], int | None]:
    """The arrays of a `PredictResponse` by output, and the version that computed them, if it says.

    Raises:
        ValueError: if it is no such message, or a tensor in it is not valid.
    """
    from google.protobuf.message import DecodeError

    try:
        message = _messages()["PredictResponse"].FromString(body)
        outputs = {item.key: _to_array(item.value) for item in message.outputs}
    except DecodeError as error:
        raise ValueError("it is no protocol buffer") from error
    except OverflowError as error:
        raise ValueError("a number is out of the range of its type") from error
    has_version = message.model_spec.HasField("version")
    return outputs, message.model_spec.version.value if has_version else None


def _to_array(tensor: Any) -> npt.NDArray[Any]:
    """The array of a `TensorProto`; texts are an array of bytes objects.

    Raises:
        ValueError: if it is not valid, or of a type that no output of a model has.
    """
    number = tensor.dtype
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    if number not in _VALUE_FIELDS or min(shape, default=0) < 0:
        raise ValueError(f"a tensor of type {number} and shape {shape}")
    values: Any = getattr(tensor, _VALUE_FIELDS[number])
    array: npt.NDArray[Any]
    if number == _STRING:
        array = np.empty(len(values), object)
        array[:] = list(values)
    elif tensor.tensor_content:
        array = np.frombuffer(tensor.tensor_content, _TYPES[number])
    elif number in (1, 2):
        array = np.frombuffer(b"".join(values), _TYPES[number])
    elif number == 19:  # the bits of each number
        array = np.array(values, np.uint16).view(np.float16)
    else:
        array = np.array(values, _TYPES[number])
    size = math.prod(shape)
    if array.size == 1 and size > 1:  # one value stands for all
        return np.broadcast_to(array.reshape(()), shape)
    if array.size != size:
        raise ValueError(f"{array.size} values for the shape {shape}")
    return array.reshape(shape)


@functools.cache
def _messages() -> dict[str, Any]:
    """Message name -> its class, of a pool of its own beside the official package's."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field_type = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{_PACKAGE}.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            one = kind.rstrip("*")
            label = field_type.LABEL_OPTIONAL if one == kind else field_type.LABEL_REPEATED
            added = message.field.add(name=field, number=number, label=label)
            if one in _FIELDS:
                added.type, added.type_name = field_type.TYPE_MESSAGE, f".{_PACKAGE}.{one}"
            else:
                added.type = getattr(field_type, f"TYPE_{one.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in _FIELDS
    }
