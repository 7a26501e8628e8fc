"""Layouts with a `dataset.json`: nnU-Net v2 and the Medical Segmentation Decathlon."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mtseg.errors import InputError
from mtseg.scans.reading import scan_stem
from mtseg.sources.layouts.candidates import Candidate, MatchedFiles, pair_files, scan_files


def match_nnunet(folder: Path) -> MatchedFiles:
    dataset = _read_dataset_json(folder)
    if "channel_names" not in dataset or "file_ending" not in dataset:
        hint = " It looks like one of the Decathlon: name the source msd." * ("modality" in dataset)
        raise InputError(
            f"{folder / 'dataset.json'}: lacks channel_names and file_ending, which nnU-Net's "
            f"second version has.{hint or ' Convert the data set, or use the layout folder.'}"
        )
    _refuse_channels(folder, dataset["channel_names"])
    names = {}
    for name, values in dataset.get("labels", {}).items():
        names[str(name)] = tuple(map(int, values if isinstance(values, list) else [values]))
    ending = str(dataset["file_ending"])
    candidates = []
    for images, labels, side in (
        ("imagesTr", "labelsTr", "train"),
        ("imagesTs", "labelsTs", "test"),
    ):
        # Without label maps the test scans are for a challenge's organisers to score.
        if side == "train" or (folder / labels).is_dir():
            candidates += pair_files(
                (
                    (path.name.removesuffix(ending).removesuffix("_0000"), path)
                    for path in sorted((folder / images).iterdir())
                    if path.name.endswith(ending)
                ),
                (
                    (path.name.removesuffix(ending), path)
                    for path in sorted((folder / labels).iterdir())
                    if path.name.endswith(ending)
                ),
                side,
            )
    return MatchedFiles(tuple(candidates), names)


def match_msd(folder: Path) -> MatchedFiles:
    dataset = _read_dataset_json(folder)
    if "modality" not in dataset or "training" not in dataset:
        hint = " It looks like one of nnU-Net: name the source nnunet." * (
            "channel_names" in dataset
        )
        raise InputError(
            f"{folder / 'dataset.json'}: lacks modality and training, which a data set of the "
            f"Medical Segmentation Decathlon has.{hint or ' Use the layout folder.'}"
        )
    _refuse_channels(folder, dataset["modality"])
    try:
        names: dict[str, tuple[int, ...]] = {
            str(name): (int(value),) for value, name in dataset["labels"].items()
        }
        listed = [(Path(e["image"]), Path(e["label"])) for e in dataset["training"]]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{folder / 'dataset.json'}: labels or training are not as the Decathlon writes them "
            f"({error!r}). Correct it."
        ) from error
    candidates = []
    known: set[Path] = set()
    for path in (path for pair in listed for path in pair):
        if path.is_absolute() or os.path.normpath(path).startswith(".."):
            raise InputError(
                f"{folder / 'dataset.json'}: names {path}, which is outside of its folder. Correct "
                "it."
            )
    for image, label_map in listed:
        paths = folder / image, folder / label_map
        known.update(paths)
        there = [(path,) if path.exists() else () for path in paths]
        candidates.append(Candidate(scan_stem(image), there[0], there[1]))
    unused = [
        path
        for sub in ("imagesTr", "labelsTr")
        if (folder / sub).is_dir()
        for path in scan_files(folder / sub)
        if path not in known
    ]
    return MatchedFiles(tuple(sorted(candidates, key=lambda c: c.name)), names, tuple(unused))


def _read_dataset_json(folder: Path) -> dict[str, Any]:
    path = folder / "dataset.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
    except FileNotFoundError as error:
        raise InputError(
            f"{folder}: has no dataset.json. Give the data set's own folder."
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: is not a dataset.json: {error}. Correct it.") from error
    return content


def _refuse_channels(folder: Path, channels: Any) -> None:
    if len(channels) != 1:
        names = ", ".join(map(str, channels.values() if isinstance(channels, dict) else channels))
        raise InputError(
            f"{folder / 'dataset.json'}: its scans have {len(channels)} channels ({names}). The "
            "network takes one scan at a time: make a data set of one of them."
        )
