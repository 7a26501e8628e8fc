"""Layouts by file names alone: `folder`, the MICCAI 2012 challenge, ImageCAS and ASOCA."""

from __future__ import annotations

import re
from pathlib import Path

from mtseg.scans.reading import scan_stem
from mtseg.sources.layouts.candidates import MatchedFiles, pair_files, scan_files, subfolders


def match_miccai2012(folder: Path) -> MatchedFiles:
    """`NNNN*.nii.gz` beside `NNNN*_glm.nii.gz`, the label maps, in one folder."""
    images: list[tuple[str, Path]] = []
    label_maps: list[tuple[str, Path]] = []
    unused = []
    for path in scan_files(folder):
        number = re.match(r"\d+", path.name)
        if number is None:
            unused.append(path)
        else:
            which = label_maps if scan_stem(path).endswith("_glm") else images
            which.append((number[0], path))
    return MatchedFiles(tuple(pair_files(images, label_maps)), unused=tuple(unused))


def match_folder(folder: Path) -> MatchedFiles:
    """`images/` and `labels/` with equal names."""
    # A subfolder of images is a DICOM series.
    images = [*scan_files(folder / "images"), *subfolders(folder / "images")]
    label_maps = scan_files(folder / "labels")
    named_images = [(scan_stem(path), path) for path in images]
    named_label_maps = [(scan_stem(path), path) for path in label_maps]
    return MatchedFiles(tuple(pair_files(named_images, named_label_maps)))


def match_imagecas(folder: Path) -> MatchedFiles:
    """`NAME.img.nii.gz` and `NAME.label.nii.gz`, at any depth."""
    images: list[tuple[str, Path]] = []
    label_maps: list[tuple[str, Path]] = []
    for path in sorted(folder.glob("**/*.nii.gz")):
        for ending, which in ((".img.nii.gz", images), (".label.nii.gz", label_maps)):
            if path.name.endswith(ending):
                which.append((path.name.removesuffix(ending), path))
    return MatchedFiles(tuple(pair_files(images, label_maps)))


def match_asoca(folder: Path) -> MatchedFiles:
    """Scans in folders `CTCA`, label maps in the folders `Annotations` beside them."""
    images: list[tuple[str, Path]] = []
    label_maps: list[tuple[str, Path]] = []
    for scans in sorted(folder.glob("**/CTCA")):
        images += [(scan_stem(path), path) for path in scan_files(scans)]
        if (scans.parent / "Annotations").is_dir():
            labels = scan_files(scans.parent / "Annotations")
            label_maps += [(scan_stem(path), path) for path in labels]
    return MatchedFiles(tuple(pair_files(images, label_maps)))
