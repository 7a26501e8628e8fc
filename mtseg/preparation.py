"""Prepare a task's source: scans come in, records in a data folder leave."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import tensorflow_datasets as tfds

from mtseg.errors import InputError
from mtseg.prepared import prepared_dir, prepared_settings
from mtseg.progress import Progress
from mtseg.records import KINDS, RecordConfig, TaskBuilder, builder_class
from mtseg.sources import list_subjects
from mtseg.tasks import TaskSelection


def prepare(
    selection: TaskSelection,
    data_dir: str | Path,
    *,
    manual_dir: str | Path | None = None,
    num_shards: int | None = None,
    is_overwrite: bool = False,
    **settings: int | None,
) -> None:
    """Writes the patch and volume records of a task's source.

    Records that are there already, made with the same settings, are left as they are.

    Args:
        selection: the task and its source.
        data_dir: where the records go.
        manual_dir: the folder of scans, for every source but the generated phantoms.
        num_shards: shard files of the patches; None lets TFDS choose. Volumes, of which there may
            be fewer than that, are always divided by TFDS.
        is_overwrite: replace records that were made with other settings.
        **settings: fields of `mtseg.records.RecordConfig`.

    Raises:
        InputError: if a scan cannot be used, or records with other settings are there.
    """
    task, source = selection.task, selection.source
    for kind in KINDS:
        config = RecordConfig(name=f"{source}_{kind}", source=source, kind=kind, **settings)
        if _is_prepared(selection, data_dir, config, is_overwrite):
            print(f"{selection.spec}: {kind} are there already in {data_dir}.", flush=True)
            continue
        builder = builder_class(task, [config])(data_dir=str(data_dir))
        _build(builder, selection, manual_dir, num_shards if kind == "patches" else None)


def _is_prepared(
    selection: TaskSelection, data_dir: str | Path, config: RecordConfig, is_overwrite: bool
) -> bool:
    try:
        path = prepared_dir(data_dir, selection.task.name, config.source, config.kind)
    except InputError:
        return False
    there, wanted = prepared_settings(path), config.settings()
    if is_overwrite:
        shutil.rmtree(path)
        return False
    different = [f"{k}: {there.get(k)} / {wanted[k]}" for k in wanted if there.get(k) != wanted[k]]
    if different:
        raise InputError(
            f"{path}: was prepared with other settings (there / now: {'; '.join(different)}). "
            "Give --overwrite to replace it, or another --data-dir."
        )
    return True


def _build(
    builder: TaskBuilder,
    selection: TaskSelection,
    manual_dir: str | Path | None,
    num_shards: int | None,
) -> None:
    config = builder.builder_config
    source = config.source
    subjects = list_subjects(
        selection.task,
        source,
        None if source == "phantom" else _existing_folder(selection, manual_dir),
        num_train=config.num_train,
        num_test=config.num_test,
    )
    if config.kind == "patches":
        subjects = [subject for subject in subjects if subject.split == "train"]
    download_config = tfds.download.DownloadConfig(
        manual_dir=None if manual_dir is None else str(manual_dir),
        num_shards=num_shards,
        try_download_gcs=False,
    )
    tfds.disable_progress_bar()
    title = f"{selection.spec}, {config.kind}"
    with Progress(title, len(subjects), "subjects") as progress:
        builder.on_subject = lambda name: progress.advance(note=name)
        # TFDS announces a download, which there is none of.
        with contextlib.redirect_stdout(None):
            builder.download_and_prepare(download_config=download_config)
    info = tfds.builder_from_directory(builder.data_path).info
    counts = ", ".join(f"{split.num_examples} {name}" for name, split in info.splits.items())
    print(f"{title}: {counts} records, {info.dataset_size / 1e6:.0f} MB.", flush=True)


def _existing_folder(selection: TaskSelection, manual_dir: str | Path | None) -> Path | None:
    if manual_dir is None:
        return None
    folder = Path(manual_dir)
    if not folder.is_dir():
        raise InputError(
            f"{folder}: is not a folder. Give --manual-dir the folder of scans of {selection.spec}."
        )
    return folder
