"""The TFDS builder of a task: its settings, the records of a subject, and what TFDS says of them.

Prepared data is ordinary TFDS data: `tfds.builder_from_directory` reads it without mtseg. The
shipped tasks have a builder each in `datasets/`, for TFDS's own commands. `mtseg-prepare` makes a
builder for any task with `builder_class`, and lets it write shards that are already staged. Both
ways of writing call `make_records`, so they write the same.

Reference: Moeskops et al., MICCAI 2016, section 3.2.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from mtseg.records.schema import (
    KINDS,
    PATCHES_PER_CLASS,
    SPLITS,
    VERSION,
    make_patch_record,
    make_volume_record,
    record_features,
    supervised_keys,
)
from mtseg.scans.patches import choose_voxels, cut_patches, pad_volume
from mtseg.sources.find import find_subjects
from mtseg.sources.reading import prepare_subject
from mtseg.sources.splits import ValidationRule
from mtseg.sources.subject import PreparedSubject, Subject
from mtseg.tasks.task import LabelSource, Task
from mtseg.tasks.task_file import GENERATED

RELEASE_NOTES = {"1.0.0": "Triplanar patches as float16 and whole volumes as float32."}

_PATCHES_AT_ONCE = 128
"""Bounds the memory for patches, however many are drawn from a subject."""


@dataclasses.dataclass(eq=False)
class RecordConfig(tfds.core.BuilderConfig):
    """What is prepared: one source of a task, as patches or as volumes.

    Args:
        source: name of one of the task's sources.
        kind: one of `KINDS`.
        patches_per_class: patches of each class drawn from every subject.
        seed: chooses the voxels of the patches.
        size: largest extent of a phantom in voxels; None is about that of the paper's scans.
        num_train: number of training phantoms; None takes that of the task file.
        num_test: number of test phantoms; None takes that of the task file.
        validation_share: share of the training persons that is set aside for validation; None sets
            none aside.
        fold: `K/N`, if part K of N of the training persons is set aside; None if not.
        split_seed: chooses these persons; None if none are set aside.
        subjects: what the metadata of the records has of the split: `origin`, and the names of the
            subjects of each split. None if it is not known.
    """

    source: str = "phantom"
    kind: str = "patches"
    patches_per_class: int = PATCHES_PER_CLASS
    seed: int = 0
    size: int | None = None
    num_train: int | None = None
    num_test: int | None = None
    validation_share: float | None = None
    fold: str | None = None
    split_seed: int | None = None
    subjects: dict[str, Any] | None = None

    @property
    def validation(self) -> ValidationRule:
        """How validation subjects are chosen."""
        return ValidationRule(self.validation_share or 0.0, self.fold or "", self.split_seed or 0)

    def settings(self) -> dict[str, Any]:
        """The settings that decide what the records contain, to compare two preparations."""
        names = ["source", "kind", "size", "num_train", "num_test"]
        names += ["validation_share", "fold", "split_seed"]
        if self.kind == "patches":
            names += ["patches_per_class", "seed"]
        return {name: getattr(self, name) for name in names}


# The records of one subject.


def make_records(
    task: Task, config: RecordConfig, subject: PreparedSubject
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the records of one subject.

    Args:
        task: the subject's task.
        config: what to make: patches or a volume.
        subject: the subject after preprocessing.

    Yields:
        `(key, record)`; the key is unique within a split.
    """
    if config.kind == "patches":
        yield from _make_patch_records(task.num_classes, config, subject)
    else:
        yield subject.name, make_volume_record(subject)


def _make_patch_records(
    num_classes: int, config: RecordConfig, subject: PreparedSubject
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields patch records in random order.

    The generator is seeded with the subject's name, so the voxels do not depend on which subjects
    are prepared before this one.
    """
    rng = np.random.default_rng([config.seed, zlib.crc32(subject.name.encode())])
    index_ijk, class_index = choose_voxels(
        subject.class_index_map,
        subject.image > 0,
        per_class=config.patches_per_class,
        num_classes=num_classes,
        rng=rng,
    )
    order = rng.permutation(len(index_ijk))
    index_ijk, class_index = index_ijk[order], class_index[order]
    padded = pad_volume(subject.image, dtype=np.float16)
    for start in range(0, len(index_ijk), _PATCHES_AT_ONCE):
        cut = cut_patches(padded, index_ijk[start : start + _PATCHES_AT_ONCE])
        for n, patches in enumerate(cut, start):
            record = make_patch_record(patches, int(class_index[n]), subject.name, index_ijk[n])
            yield f"{subject.name}_{n:07d}", record


# The builder.


class _LocalInfo(tfds.core.DatasetInfo):
    """A description that is never looked for on Google's servers.

    TFDS makes a temporary folder for what it may find there, and leaves it.
    """

    def initialize_from_bucket(self) -> None:
        """Does nothing: no data of mtseg is there."""


class TaskBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Base class of the TFDS builders. A subclass sets `TASK` and `BUILDER_CONFIGS`.

    The configurations are `SOURCE_patches` and `SOURCE_volumes` for every source of the task (see
    `record_configs`). Patches have a `train` split, volumes `train`, and `validation` and `test` if
    there are such subjects.

    Attributes:
        TASK: the task.
        write_splits: writes all shards into `data_path` and describes the splits. None lets TFDS
            prepare the subjects one after the other and write them.
    """

    TASK: Task
    VERSION = tfds.core.Version(VERSION)
    RELEASE_NOTES = RELEASE_NOTES
    MANUAL_DOWNLOAD_INSTRUCTIONS = "The folder of the source's scans; phantoms need none."
    write_splits: Callable[[TaskBuilder], list[tfds.core.SplitInfo]] | None = None

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        return self._make_info(
            features=record_features(self.TASK, config.kind),
            supervised_keys=supervised_keys(config.kind),
            metadata=tfds.core.MetadataDict(config.settings() | {"split": config.subjects}),
        )

    def _make_info(self, **kwargs: Any) -> tfds.core.DatasetInfo:
        # The builders in `datasets/` override this: TFDS reads their README and citation files.
        return _LocalInfo(
            builder=self, description=self.TASK.title, citation=self.TASK.citation, **kwargs
        )

    def dataset_info_from_configs(self, **kwargs: Any) -> tfds.core.DatasetInfo:
        """Describes a builder by the README and citation files in its folder, as TFDS does."""
        files = self.get_metadata()
        return _LocalInfo(
            builder=self, description=files.description, citation=files.citation, **kwargs
        )

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        if self.write_splits is None:
            super()._download_and_prepare(dl_manager, download_config)
        else:
            split_infos = self.write_splits(self)
            self.info.set_splits(tfds.core.splits.SplitDict(split_infos))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        config = self.builder_config
        found = find_subjects(
            self.TASK,
            config.source,
            None if config.source == GENERATED else Path(dl_manager.manual_dir),
            num_train=config.num_train,
            num_test=config.num_test,
            validation=config.validation,
        ).require_sound()
        return {
            split: self._generate_examples(
                found.labels, [s for s in found.subjects if s.split == split]
            )
            for split in SPLITS[config.kind]
            if found.names_of_split(split)
        }

    def _generate_examples(
        self, labels: LabelSource, subjects: list[Subject]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for subject in subjects:
            prepared = prepare_subject(self.TASK, labels, subject, size=self.builder_config.size)
            yield from make_records(self.TASK, self.builder_config, prepared)


def record_configs(task: Task) -> list[RecordConfig]:
    """The default configurations of a task's builder: one of each kind for every source."""
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
    """Makes the TFDS builder of any task, also of a user's task file.

    Args:
        task: the task.
        configs: the configurations that the builder has.

    Returns:
        A class whose data is named `mtseg_TASK`. It is not registered with TFDS.
    """
    namespace = {
        "TASK": task,
        "name": f"mtseg_{task.name}",
        "__doc__": task.title,
        "__module__": __name__,
        "BUILDER_CONFIGS": configs,
        "pkg_dir_path": epath.Path(__file__).parent,
    }
    return type("Builder", (TaskBuilder,), namespace, skip_registration=True)
