"""Which files of a folder a source uses: patterns of their names, or a filter of BIDS's entities.

A task file says it for good (`images`, `label_maps` and `filter` of a source), the flag
`--bids-filter` for one command.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from mtseg.errors import InputError
from mtseg.tasks.task import Task


def read_file_choice(source: dict[str, Any], layout: str, where: str) -> dict[str, Any]:
    """Reads the keys of a source that say which files it uses.

    Args:
        source: the table of a source in a task file; types of values are checked already.
        layout: name of its layout.
        where: its place in the file, for messages.

    Returns:
        Fields of `mtseg.tasks.task.LabelSource`.

    Raises:
        InputError: if the layout does not have such a choice, or a pattern or an entity cannot be
            one.
    """
    patterns: dict[str, str] = {k: source[k] for k in ("images", "label_maps") if k in source}
    if patterns and layout != "folder":
        raise InputError(f"{where}{next(iter(patterns))}: is for the layout folder, not {layout}.")
    if len(patterns) == 1:
        raise InputError(
            f"{where}{next(iter(patterns))}: give patterns of both, images and label_maps."
        )
    for key, pattern in patterns.items():
        if "*" not in pattern or "**" in pattern or {"", ".", ".."} & set(pattern.split("/")):
            raise InputError(
                f"{where}{key}: {pattern!r} is not a pattern. Write a path in the folder of scans "
                'in which * is the subject, such as "imgs/*_t1.nii.gz".'
            )
    entities = source.get("filter", {})
    if entities and layout != "bids":
        raise InputError(f"{where}filter: is for the layout bids, not {layout}.")
    for key, value in entities.items():
        if type(value) is not str:
            raise InputError(f'{where}filter.{key}: write the value in quotes: {key} = "{value}".')
    _check_entities(entities, f"{where}filter")
    return {**patterns, "entity_filter": tuple(entities.items())}


def with_entity_filter(task: Task, source: str, text: str) -> Task:
    """The task with a filter that replaces that of one of its sources.

    Args:
        task: the task.
        source: name of the source, of the layout bids.
        text: entities and values as a user types them, such as `run=1,desc=aseg`.

    Raises:
        InputError: if the text is not made of entities.
    """
    labels = task.source(source)
    entities: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or key in entities:
            raise InputError(
                f"--bids-filter: {text!r} cannot be read. Write entities once each, such as "
                "run=1,desc=aseg."
            )
        entities[key] = value
    _check_entities(entities, "--bids-filter")
    chosen = dataclasses.replace(labels, entity_filter=tuple(entities.items()))
    sources = {each.name: each for each in task.sources} | {source: chosen}
    return dataclasses.replace(task, sources=tuple(sources.values()))


def _check_entities(entities: dict[str, str], where: str) -> None:
    """Refuses what cannot be an entity of BIDS; an empty value asks for files without it."""
    for key, value in entities.items():
        if not re.fullmatch(r"[a-zA-Z]+", key) or not re.fullmatch(r"[a-zA-Z0-9]*", value):
            raise InputError(
                f"{where}: {key} = {value!r} is not an entity and its value. Write them as in file "
                "names, such as run and 1 for run-1."
            )
