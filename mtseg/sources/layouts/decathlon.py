"""Layouts with a `dataset.json`: nnU-Net v2 and the Medical Segmentation Decathlon.

References: nnU-Net, `documentation/dataset_format.md`; Antonelli et al., "The Medical Segmentation
Decathlon", Nature Communications 2022.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mtseg.errors import InputError
from mtseg.scans.reading import scan_stem
from mtseg.sources.layouts.dataset_files import (
    DatasetFiles,
    SubjectFiles,
    is_hidden,
    list_scan_files,
    pair_files,
)


def find_nnunet(folder: Path) -> DatasetFiles:
    """`imagesTr/NAME_0000.*` and `labelsTr/NAME.*` for training; `imagesTs` and `labelsTs` to test.

    A region, several values under one name, is a label with these values. Test scans are left out
    if they have no label maps: the organisers of a challenge keep those.

    Raises:
        InputError: if `dataset.json` is missing or of another kind, or scans have several channels.
    """
    path = folder / "dataset.json"
    dataset = _read_dataset_json(path)
    if "channel_names" not in dataset or "file_ending" not in dataset:
        hint = " It looks like one of the Decathlon: name the source msd." * ("modality" in dataset)
        raise InputError(
            f"{path}: lacks channel_names and file_ending, which nnU-Net's second version has."
            f"{hint or ' Convert the data set, or use the layout folder.'}"
        )
    _require_one_channel(path, dataset["channel_names"])
    try:
        label_names = {
            str(name): tuple(int(value) for value in (v if isinstance(v, list) else [v]))
            for name, v in dataset.get("labels", {}).items()
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: labels are not as nnU-Net writes them ({error}). Correct it."
        ) from error
    ending = str(dataset["file_ending"])
    subjects = []
    for images, labels, split in (
        ("imagesTr", "labelsTr", "train"),
        ("imagesTs", "labelsTs", "test"),
    ):
        if split == "train" or (folder / labels).is_dir():
            scans = _list_names(folder / images, ending)
            named_scans = ((name.removesuffix("_0000"), scan) for name, scan in scans)
            subjects += pair_files(named_scans, _list_names(folder / labels, ending), split)
    return DatasetFiles(tuple(subjects), label_names)


def _list_names(folder: Path, ending: str) -> list[tuple[str, Path]]:
    """Name without ending, and path, of each file of a folder with this ending."""
    return [
        (path.name.removesuffix(ending), path)
        for path in sorted(folder.iterdir())
        if path.name.endswith(ending) and not is_hidden(path)
    ]


def find_msd(folder: Path) -> DatasetFiles:
    """The pairs of scan and label map that `dataset.json` lists under `training`.

    Raises:
        InputError: if `dataset.json` is missing, of another kind or names files outside of the
            folder, or scans have several channels.
    """
    path = folder / "dataset.json"
    dataset = _read_dataset_json(path)
    if "modality" not in dataset or "training" not in dataset:
        hint = " It looks like one of nnU-Net: name the source nnunet." * (
            "channel_names" in dataset
        )
        raise InputError(
            f"{path}: lacks modality and training, which a data set of the Medical Segmentation "
            f"Decathlon has.{hint or ' Use the layout folder.'}"
        )
    _require_one_channel(path, dataset["modality"])
    try:
        label_names: dict[str, tuple[int, ...]] = {
            str(name): (int(value),) for value, name in dataset["labels"].items()
        }
        listed = [(Path(e["image"]), Path(e["label"])) for e in dataset["training"]]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: labels or training are not as the Decathlon writes them ({error!r}). Correct "
            "it."
        ) from error
    for file in (file for pair in listed for file in pair):
        if file.is_absolute() or os.path.normpath(file).startswith(".."):
            raise InputError(f"{path}: names {file}, which is outside of its folder. Correct it.")
    subjects = []
    used: set[Path] = set()
    for image, label_map in listed:
        paths = folder / image, folder / label_map
        used.update(paths)
        images, label_maps = ((file,) if file.exists() else () for file in paths)
        subjects.append(SubjectFiles(scan_stem(image), images, label_maps))
    unused = [
        file
        for sub in ("imagesTr", "labelsTr")
        if (folder / sub).is_dir()
        for file in list_scan_files(folder / sub)
        if file not in used
    ]
    return DatasetFiles(
        tuple(sorted(subjects, key=lambda files: files.name)), label_names, tuple(unused)
    )


def _read_dataset_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
    except FileNotFoundError as error:
        raise InputError(
            f"{path.parent}: has no dataset.json. Give the data set's own folder."
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: is not a dataset.json: {error}. Correct it.") from error
    return content


def _require_one_channel(path: Path, channels: Any) -> None:
    """Refuses a data set whose scans have several channels, such as T1 and FLAIR."""
    if not isinstance(channels, dict | list):
        raise InputError(f"{path}: does not list the channels of its scans. Correct it.")
    if len(channels) != 1:
        names = ", ".join(map(str, channels.values() if isinstance(channels, dict) else channels))
        raise InputError(
            f"{path}: its scans have {len(channels)} channels ({names}). The network takes one "
            "scan at a time: make a data set of one of them."
        )
