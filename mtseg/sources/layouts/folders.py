"""Layouts that need file names alone: `folder`, the MICCAI 2012 challenge, ImageCAS and ASOCA."""

from __future__ import annotations

import re
from pathlib import Path

from mtseg.scans.reading import scan_stem
from mtseg.sources.layouts.dataset_files import (
    DatasetFiles,
    is_hidden,
    list_scan_files,
    list_subfolders,
    pair_files,
)


def find_miccai2012(folder: Path) -> DatasetFiles:
    """`NNNN*.nii.gz` beside its label map `NNNN*_glm.nii.gz`, all in one folder."""
    images: list[tuple[str, Path]] = []
    label_maps: list[tuple[str, Path]] = []
    unused = []
    for path in list_scan_files(folder):
        number = re.match(r"\d+", path.name)
        if number is None:
            unused.append(path)
        else:
            which = label_maps if scan_stem(path).endswith("_glm") else images
            which.append((number[0], path))
    return DatasetFiles(tuple(pair_files(images, label_maps)), unused=tuple(unused))


def find_folder(folder: Path) -> DatasetFiles:
    """`images/` and `labels/` with equal names; a subfolder of `images/` is a DICOM series."""
    images = [*list_scan_files(folder / "images"), *list_subfolders(folder / "images")]
    label_maps = list_scan_files(folder / "labels")
    named_images = [(scan_stem(path), path) for path in images]
    named_label_maps = [(scan_stem(path), path) for path in label_maps]
    return DatasetFiles(tuple(pair_files(named_images, named_label_maps)))


def find_imagecas(folder: Path) -> DatasetFiles:
    """`NAME.img.nii.gz` and `NAME.label.nii.gz`, in subfolders of any depth."""
    images: list[tuple[str, Path]] = []
    label_maps: list[tuple[str, Path]] = []
    for path in sorted(folder.glob("**/*.nii.gz")):
        for ending, which in ((".img.nii.gz", images), (".label.nii.gz", label_maps)):
            if path.name.endswith(ending) and not is_hidden(path):
                which.append((path.name.removesuffix(ending), path))
    return DatasetFiles(tuple(pair_files(images, label_maps)))


def find_asoca(folder: Path) -> DatasetFiles:
    """Scans in folders `CTCA`, label maps in the folders `Annotations` beside them."""
    images: list[tuple[str, Path]] = []
    label_maps: list[tuple[str, Path]] = []
    for scans in sorted(folder.glob("**/CTCA")):
        images += [(scan_stem(path), path) for path in list_scan_files(scans)]
        if (scans.parent / "Annotations").is_dir():
            labels = list_scan_files(scans.parent / "Annotations")
            label_maps += [(scan_stem(path), path) for path in labels]
    return DatasetFiles(tuple(pair_files(images, label_maps)))
