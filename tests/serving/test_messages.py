"""The messages that the client writes and reads, against the server's official package."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from mtseg.serving.messages import decode_response, encode_request

ARRAYS = {
    "float32": np.float32([[1.5, -2.0, np.inf], [0.0, 3e-40, 7.25]]),
    "float64": np.float64([1e300, -1e-300]),
    "float16": np.float16([[0.5, -3.0], [65504.0, 6e-8]]),
    "int32": np.int32([-5, 2**31 - 1]),
    "int16": np.int16([-300, 300]),
    "int64": np.int64([-(2**40), 2**40]),
    "uint8": np.uint8([[0, 200]]),
    "bool": np.array([True, False, True]),
    "empty": np.zeros((1, 0, 9), np.float32),
    "scalar": np.float32(4.5),
}


def answer(arrays, version=None):
    response = predict_pb2.PredictResponse()
    if version is not None:
        response.model_spec.version.value = version
    for name, proto in arrays.items():
        response.outputs[name].CopyFrom(proto)
    return response.SerializeToString()


def test_the_server_reads_what_is_written():
    inputs = {name: array for name, array in ARRAYS.items() if name != "scalar"}
    body = encode_request("mtseg", 3, "segment", inputs, ("labels", "probabilities"))
    request = predict_pb2.PredictRequest.FromString(body)
    assert request.model_spec.name == "mtseg"
    assert request.model_spec.version.value == 3
    assert request.model_spec.signature_name == "segment"
    assert list(request.output_filter) == ["labels", "probabilities"]
    assert set(request.inputs) == set(inputs)
    for name, array in inputs.items():
        read = tf.make_ndarray(request.inputs[name])
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)
    newest = predict_pb2.PredictRequest.FromString(encode_request("m", None, "s", {}, ()))
    assert not newest.model_spec.HasField("version")


def by_value(array):
    """A tensor whose values stand one by one, as TensorFlow Serving writes them."""
    proto = tf.make_tensor_proto(array)
    values = tf.make_ndarray(proto).ravel()
    proto.ClearField("tensor_content")
    for field in ("float_val", "double_val", "int_val", "int64_val", "bool_val", "half_val"):
        proto.ClearField(field)
    field = {
        "float32": "float_val", "float64": "double_val", "int64": "int64_val", "bool": "bool_val",
        "float16": "half_val",
    }.get(values.dtype.name, "int_val")  # fmt: skip
    if values.dtype == np.float16:
        values = values.view(np.uint16)
    getattr(proto, field).extend(values.tolist())
    return proto


@pytest.mark.parametrize("write", [tf.make_tensor_proto, by_value])
def test_what_the_server_writes_is_read(write):
    body = answer({name: write(array) for name, array in ARRAYS.items()}, version=7)
    outputs, version = decode_response(body)
    assert version == 7
    assert set(outputs) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert outputs[name].dtype == array.dtype
        assert outputs[name].shape == array.shape
        np.testing.assert_array_equal(outputs[name], array)


def test_texts_one_value_for_all_and_an_answer_without_a_version():
    texts = tf.make_tensor_proto([b"one", "zwei ä"])
    ones = tf.make_tensor_proto(1.0, shape=(2, 3))
    assert len(ones.float_val) == 1
    outputs, version = decode_response(answer({"texts": texts, "ones": ones}))
    assert version is None
    assert outputs["texts"].tolist() == [b"one", "zwei ä".encode()]
    np.testing.assert_array_equal(outputs["ones"], np.ones((2, 3), np.float32))


def test_an_answer_that_is_none_or_contradicts_itself():
    short = by_value(np.float32([1, 2, 3]))
    short.tensor_shape.dim[0].size = 5
    beyond = by_value(np.uint8([1]))
    beyond.int_val[0] = 300
    for proto, reason in (
        (short, "3 values for the shape"),
        (tf.make_tensor_proto(np.complex64([1])), "of type 8"),
        (beyond, "out of the range"),
    ):
        with pytest.raises(ValueError, match=reason):
            decode_response(answer({"y": proto}))
    with pytest.raises(ValueError, match="no protocol buffer"):
        decode_response(b"\xff\xfe no protocol buffer")


def test_damaged_answers_are_errors_of_one_kind_or_arrays():
    whole = answer({name: tf.make_tensor_proto(array) for name, array in ARRAYS.items()}, 7)
    rng = np.random.default_rng(0)
    for _ in range(2000):
        body = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        for place in rng.integers(0, len(body), rng.integers(0, 4)):
            body[place] = rng.integers(256)
        try:
            outputs, _ = decode_response(bytes(body))
        except ValueError:
            continue
        assert all(isinstance(array, np.ndarray) for array in outputs.values())
