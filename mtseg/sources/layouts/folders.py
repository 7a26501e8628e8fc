"""Layouts that need file names alone: `folder`, the MICCAI 2012 challenge, FreeSurfer, and others.

`folder` also takes patterns: the task file then says how scans and label maps are named.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mtseg.scans.reading import ENDINGS, scan_stem
from mtseg.sources.layouts.dataset_files import (
    DatasetFiles,
    is_hidden,
    list_folders_within,
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
    images, label_maps = (
        [(scan_stem(_entry(path, folder / sub)), path) for path in list_scan_files(folder / sub)]
        for sub in ("images", "labels")
    )
    opened = {path.parent for _, path in images}
    series = [sub for sub in list_subfolders(folder / "images") if sub not in opened]
    images += [(scan_stem(path), path) for path in series]
    return DatasetFiles(tuple(pair_files(images, label_maps)))


def _entry(path: Path, folder: Path) -> Path:
    """The entry of a folder that a file is, or is in."""
    return path if path.parent == folder else path.parent


def find_by_patterns(folder: Path, images: str, label_maps: str) -> DatasetFiles:
    """Scans and label maps whose paths in the folder match a pattern.

    Args:
        folder: of the data set.
        images: such as `imgs/*_t1.nii.gz` or `*/*_t1.nii.gz`. Every `*` is the subject's name, the
            same text each time; other characters stand for themselves. A pattern that does not end
            like a scan file takes files of every format, and folders as DICOM series.
        label_maps: likewise. A file that matches both patterns is of the longer one.
    """
    scans, maps = _match(folder, images), _match(folder, label_maps)
    both = {path for _, path in scans} & {path for _, path in maps}
    if len(images) > len(label_maps):
        maps = [(name, path) for name, path in maps if path not in both]
    else:
        scans = [(name, path) for name, path in scans if path not in both]
    return DatasetFiles(tuple(pair_files(scans, maps)))


def _match(folder: Path, pattern: str) -> list[tuple[str, Path]]:
    """Name of the subject and path of everything that matches a pattern of `find_by_patterns`."""
    first, *others = (re.escape(part) for part in pattern.split("*"))
    expression = re.compile(f"{first}(?P<name>[^/]+?){'(?P=name)'.join(others)}")
    is_any_format = not pattern.lower().endswith(ENDINGS)
    found = []
    for path in _list_matching(folder, pattern.split("/")):
        stem = scan_stem(path) if is_any_format else path.name
        match = expression.fullmatch(path.with_name(stem).relative_to(folder).as_posix())
        if match and (path.is_dir() or path.name.lower().endswith(ENDINGS)):
            found.append((match["name"], path))
    return found


def _list_matching(folder: Path, parts: Sequence[str]) -> list[Path]:
    """The paths below a folder whose first folders match the parts of a pattern, sorted."""
    part, *rest = parts
    if not rest:
        return sorted(path for path in folder.iterdir() if not is_hidden(path))
    expression = re.compile(re.escape(part).replace(r"\*", ".+"))
    subfolders = [sub for sub in list_subfolders(folder) if expression.fullmatch(sub.name)]
    return [path for sub in subfolders for path in _list_matching(sub, rest)]


def find_imagecas(folder: Path) -> DatasetFiles:
    """`NAME.img.nii.gz` and `NAME.label.nii.gz`, in subfolders of any depth."""
    images: list[tuple[str, Path]] = []
    label_maps: list[tuple[str, Path]] = []
    paths = [path for sub in list_folders_within(folder) for path in list_scan_files(sub)]
    for path in dict.fromkeys(paths):  # that in a folder of its own name is there twice
        for ending, which in ((".img.nii.gz", images), (".label.nii.gz", label_maps)):
            if path.name.endswith(ending):
                which.append((path.name.removesuffix(ending), path))
    return DatasetFiles(tuple(pair_files(images, label_maps)))


def find_asoca(folder: Path) -> DatasetFiles:
    """Scans in folders `CTCA`, label maps in the folders `Annotations` beside them."""
    images: list[tuple[str, Path]] = []
    label_maps: list[tuple[str, Path]] = []
    for scans in (sub for sub in list_folders_within(folder) if sub.name == "CTCA"):
        images += [(scan_stem(path), path) for path in list_scan_files(scans)]
        if (scans.parent / "Annotations").is_dir():
            labels = list_scan_files(scans.parent / "Annotations")
            label_maps += [(scan_stem(path), path) for path in labels]
    return DatasetFiles(tuple(pair_files(images, label_maps)))


def find_freesurfer(folder: Path) -> DatasetFiles:
    """`orig.mgz`, else `norm.mgz`, and the segmentation `aseg.mgz` of each subject.

    The averages that FreeSurfer adds (`fsaverage*`) are left out.
    """
    images, label_maps = [], []
    for subject in list_subfolders(folder):
        mri = subject / "mri"
        if subject.name.startswith("fsaverage") or not mri.is_dir():
            continue
        for name in ("orig.mgz", "norm.mgz"):
            if (mri / name).exists():
                images.append((subject.name, mri / name))
                break
        if (mri / "aseg.mgz").exists():
            label_maps.append((subject.name, mri / "aseg.mgz"))
    return DatasetFiles(tuple(pair_files(images, label_maps)))
