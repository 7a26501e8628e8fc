"""The format on disk, byte by byte: records that exist are read by this version, unchanged.

The bytes are put together here by the definitions of TFRecord and protocol buffers, and the
descriptions are the text that TFDS wrote, so nothing of the package decides what is expected.
"""

import json
import struct

import numpy as np
import pytest

from mtseg.batches.patch_records import open_patches
from mtseg.batches.volume_patches import open_volumes
from mtseg.records.prepared import prepared_settings
from mtseg.records.reading import read_volumes
from mtseg.records.schema import encode_record, make_patch_record, make_volume_record
from mtseg.sources.subject import PreparedSubject

PATCHES = (np.arange(3 * 51 * 51).reshape(3, 51, 51) % 2048).astype(np.float16)
IMAGE = np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 16
CLASSES = (np.arange(24) % 2).astype(np.uint8).reshape(2, 3, 4)
AFFINE = np.array([[1.5, 0, 0, -3], [0, 1.5, 0, 5], [0, 0, 1.5, 300], [0, 0, 0, 1]])


# Protocol buffers and TFRecord, by their definitions.


def varint(number):
    return bytes([number]) if number < 128 else bytes([number % 128 + 128]) + varint(number // 128)


def field(number, content):
    return bytes([number * 8 + 2]) + varint(len(content)) + content


def bytes_list(content):
    return field(1, field(1, content))


def float_list(*numbers):
    return field(2, field(1, struct.pack(f"<{len(numbers)}f", *numbers)))


def int64_list(*numbers):
    return field(3, field(1, b"".join(map(varint, numbers))))


def example_of(features):
    """A `tf.train.Example`: field 1 has the features, each an entry of a map."""
    entries = (field(1, field(1, n.encode()) + field(2, f)) for n, f in sorted(features.items()))
    return field(1, b"".join(entries))


def checksum(data):
    """The masked CRC-32C of TFRecord."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)


def frame(data):
    length = struct.pack("<Q", len(data))
    return length + checksum(length) + data + checksum(data)


# The records of one subject.

PATCH_RECORD = example_of(
    {
        "class_index": int64_list(1),
        "index_ijk": int64_list(3, 400, 5),
        "patches": bytes_list(PATCHES.astype("<f2").tobytes()),
        "subject": bytes_list(b"s1"),
    }
)
VOLUME_RECORD = example_of(
    {
        "affine": float_list(*AFFINE.ravel()),
        "class_index_map/shape": int64_list(2, 3, 4),
        "class_index_map/value": bytes_list(CLASSES.tobytes()),
        "image/shape": int64_list(2, 3, 4),
        "image/value": bytes_list(IMAGE.astype("<f4").tobytes()),
        "subject": bytes_list(b"s1"),
    }
)
SUBJECT = PreparedSubject("s1", IMAGE, CLASSES, AFFINE)


def test_records_are_written_with_the_same_bytes():
    assert encode_record(make_patch_record(PATCHES, 1, "s1", np.array([3, 400, 5]))) == PATCH_RECORD
    assert encode_record(make_volume_record(SUBJECT)) == VOLUME_RECORD


# Their folders, as version 1.0.0 has written them.

FEATURES = "tensorflow_datasets.core.features"


def tensor(dtype, encoding, *shape):
    dimensions = {"dimensions": [str(size) for size in shape]}
    return {
        "pythonClassName": f"{FEATURES}.tensor_feature.Tensor",
        "tensor": {"dtype": dtype, "encoding": encoding, "shape": dimensions},
    }


TEXT = {"pythonClassName": f"{FEATURES}.text_feature.Text", "text": {}}
KINDS = {
    "patches": {
        "class_index": {
            "classLabel": {"numClasses": "2"},
            "pythonClassName": f"{FEATURES}.class_label_feature.ClassLabel",
        },
        "index_ijk": tensor("int32", "none", 3),
        "patches": tensor("float16", "bytes", 3, 51, 51),
        "subject": TEXT,
    },
    "volumes": {
        "affine": tensor("float64", "none", 4, 4),
        "class_index_map": tensor("uint8", "bytes", -1, -1, -1),
        "image": tensor("float32", "bytes", -1, -1, -1),
        "subject": TEXT,
    },
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A folder of records of one training subject of breast: one patch record, one volume."""
    data_dir = tmp_path_factory.mktemp("records")
    for kind, record in (("patches", PATCH_RECORD), ("volumes", VOLUME_RECORD)):
        folder = data_dir / "mtseg_breast" / f"phantom_{kind}" / "1.0.0"
        folder.mkdir(parents=True)
        split = {
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            "name": "train",
            "numBytes": str(len(record)),
            "shardLengths": ["1"],
        }
        info = {
            "configName": f"phantom_{kind}",
            "fileFormat": "tfrecord",
            "moduleName": "mtseg.records",
            "name": "mtseg_breast",
            "splits": [split],
            "version": "1.0.0",
        }
        features = {
            "featuresDict": {"features": KINDS[kind]},
            "pythonClassName": f"{FEATURES}.features_dict.FeaturesDict",
        }
        (folder / "dataset_info.json").write_text(json.dumps(info))
        (folder / "features.json").write_text(json.dumps(features))
        (folder / "metadata.json").write_text(json.dumps({"source": "phantom", "kind": kind}))
        (folder / "mtseg_breast-train.tfrecord-00000-of-00001").write_bytes(frame(record))
    (data_dir / "mtseg_breast/phantom_patches/1.0.0/class_index.labels.txt").write_text(
        "background\npectoral_muscle"
    )
    return data_dir


def test_patches_are_read(data_dir):
    records = open_patches(data_dir, "breast", "phantom")
    assert records.class_index.tolist() == [1]
    out = np.empty((1, 3, 51, 51), np.float16)
    records.read(np.array([0]), out)
    np.testing.assert_array_equal(out[0], PATCHES)


def test_volumes_are_read(data_dir):
    (subject,) = read_volumes(data_dir, "breast", "phantom", "train")
    assert subject.name == "s1"
    np.testing.assert_array_equal(subject.image, IMAGE)
    np.testing.assert_array_equal(subject.class_index_map, CLASSES)
    np.testing.assert_array_equal(subject.affine, AFFINE)
    assert open_volumes(data_dir, "breast", "phantom").num_samples.tolist() == [11, 12]


def test_settings_are_read(data_dir):
    folder = data_dir / "mtseg_breast" / "phantom_volumes" / "1.0.0"
    assert prepared_settings(folder) == {"source": "phantom", "kind": "volumes"}
