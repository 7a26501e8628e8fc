"""The fields of a record, and the files that records are stored in.

This is the only module that spells the fields' names. There are two kinds of records: a patch
record is one training sample, a volume record is one prepared scan. Each is stored as one
`tf.train.Example`. Change `VERSION` with the fields: records of another version are not read.

Volume records are read without TensorFlow, so this module imports TensorFlow and TFDS only in the
functions that need them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mtseg.records.shards import ARRAY_RECORD, TFRECORD, array_bytes, decode_example, encode_example
from mtseg.scans.patches import PATCH_SIZE, PLANES
from mtseg.sources.subject import PreparedSubject
from mtseg.tasks.task import Task

if TYPE_CHECKING:
    import tensorflow as tf
    import tensorflow_datasets as tfds

VERSION = "1.0.0"
"""Version of the record schema below, and so of every builder."""

KINDS = ("patches", "volumes")
"""The two kinds of records: triplanar training samples, and whole prepared scans."""

DEFAULT_KINDS = ("volumes",)
"""What `mtseg-prepare` writes if it is not told more: every preset trains on volumes."""

SPLITS = {"patches": ("train",), "volumes": ("train", "validation", "test")}
"""The splits that each kind may have. Evaluation needs whole scans, so only training has patches. A
split without subjects is left out."""

FILE_FORMATS = {"patches": TFRECORD, "volumes": ARRAY_RECORD}
"""The file format that each kind is written in. TensorFlow reads patches fastest from TFRecord;
volumes are read without TensorFlow. Volumes in TFRecord, from before, are still read."""

PATCHES_PER_CLASS = 1000
"""Default number of patches of each class that are stored for one subject. This is the project's
choice: the paper draws from all voxels of the training scans (section 3.2)."""

PATCH_RECORD_BYTES = len(PLANES) * PATCH_SIZE**2 * np.dtype(np.float16).itemsize + 150
"""About the bytes of one patch record; all but the last 150 are patches."""

VOXEL_BYTES = np.dtype(np.float32).itemsize + np.dtype(np.uint8).itemsize
"""Bytes of one voxel in a volume record: an intensity and a class index."""

CLASS_NAMES_FILE = "class_index.labels.txt"
"""TFDS writes the names of the classes into this file beside the patch records, one to a line."""


# Patch records.


def make_patch_record(
    patches: npt.NDArray[np.float16],
    class_index: int,
    subject: str,
    index_ijk: npt.NDArray[np.integer[Any]],
) -> dict[str, Any]:
    """Makes the record of one training sample.

    Args:
        patches: float16 (3, 51, 51), the axial, coronal and sagittal patch.
        class_index: the task's own class index of the voxel in their centre.
        subject: name of the subject.
        index_ijk: (3,), the voxel in the prepared volume.
    """
    return {
        "patches": patches,
        "class_index": class_index,
        "subject": subject,
        "index_ijk": index_ijk.astype(np.int32),
    }


def parse_patch_records(
    records: tf.Tensor,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.object_], npt.NDArray[np.object_]]:
    """Parses encoded patch records without TFDS, several times faster.

    Args:
        records: strings (n,), from `encode_record`.

    Returns:
        `(class_index, subject, patches)`: int64 (n,), then n objects of type bytes each: the name
        of the subject, and the bytes of a float16 (3, 51, 51) array in C order. An encoded record
        contains the latter unchanged.

    Raises:
        tf.errors.InvalidArgumentError: if one of them is not a patch record.
    """
    import tensorflow as tf

    fields = tf.io.parse_example(
        records,
        {
            "patches": tf.io.FixedLenFeature([], tf.string),
            "class_index": tf.io.FixedLenFeature([], tf.int64),
            "subject": tf.io.FixedLenFeature([], tf.string),
        },
    )
    names = ("class_index", "subject", "patches")
    class_index, subject, patches = (fields[name].numpy() for name in names)
    return class_index, subject, patches


def _patch_features(task: Task) -> tfds.features.FeaturesDict:
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(
        {
            # As raw bytes. Any other encoding is several times slower to write and to read, and
            # the input has to keep ahead of the training step.
            "patches": tfds.features.Tensor(
                shape=(len(PLANES), PATCH_SIZE, PATCH_SIZE),
                dtype=np.float16,
                encoding=tfds.features.Encoding.BYTES,
                doc="The axial, coronal and sagittal patch centred at the voxel.",
            ),
            "class_index": tfds.features.ClassLabel(names=list(task.class_names)),
            "subject": tfds.features.Text(),
            "index_ijk": tfds.features.Tensor(
                shape=(3,), dtype=np.int32, doc="The voxel in the prepared volume."
            ),
        }
    )


# Volume records.


def make_volume_record(subject: PreparedSubject) -> dict[str, Any]:
    """Makes the record of one prepared scan with its class indices."""
    return {
        "image": subject.image,
        "class_index_map": subject.class_index_map,
        "affine": subject.affine,
        "subject": subject.name,
    }


def parse_volume_record(encoded: bytes) -> PreparedSubject:
    """Makes a subject of an encoded volume record.

    The affine has the precision of float32: `tf.train.Example` has no other type of float.

    Args:
        encoded: from `encode_record`, or from TFDS.

    Raises:
        ValueError: if it is not a volume record.
    """
    fields = decode_example(encoded)
    try:
        arrays = [
            np.frombuffer(fields[f"{name}/value"], dtype).reshape(fields[f"{name}/shape"])
            for name, dtype in (("image", "<f4"), ("class_index_map", "u1"))
        ]
        image, class_index_map = (array.copy() for array in arrays)  # aligned, and writable
        return PreparedSubject(
            name=bytes(fields["subject"]).decode(),
            image=image,
            class_index_map=class_index_map,
            affine=np.asarray(fields["affine"], np.float64).reshape(4, 4),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a volume record: {error}") from error


def _volume_features() -> tfds.features.FeaturesDict:
    import tensorflow_datasets as tfds

    grid = (None, None, None)
    encoding = tfds.features.Encoding.BYTES
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Tensor(
                shape=grid,
                dtype=np.float32,
                encoding=encoding,
                doc="Isotropic, RAS+, after the intensity rule; foreground is > 0.",
            ),
            "class_index_map": tfds.features.Tensor(shape=grid, dtype=np.uint8, encoding=encoding),
            "affine": tfds.features.Tensor(
                shape=(4, 4), dtype=np.float64, doc="Voxel to RAS+ world in mm."
            ),
            "subject": tfds.features.Text(),
        }
    )


# Both kinds.


def record_features(task: Task, kind: str) -> tfds.features.FeaturesDict:
    """The fields of a record of one of `KINDS`, as TFDS describes them."""
    return _patch_features(task) if kind == "patches" else _volume_features()


def supervised_keys(kind: str) -> tuple[str, str] | None:
    """The fields that TFDS returns as `(input, target)`; None for volumes."""
    return ("patches", "class_index") if kind == "patches" else None


def encode_record(record: Mapping[str, Any]) -> bytes:
    """Encodes a record as TFDS does, except that equal records always give equal bytes.

    Args:
        record: from `make_patch_record` or `make_volume_record`.
    """
    values: dict[str, Any] = {"subject": record["subject"].encode()}
    if "patches" in record:
        values["patches"] = array_bytes(record["patches"])
        values["class_index"] = record["class_index"]
        values["index_ijk"] = record["index_ijk"]
    else:
        values["affine"] = record["affine"].ravel()
        for name in ("image", "class_index_map"):  # TFDS stores the shape if it is not fixed.
            values[f"{name}/shape"] = record[name].shape
            values[f"{name}/value"] = array_bytes(record[name])
    return encode_example(values)
