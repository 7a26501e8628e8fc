"""Records: their schema, and the TFDS builder that writes a task's scans as records.

Labelled subjects come in; TFRecord shards leave, in two kinds: `patches` (triplanar training
samples) and `volumes` (whole prepared scans for evaluation). This is the only place that spells
a record's fields; `mtseg.prepared` reads them back. Prepared data is ordinary TFDS data, which
`tfds.builder_from_directory` reads without any code of ours.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath

from mtseg import sampling
from mtseg.example_bytes import encode_example, raw
from mtseg.sources import Subject, survey
from mtseg.subject import PreparedSubject, prepare_subject
from mtseg.task import LabelSource, Task
from mtseg.task_file import GENERATED

VERSION = "1.0.0"
"""Version of the record schema below, and so of every builder."""

RELEASE_NOTES = {"1.0.0": "Triplanar patches as float16 and whole volumes as float32."}

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
    size = sampling.PATCH_SIZE
    return tfds.features.FeaturesDict(
        {
            # Raw bytes: decoding them is what keeps the input ahead of the training step.
            "patches": tfds.features.Tensor(
                shape=(len(sampling.PLANES), size, size),
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


class TaskBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Base of the TFDS builders: everything but the task.

    A builder names its task; its configurations are `SOURCE_patches` and `SOURCE_volumes` for
    every source in the task file. Patch records have a `train` split, volume records `train`
    and `test`.
    """

    TASK: Task
    VERSION = tfds.core.Version(VERSION)
    RELEASE_NOTES = RELEASE_NOTES
    MANUAL_DOWNLOAD_INSTRUCTIONS = "The folder of the source's scans; phantoms need none."
    write_splits: Callable[[TaskBuilder], list[tfds.core.SplitInfo]] | None = None
    """Writes the shards into `data_path`, in place of TFDS's own writing one after the other."""

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        is_patches = config.kind == "patches"
        return self._make_info(
            features=record_features(self.TASK, config.kind),
            supervised_keys=("patches", "class_index") if is_patches else None,
            metadata=tfds.core.MetadataDict(config.settings()),
        )

    def _make_info(self, **kwargs: Any) -> tfds.core.DatasetInfo:
        # A builder with a folder of its own says more in its README, and overrides this.
        return tfds.core.DatasetInfo(
            builder=self, description=self.TASK.title, citation=self.TASK.citation, **kwargs
        )

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        if self.write_splits is None:
            super()._download_and_prepare(dl_manager, download_config)
        else:
            split_infos = self.write_splits(self)
            self.info.set_splits(tfds.core.splits.SplitDict(split_infos))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        config = self.builder_config
        found = survey(
            self.TASK,
            config.source,
            None if config.source == GENERATED else Path(dl_manager.manual_dir),
            num_train=config.num_train,
            num_test=config.num_test,
        ).require_sound()
        splits = ["train"] if config.kind == "patches" else ["train", "test"]
        return {
            split: self._generate_examples(
                found.labels, [s for s in found.subjects if s.split == split]
            )
            for split in splits
        }

    def _generate_examples(
        self, labels: LabelSource, subjects: list[Subject]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for subject in subjects:
            prepared = prepare_subject(self.TASK, labels, subject, size=self.builder_config.size)
            yield from prepared_examples(self.TASK, self.builder_config, prepared)


def prepared_examples(
    task: Task, config: RecordConfig, prepared: PreparedSubject
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the keyed records of a subject that has been prepared."""
    if config.kind == "patches":
        yield from patch_examples(prepared, task.num_classes, config)
    else:
        yield prepared.name, volume_example(prepared)


def patch_examples(
    prepared: PreparedSubject, num_classes: int, config: RecordConfig
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields a subject's keyed patch records.

    The voxels and their order depend on the seed and the subject's name alone, not on the order in
    which subjects are prepared.
    """
    rng = np.random.default_rng([config.seed, zlib.crc32(prepared.name.encode())])
    image = prepared.image
    index_ijk, class_index = sampling.choose_voxels(
        prepared.class_index_map,
        image > 0,
        per_class=config.patches_per_class,
        num_classes=num_classes,
        rng=rng,
    )
    order = rng.permutation(len(index_ijk))
    index_ijk, class_index = index_ijk[order], class_index[order]
    padded = sampling.pad_volume(image, dtype=np.float16)
    for start in range(0, len(index_ijk), 128):  # bounded memory, whatever patches_per_class
        chunk = slice(start, start + 128)
        patches = sampling.cut_patches(padded, index_ijk[chunk])
        for n, patch in enumerate(patches, start):
            yield (
                f"{prepared.name}_{n:07d}",
                {
                    "patches": patch,
                    "class_index": int(class_index[n]),
                    "subject": prepared.name,
                    "index_ijk": index_ijk[n].astype(np.int32),
                },
            )


def volume_example(prepared: PreparedSubject) -> dict[str, Any]:
    """A subject's volume record."""
    return {
        "image": prepared.image,
        "class_index_map": prepared.class_index_map,
        "affine": prepared.affine,
        "subject": prepared.name,
    }


def record_configs(task: Task) -> list[RecordConfig]:
    """The default configurations of a task's builder, two for each source."""
    return [
        RecordConfig(
            name=f"{source.name}_{kind}",
            description=f"{task.title}, source {source.name}, as {kind}.",
            source=source.name,
            kind=kind,
        )
        for source in task.sources
        for kind in KINDS
    ]


def builder_class(task: Task, configs: list[RecordConfig]) -> type[TaskBuilder]:
    """The TFDS builder of any task, a user's own included, with configurations of its own."""
    namespace = {
        "TASK": task,
        "name": f"mtseg_{task.name}",
        "__doc__": task.title,
        "__module__": __name__,
        "BUILDER_CONFIGS": configs,
        "pkg_dir_path": epath.Path(__file__).parent,
    }
    return type("Builder", (TaskBuilder,), namespace, skip_registration=True)


PATCH_SPEC = {
    "patches": tf.io.FixedLenFeature([], tf.string),
    "class_index": tf.io.FixedLenFeature([], tf.int64),
}
"""How a patch record is spelled inside a shard, for reading it without TFDS."""
