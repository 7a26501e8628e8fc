"""Layouts with a `dataset.json`: nnU-Net and the Medical Segmentation Decathlon.

`mtseg.sources.layouts.dataset_json` reads that file; here its scans and label maps are found.
"""

from __future__ import annotations

import os
from pathlib import Path

from mtseg.errors import InputError
from mtseg.scans.reading import scan_stem
from mtseg.sources.layouts.dataset_files import (
    DatasetFiles,
    SubjectFiles,
    is_hidden,
    list_scan_files,
    pair_files,
)
from mtseg.sources.layouts.dataset_json import (
    read_dataset_json,
    read_file_ending,
    read_label_names,
    read_region_order,
    require_one_channel,
)

_CHANNEL = "_0000"
"""End of the names of nnU-Net's scans: the number of the channel."""


def find_nnunet(folder: Path) -> DatasetFiles:
    """`imagesTr/NAME_0000.*` and `labelsTr/NAME.*` for training; `imagesTs` and `labelsTs` to test.

    A region, several values under one name, is a label with these values. Test scans are left out
    if they have no label maps: the organisers of a challenge keep those.

    Raises:
        InputError: if `dataset.json` is missing or of another kind, scans have several channels, or
            the scans are named as the Decathlon names them.
    """
    path = folder / "dataset.json"
    dataset = read_dataset_json(path)
    key = "channel_names" if "channel_names" in dataset else "modality"
    if key not in dataset or (key == "channel_names" and "file_ending" not in dataset):
        raise InputError(
            f"{path}: lacks channel_names and file_ending, which nnU-Net's second version has. "
            "Convert the data set, or use the layout folder."
        )
    require_one_channel(path, key, dataset[key])
    label_names = read_label_names(path, dataset)
    ending = read_file_ending(path, dataset)
    if "dataset" in dataset and not (folder / "imagesTr").is_dir():
        raise InputError(
            f"{path}: lists its files one by one under dataset, which is not supported. Link the "
            "files into imagesTr and labelsTr."
        )
    subjects = []
    for images, labels, split in (
        ("imagesTr", "labelsTr", "train"),
        ("imagesTs", "labelsTs", "test"),
    ):
        if split == "train" or (folder / labels).is_dir():
            scans = _list_names(folder / images, ending)
            if key == "modality" and not any(name.endswith(_CHANNEL) for name, _ in scans):
                raise InputError(
                    f"{folder / images}: has no NAME{_CHANNEL}{ending}, as nnU-Net names scans. If "
                    "the data set is the Decathlon's, name the source msd."
                )
            named_scans = ((name.removesuffix(_CHANNEL), scan) for name, scan in scans)
            subjects += pair_files(named_scans, _list_names(folder / labels, ending), split)
    is_ordered = read_region_order(path, dataset, label_names)
    return DatasetFiles(tuple(subjects), label_names, has_region_order=is_ordered)


def _list_names(folder: Path, ending: str) -> list[tuple[str, Path]]:
    """Name without ending, and path, of each file of a folder with this ending."""
    return [
        (path.name.removesuffix(ending), path)
        for path in sorted(folder.iterdir())
        if path.name.endswith(ending) and not is_hidden(path)
    ]


def _is_nnunets(path: Path) -> bool:
    """Whether a scan that `dataset.json` lists is there under the name that nnU-Net gives it."""
    name = scan_stem(path)
    ending = path.name.removeprefix(name)
    return not path.exists() and path.with_name(f"{name}{_CHANNEL}{ending}").exists()


def find_msd(folder: Path) -> DatasetFiles:
    """The pairs of scan and label map that `dataset.json` lists under `training`.

    Raises:
        InputError: if `dataset.json` is missing, of another kind or names files outside of the
            folder, or scans have several channels.
    """
    path = folder / "dataset.json"
    dataset = read_dataset_json(path)
    if "modality" not in dataset or "training" not in dataset:
        hint = " It looks like one of nnU-Net: name the source nnunet." * (
            "channel_names" in dataset
        )
        raise InputError(
            f"{path}: lacks modality and training, which a data set of the Medical Segmentation "
            f"Decathlon has.{hint or ' Use the layout folder.'}"
        )
    require_one_channel(path, "modality", dataset["modality"])
    label_names = read_label_names(path, dataset)
    try:
        listed = [(Path(e["image"]), Path(e["label"])) for e in dataset["training"]]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path}: training is not as the Decathlon writes it ({error!r}). Correct it: a list "
            'of {"image": ..., "label": ...}.'
        ) from error
    for file in (file for pair in listed for file in pair):
        if file.is_absolute() or os.path.normpath(file).startswith(".."):
            raise InputError(f"{path}: names {file}, which is outside of its folder. Correct it.")
    if listed and all(_is_nnunets(folder / image) for image, _ in listed):
        raise InputError(
            f"{folder}: its scans are named NAME{_CHANNEL}, as nnU-Net names them. Name the source "
            "nnunet."
        )
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
