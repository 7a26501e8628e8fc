"""TensorFlow and TFDS read the values that were encoded."""

import doctest

import numpy as np
import pytest
import tensorflow as tf

from mtseg.records import shards
from mtseg.records.schema import encode_record, record_features
from mtseg.records.shards import array_bytes, decode_example, encode_example
from mtseg.tasks.label_space import parse_tasks


def test_tensorflow_reads_every_kind_of_value():
    patch = np.arange(6, dtype=np.float16).reshape(2, 3)
    values = {
        "b": array_bytes(patch),
        "a": b"",
        "i": np.array([0, 300, -1, 2**40]),
        "f": [0.5, -2.0],
        "n": 7,
    }
    example = tf.train.Example.FromString(encode_example(values)).features.feature
    assert example["b"].bytes_list.value[0] == patch.tobytes()
    assert example["a"].bytes_list.value[0] == b""
    assert list(example["i"].int64_list.value) == [0, 300, -1, 2**40]
    assert list(example["f"].float_list.value) == [0.5, -2.0]
    assert list(example["n"].int64_list.value) == [7]


def test_what_tensorflow_encodes_is_decoded():
    lists = {
        "b": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"xy"])),
        "f": tf.train.Feature(float_list=tf.train.FloatList(value=[0.5, -2])),
        "i": tf.train.Feature(int64_list=tf.train.Int64List(value=[0, 300, -1, 2**40])),
        "n": tf.train.Feature(int64_list=tf.train.Int64List(value=[])),
    }
    message = tf.train.Example(features=tf.train.Features(feature=lists))
    decoded = decode_example(message.SerializeToString())
    assert bytes(decoded["b"]) == b"xy"
    assert decoded["f"].tolist() == [0.5, -2]
    assert decoded["i"].tolist() == [0, 300, -1, 2**40]
    assert len(decoded["n"]) == 0


@pytest.mark.parametrize(
    "damaged", [b"\x08\x01", b"\x0a", b"\x0a\xff", b"\x0a\x05ab", b"\x0a\x02\x0a\x00", b"text"]
)
def test_bytes_of_something_else_are_refused(damaged):
    with pytest.raises(ValueError):
        decode_example(damaged)


@pytest.mark.parametrize("packed", [b"\xff" * 10 + b"\x01", b"\x05\x80"])
def test_a_number_that_is_too_long_or_not_complete_is_refused(packed):
    sound = encode_example({"n": [300]})
    values = sound[: sound.index(b"\xac\x02") - 2] + bytes([10, len(packed)]) + packed
    added = len(values) - len(sound)
    # The lengths of the messages around it, outermost first.
    damaged = bytearray(values)
    for place in (1, 3, 8, 10):
        damaged[place] += added
    with pytest.raises(ValueError, match="a number"):
        decode_example(bytes(damaged))


def test_bytes_do_not_depend_on_the_order_of_the_fields():
    assert encode_example({"a": 1, "b": b"x"}) == encode_example({"b": b"x", "a": 1})


def test_an_array_that_is_not_contiguous_is_encoded_by_value():
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert bytes(array_bytes(array.T)) == array.T.tobytes()


def test_records_are_what_tfds_would_write():
    task = parse_tasks("breast").selections[0].task
    rng = np.random.default_rng(0)
    records = {
        "patches": {
            "patches": rng.random((3, 51, 51)).astype(np.float16), "class_index": 1,
            "subject": "s1", "index_ijk": np.array([3, 400, 5], np.int32),
        },
        "volumes": {
            "image": rng.random((4, 5, 6)).astype(np.float32),
            "class_index_map": rng.integers(0, 2, (4, 5, 6)).astype(np.uint8),
            "affine": rng.random((4, 4)), "subject": "s1",
        },
    }  # fmt: skip
    for kind, record in records.items():
        theirs = record_features(task, kind).serialize_example(record)
        one, other = (tf.train.Example.FromString(e) for e in (encode_record(record), theirs))
        assert one == other


@pytest.mark.parametrize("module", [shards])
def test_examples_in_docstrings_run(module):
    result = doctest.testmod(module)
    assert (result.failed, result.attempted > 0) == (0, True)
