"""The fields of a record, and the settings that determine what records hold.

This is the only module that spells the fields; `mtseg.records.reading` reads them back.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from mtseg.records.example_bytes import encode_example, raw
from mtseg.scans import patches
from mtseg.tasks.task import Task

VERSION = "1.0.0"
"""Version of the record schema below, and so of every builder."""


KINDS = ("patches", "volumes")


PATCHES_PER_CLASS = 1000
"""Stored patches of each class a subject; the paper draws from all voxels (section 3.2)."""


@dataclasses.dataclass(eq=False)
class RecordConfig(tfds.core.BuilderConfig):
    """What is prepared: a source of a task, as patches or as volumes.

    Args:
        source: name of one of the task's sources.
        kind: one of `KINDS`.
        patches_per_class: patches of each class drawn from every subject.
        seed: chooses the voxels of the patches.
        size: largest extent of a phantom in voxels; None is near the paper's data.
        num_train: number of training phantoms; None is the task file's.
        num_test: number of test phantoms; None is the task file's.
    """

    source: str = "phantom"
    kind: str = "patches"
    patches_per_class: int = PATCHES_PER_CLASS
    seed: int = 0
    size: int | None = None
    num_train: int | None = None
    num_test: int | None = None

    def settings(self) -> dict[str, Any]:
        """The settings that decide what the records hold, for comparing two preparations."""
        names = ["source", "kind", "size", "num_train", "num_test"]
        if self.kind == "patches":
            names += ["patches_per_class", "seed"]
        return {name: getattr(self, name) for name in names}


def record_features(task: Task, kind: str) -> tfds.features.FeaturesDict:
    """The fields of a record of one of `KINDS`."""
    return _patch_features(task) if kind == "patches" else _volume_features()


def encode_record(example: dict[str, Any]) -> bytes:
    """A record's bytes, as TFDS reads them: always the same for the same record."""
    values: dict[str, Any] = {"subject": example["subject"].encode()}
    if "patches" in example:
        values["patches"] = raw(example["patches"])
        values["class_index"] = example["class_index"]
        values["index_ijk"] = example["index_ijk"]
    else:
        values["affine"] = example["affine"].ravel()
        for name in ("image", "class_index_map"):  # of any shape, which is then a field of its own
            values[f"{name}/shape"] = example[name].shape
            values[f"{name}/value"] = raw(example[name])
    return encode_example(values)


def _patch_features(task: Task) -> tfds.features.FeaturesDict:
    size = patches.PATCH_SIZE
    return tfds.features.FeaturesDict(
        {
            # Raw bytes: decoding them is what keeps the input ahead of the training step.
            "patches": tfds.features.Tensor(
                shape=(len(patches.PLANES), size, size),
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


def _volume_features() -> tfds.features.FeaturesDict:
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


PATCH_SPEC = {
    "patches": tf.io.FixedLenFeature([], tf.string),
    "class_index": tf.io.FixedLenFeature([], tf.int64),
}
"""How a patch record is spelled inside a shard, for reading it without TFDS."""
