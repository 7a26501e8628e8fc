"""A first task file for a data set, from its `dataset.json`, its tables, or its label maps.

`mtseg-check --write-task-file` writes it. What no file says, such as titles, is for the user to
correct; nothing that decides how voxels are learnt is guessed from names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mtseg.errors import InputError
from mtseg.scans.intensities import is_ct
from mtseg.scans.label_files import read_label_map
from mtseg.scans.reading import open_scan, read_scan
from mtseg.sources.layouts.catalog import LAYOUTS, find_files
from mtseg.system.atomic_files import atomic_write, writing_to
from mtseg.tasks.task import LabelSource, Split
from mtseg.tasks.task_file import read_task

_THICK = 3.0
"""If voxels are more than this many times longer than wide, the in-plane voxel size is used."""


def write_task_draft(path: Path, layout: str, folder: Path) -> int:
    """Writes a task file for a data set.

    Args:
        path: the file; it must not exist.
        layout: name of the data set's layout.
        folder: the data set.

    Returns:
        The number of classes.

    Raises:
        InputError: if the file exists or cannot be written, the layout is unknown, or the data set
            cannot be read.
    """
    if path.exists():
        raise InputError(f"{path}: exists already. Give another name, or remove it first.")
    if path.suffix != ".toml":
        raise InputError(f"{path}: is not a name for a task file. End it in .toml.")
    if layout not in LAYOUTS:
        raise InputError(f"{layout}: is not a layout. Give one of {', '.join(LAYOUTS)}.")
    text, num_classes = _draft(path, layout, folder)
    with writing_to(path, "Give another folder."), atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        read_task(temporary)
    return num_classes


def _draft(path: Path, layout: str, folder: Path) -> tuple[str, int]:
    """The text of the task file, and its number of classes."""
    found = find_files(LabelSource(layout, layout, None, (), Split()), folder, f"layout {layout}")
    labels: dict[str, int | str] = {}
    background: list[int | str] = ["background"] if "background" in found.label_names else [0]
    ignored: list[int | str] = ["ignore"] if "ignore" in found.label_names else []
    if found.label_names:
        labels = {
            name: name
            for name, values in found.label_names.items()
            if name not in ("background", "ignore") and values != (0,)
        }
    else:
        maps = [file for files in found.subjects for file in files.label_maps]
        values = set[int]().union(
            *(np.unique(read_label_map(file).array).tolist() for file in maps)
        )
        labels = {f"label {value}": value for value in sorted(values) if value > 0}
        ignored = [value for value in sorted(values) if value < 0]
    if not labels:
        raise InputError(f"{folder}: has no label but background. Give a labelled data set.")
    images = [file for files in found.subjects for file in files.images]
    if not images:
        raise InputError(f"{folder}: has no scan. Give a folder with {LAYOUTS[layout].expected}.")
    names = _make_names(labels)
    classes = "".join(
        f"[[classes]]\nname = {_quote(name)}\ntitle = {_quote(title)}\n\n"
        for title, name in zip(labels, names, strict=True)
    )
    table = [("background", background), *zip(names, ([v] for v in labels.values()), strict=True)]
    if ignored:
        table.append(("ignore", ignored))
    shown = "\n".join(f"{key} = {json.dumps(values, ensure_ascii=False)}" for key, values in table)
    name = _make_names([path.stem])[0]
    text = (
        f"# Drafted from {folder.resolve().name!r}: correct titles, modality, voxel size and "
        "citation.\n"
        f"name = {_quote(name)}\ntitle = {_quote(path.stem)}\n"
        f'modality = "{"CT" if is_ct(read_scan(images[0]).array) else "MR"}"\n'
        f'citation = "none"\n\n{_draft_spacing(images)}\n[decision]\nrule = "argmax"\n\n{classes}'
        f"[sources.{layout}.labels]\n{shown}\n"
    )
    return text, len(labels)


def _draft_spacing(images: Iterable[Path]) -> str:
    """The median of the finest voxel sizes; for thick slices the in-plane size of each scan."""
    spacings_mm = np.array([open_scan(path).spacing_mm for path in images])
    finest, coarsest = spacings_mm.min(axis=1), spacings_mm.max(axis=1)
    if np.median(coarsest / finest) > _THICK:
        return '[spacing]\nrule = "in_plane"\n'
    return f'[spacing]\nrule = "fixed"\nmm = {np.median(finest):.3g}\n'


def _make_names(texts: Iterable[str]) -> list[str]:
    """Names as task files want them, all different."""
    names: list[str] = []
    for text in texts:
        name = re.sub("[^a-z0-9]+", "_", text.lower()).strip("_") or "label"
        name = name if name[0].isalpha() else f"label_{name}"
        number = 2
        while name in (*names, "background", "ignore"):
            name, number = f"{name.removesuffix(f'_{number - 1}')}_{number}", number + 1
        names.append(name)
    return names


def _quote(text: str) -> str:
    """A TOML string; JSON escapes are valid there."""
    return json.dumps(text, ensure_ascii=False)
