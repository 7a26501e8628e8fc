"""Layouts: a folder of scans comes in, which files belong to which subject leaves.

A layout is how scans and label maps lie in a folder, under the name that a task file or `--tasks`
gives it. Nothing is read here but lists of files and what a data set says of itself; whether every
subject is complete and sound is for `mtseg.sources` and `mtseg.checks`.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtseg.errors import InputError
from mtseg.scan_files import ENDINGS, scan_stem


@dataclass(frozen=True)
class Candidate:
    """The files of what may be a subject.

    Attributes:
        name: unique in its folder.
        images: its scans; a sound subject has one.
        label_maps: its label maps; a sound subject has one.
        side: `train` or `test`, where the layout says so.
        person: who it is, where a person may have several scans.
    """

    name: str
    images: tuple[Path, ...]
    label_maps: tuple[Path, ...]
    side: str | None = None
    person: str | None = None


@dataclass(frozen=True)
class Found:
    """What lies in a folder.

    Attributes:
        candidates: in the order of their names.
        label_names: for each label that the data set names, its values.
        unused: scan files that belong to no subject.
    """

    candidates: tuple[Candidate, ...]
    label_names: dict[str, tuple[int, ...]] = field(default_factory=dict)
    unused: tuple[Path, ...] = ()


def find_subjects(layout: str, folder: Path, where: str) -> Found:
    """Finds the files of every subject in a folder.

    Args:
        layout: one of `LAYOUTS`.
        folder: where they are.
        where: the task and source, for messages.

    Raises:
        InputError: if the folder cannot be listed, does not lie as the layout says, or has no scan.
    """
    find, expected = LAYOUTS[layout]
    try:
        next(folder.iterdir(), None)
        found = find(folder)
    except OSError as error:
        raise InputError(
            f"{error.filename or folder}: cannot be listed ({error.strerror}). Give --manual-dir "
            f"a folder of {expected} for {where}."
        ) from error
    if not found.candidates:
        raise InputError(f"{folder}: has no scans of {where}. Give --manual-dir {expected}.")
    return found


def _scan_files(folder: Path) -> list[Path]:
    """The scan files of a folder, by name; those that macOS hides beside them are none."""
    names = (path for path in folder.iterdir() if path.name.endswith(ENDINGS))
    return sorted(path for path in names if not path.name.startswith("."))


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _pair(
    images: Iterable[tuple[str, Path]],
    label_maps: Iterable[tuple[str, Path]],
    side: str | None = None,
) -> list[Candidate]:
    """Candidates from files and the names of their subjects."""
    files: dict[str, tuple[list[Path], list[Path]]] = defaultdict(lambda: ([], []))
    for kind, named in enumerate((images, label_maps)):
        for name, path in named:
            files[name][kind].append(path)
    return [Candidate(n, tuple(i), tuple(m), side) for n, (i, m) in sorted(files.items())]


def _find_miccai2012(folder: Path) -> Found:
    images, label_maps, unused = [], [], []
    for path in _scan_files(folder):
        number = re.match(r"\d+", path.name)
        if number is None:
            unused.append(path)
        else:
            which = label_maps if scan_stem(path).endswith("_glm") else images
            which.append((number[0], path))
    return Found(tuple(_pair(images, label_maps)), unused=tuple(unused))


def _find_folder(folder: Path) -> Found:
    # A subfolder of images is a DICOM series.
    images = [*_scan_files(folder / "images"), *_subfolders(folder / "images")]
    label_maps = _scan_files(folder / "labels")
    named = ([(scan_stem(path), path) for path in paths] for paths in (images, label_maps))
    return Found(tuple(_pair(*named)))


def _find_nnunet(folder: Path) -> Found:
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
            candidates += _pair(
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
    return Found(tuple(candidates), names)


def _find_msd(folder: Path) -> Found:
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
        names = {str(name): (int(value),) for value, name in dataset["labels"].items()}
        listed = [(Path(e["image"]), Path(e["label"])) for e in dataset["training"]]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{folder / 'dataset.json'}: labels or training are not as the Decathlon writes them "
            f"({error!r}). Correct it."
        ) from error
    candidates, known = [], set()
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
        for path in _scan_files(folder / sub)
        if path not in known
    ]
    return Found(tuple(sorted(candidates, key=lambda c: c.name)), names, tuple(unused))


def _find_bids(folder: Path) -> Found:
    images = _by_session(folder.glob("sub-*/**/anat/sub-*_T1w.*"), "T1w")
    derivatives = folder / "derivatives"
    label_maps = _by_session(derivatives.glob("*/sub-*/**/anat/sub-*_dseg.*"), "dseg")
    candidates = [
        Candidate(c.name, c.images, c.label_maps, None, c.name.split("_")[0])
        for c in _pair(images, label_maps)
    ]
    tables = [folder / "dseg.tsv", *sorted(derivatives.glob("*/dseg.tsv"))]
    tables += sorted(derivatives.glob("*/sub-*/**/anat/*_dseg.tsv"))
    names: dict[str, tuple[int, ...]] = {}
    for table in (path for path in tables if path.is_file()):
        for name, value in _read_dseg_table(table):
            if names.setdefault(name, (value,)) != (value,):
                raise InputError(
                    f"{table}: {name} is {value} here and {names[name][0]} in another table of "
                    "this data set. Make them agree, or give labels by number in the task file."
                )
    return Found(tuple(candidates), names)


def _by_session(paths: Iterable[Path], suffix: str) -> list[tuple[str, Path]]:
    named = []
    for path in sorted(paths):
        entities = re.match(r"(sub-[^_]+)(_ses-[^_]+)?", path.name)
        if path.name.endswith(ENDINGS) and scan_stem(path).endswith(f"_{suffix}") and entities:
            named.append((entities[1] + (entities[2] or ""), path))
    return named


def _read_dseg_table(path: Path) -> list[tuple[str, int]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        return [(row["name"].strip(), int(row["index"])) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: is no table of labels with the columns index and name, separated by tabs."
        ) from error


def _find_freesurfer(folder: Path) -> Found:
    images, label_maps = [], []
    for subject in _subfolders(folder):
        mri = subject / "mri"
        if subject.name.startswith("fsaverage") or not mri.is_dir():
            continue
        for name in ("orig.mgz", "norm.mgz"):
            if (mri / name).exists():
                images.append((subject.name, mri / name))
                break
        if (mri / "aseg.mgz").exists():
            label_maps.append((subject.name, mri / "aseg.mgz"))
    return Found(tuple(_pair(images, label_maps)))


def _find_imagecas(folder: Path) -> Found:
    images, label_maps = [], []
    for path in sorted(folder.glob("**/*.nii.gz")):
        for ending, which in ((".img.nii.gz", images), (".label.nii.gz", label_maps)):
            if path.name.endswith(ending):
                which.append((path.name.removesuffix(ending), path))
    return Found(tuple(_pair(images, label_maps)))


def _find_asoca(folder: Path) -> Found:
    images, label_maps = [], []
    for scans in sorted(folder.glob("**/CTCA")):
        images += [(scan_stem(path), path) for path in _scan_files(scans)]
        if (scans.parent / "Annotations").is_dir():
            labels = _scan_files(scans.parent / "Annotations")
            label_maps += [(scan_stem(path), path) for path in labels]
    return Found(tuple(_pair(images, label_maps)))


def _read_dataset_json(folder: Path) -> dict[str, Any]:
    path = folder / "dataset.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
    except FileNotFoundError as error:
        raise InputError(
            f"{folder}: has no dataset.json. Give --manual-dir the data set's own folder."
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: is no dataset.json: {error}. Correct it.") from error
    return content


def _refuse_channels(folder: Path, channels: Any) -> None:
    if len(channels) != 1:
        names = ", ".join(map(str, channels.values() if isinstance(channels, dict) else channels))
        raise InputError(
            f"{folder / 'dataset.json'}: its scans have {len(channels)} channels ({names}). The "
            "network takes one scan at a time: make a data set of one of them."
        )


LAYOUTS: dict[str, tuple[Callable[[Path], Found], str]] = {
    "miccai2012": (
        _find_miccai2012,
        "NNNN_SS.nii.gz or NNNN*.nii.gz (scans) beside NNNN*_glm.nii.gz (label maps), NNNN being "
        "the subject",
    ),
    "folder": (_find_folder, "images/ and labels/ with equal names in both"),
    "nnunet": (
        _find_nnunet,
        "dataset.json, imagesTr/NAME_0000.nii.gz and labelsTr/NAME.nii.gz, as nnU-Net v2 has them",
    ),
    "msd": (_find_msd, "dataset.json, imagesTr/ and labelsTr/, as the Decathlon has them"),
    "bids": (
        _find_bids,
        "sub-*/anat/sub-*_T1w.nii.gz and derivatives/*/sub-*/anat/sub-*_dseg.nii.gz",
    ),
    "freesurfer": (_find_freesurfer, "SUBJECT/mri/orig.mgz (or norm.mgz) and SUBJECT/mri/aseg.mgz"),
    "imagecas": (_find_imagecas, "N.img.nii.gz beside N.label.nii.gz"),
    "asoca": (_find_asoca, "*/CTCA/NAME.nrrd and */Annotations/NAME.nrrd"),
}
"""How to find the subjects of a folder, and how to say what is expected there."""
