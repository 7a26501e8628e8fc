"""The TFDS builder of a task, which writes its subjects as TFRecord shards.

Two kinds of records exist: `patches` (triplanar training samples) and `volumes` (whole prepared
scans for evaluation). Prepared data is ordinary TFDS data, so `tfds.builder_from_directory` reads
it without code of this project.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from mtseg.records.examples import prepared_examples
from mtseg.records.schema import KINDS, VERSION, RecordConfig, record_features
from mtseg.sources.find import find_subjects
from mtseg.sources.reading import prepare_subject
from mtseg.sources.subject import Subject
from mtseg.tasks.task import LabelSource, Task
from mtseg.tasks.task_file import GENERATED

RELEASE_NOTES = {"1.0.0": "Triplanar patches as float16 and whole volumes as float32."}


class TaskBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
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
        found = find_subjects(
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
