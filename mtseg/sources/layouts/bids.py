"""The layout of BIDS: scans and label maps whose names are made of entities.

A name such as `sub-01_ses-2_run-1_desc-aseg_dseg.nii.gz` has the entities sub, ses, run and desc,
and the suffix dseg. One participant may have several runs, and a derivative several segmentations
in several spaces; a filter of entities then chooses.

Reference: BIDS specification 1.9, "Anatomical data", "Segmentations" and "Entities".
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mtseg.errors import InputError
from mtseg.scans.reading import ENDINGS, scan_stem
from mtseg.sources.layouts.dataset_files import (
    DatasetFiles,
    SubjectFiles,
    list_subfolders,
    pair_files,
)
from mtseg.tasks.task import did_you_mean, first_ten

_SCAN, _LABEL_MAP = "T1w", "dseg"
"""Suffixes of the names of scans and of label maps."""

_OF_SCAN = ("task", "acq", "ce", "rec", "run", "echo", "part", "chunk")
"""Entities that tell the scans of a participant apart; a label map keeps those of its scan."""


def find_bids(folder: Path, entity_filter: Mapping[str, str] | None = None) -> DatasetFiles:
    """T1-weighted scans of a BIDS data set and the `dseg` label maps of its derivatives.

    Each session of a participant is a subject; all sessions of one are the same person. Names of
    labels come from the tables `dseg.tsv`. Links to folders are followed.

    Args:
        folder: of the data set.
        entity_filter: entity -> value, such as `{"run": "1", "desc": "aseg"}`. Of the scans of a
            subject, and likewise of its label maps, those with this value are used. An empty value
            chooses files without the entity. Where no file of a subject has an entity, it does not
            matter. Numbers are equal whatever zeros they begin with.

    Raises:
        InputError: if a table cannot be read, two tables contradict each other, or no file has an
            entity or value of the filter.
        OSError: if a folder cannot be listed.
    """
    derivatives = folder / "derivatives"
    datasets = list_subfolders(derivatives) if derivatives.is_dir() else []
    derived = [path for dataset in datasets for path in _list_anat(dataset)]
    scans = [path for path in _list_anat(folder) if _has_suffix(path, _SCAN)]
    segmentations = [path for path in derived if _has_suffix(path, _LABEL_MAP)]
    entity_filter = dict(entity_filter or {})
    _require_known(folder, [*scans, *segmentations], entity_filter)
    of_sessions = [_name_by_session(paths, entity_filter) for paths in (scans, segmentations)]
    images, label_maps = (_filter(named, entity_filter) for named in of_sessions)
    subjects = tuple(
        replace(files, remedy=_other_scan(files) or _how_to_choose(files))
        for files in pair_files(images, label_maps)
    )
    names = {files.name for files in subjects}
    unused = [path for name, path in of_sessions[0] if name not in names]
    tables = [folder / "dseg.tsv", *(dataset / "dseg.tsv" for dataset in datasets)]
    tables += [path for path in derived if path.name.endswith("_dseg.tsv")]
    return DatasetFiles(subjects, _read_label_tables(tables), tuple(unused))


def _list_anat(dataset: Path) -> list[Path]:
    """The files in the folders `anat` of every participant and session, sorted."""
    files: list[Path] = []
    for participant in list_subfolders(dataset):
        if not participant.name.startswith("sub-"):
            continue
        sessions = [sub for sub in list_subfolders(participant) if sub.name.startswith("ses-")]
        for place in (participant, *sessions):
            if (place / "anat").is_dir():
                files += sorted((place / "anat").iterdir())
    return [path for path in files if re.match("sub-[^_.]", path.name)]


def _has_suffix(path: Path, suffix: str) -> bool:
    return path.name.lower().endswith(ENDINGS) and scan_stem(path).endswith(f"_{suffix}")


def _entities(path: Path) -> dict[str, str]:
    """The entities in a file's name, such as `{"sub": "01", "run": "1"}`."""
    return dict(re.findall(r"([a-zA-Z]+)-([^_.]+)", scan_stem(path)))


def _name_by_session(paths: Sequence[Path], wanted: Mapping[str, str]) -> list[tuple[str, Path]]:
    """Files with their `sub-…`, or `sub-…_ses-…`; without those of other participants, sessions."""
    named = []
    for path in paths:
        entities = _entities(path)
        chosen = {key: wanted[key] for key in ("sub", "ses") if key in wanted}
        if all(_is_equal(entities.get(key, ""), value) for key, value in chosen.items()):
            name = f"sub-{entities['sub']}"
            named.append((f"{name}_ses-{entities['ses']}" if "ses" in entities else name, path))
    return named


def _filter(named: Sequence[tuple[str, Path]], wanted: Mapping[str, str]) -> list[tuple[str, Path]]:
    """Those files of every subject that have the wanted entities."""
    by_subject: dict[str, list[Path]] = defaultdict(list)
    for name, path in named:
        by_subject[name].append(path)
    for name, paths in by_subject.items():
        for key, value in wanted.items():
            if any(key in _entities(path) for path in paths):
                paths = [path for path in paths if _is_equal(_entities(path).get(key, ""), value)]
        by_subject[name] = paths
    return [(name, path) for name, paths in by_subject.items() for path in paths]


def _is_equal(value: str, wanted: str) -> bool:
    is_number = value.isdecimal() and wanted.isdecimal()  # an index may be padded: 1 is 01
    return int(value) == int(wanted) if is_number else value == wanted


def _require_known(folder: Path, paths: Sequence[Path], wanted: Mapping[str, str]) -> None:
    """Refuses a filter with an entity or a value that no file has.

    Raises:
        InputError: naming those that there are.
    """
    values: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        for key, value in _entities(path).items():
            values[key].add(value)
    for key, value in wanted.items():
        if key not in values:
            raise InputError(
                f"{folder}: no scan or label map has the filter's entity {key}"
                f"{did_you_mean(key, values)}. Their entities: {first_ten(values) or 'none'}."
            )
        if value and not any(_is_equal(known, value) for known in values[key]):
            raise InputError(
                f"{folder}: no scan or label map has {key}-{value} of the filter. Give one of "
                f"{first_ten(sorted(values[key]))}, or nothing for files without {key}."
            )


def _other_scan(files: SubjectFiles) -> str:
    """Says why a subject's label map is of another scan than its only one; empty if it is not."""
    if len(files.images) != 1 or len(files.label_maps) != 1:
        return ""
    of_image, of_map = (_entities(paths[0]) for paths in (files.images, files.label_maps))
    differing = "; ".join(
        f"{key} is {of_map[key]}, not {of_image[key]}"
        for key in _OF_SCAN
        if key in of_image and key in of_map and not _is_equal(of_map[key], of_image[key])
    )
    if not differing:
        return ""
    return f"The label map is of another scan ({differing}). Add that of this scan, or remove both."


def _how_to_choose(files: SubjectFiles) -> str:
    """Says which entities tell several files of a subject apart; empty if there is one of each."""
    choices: dict[str, list[str]] = {}
    chosen: dict[str, str] = {}
    for paths in (files.images, files.label_maps):
        of_files = [_entities(path) for path in paths]
        for key in dict.fromkeys(key for entities in of_files for key in entities):
            values = list(dict.fromkeys(entities.get(key, "") for entities in of_files))
            if len(values) > 1:
                known = choices.setdefault(key, [])
                known += [value for value in values if value not in known]
                chosen.setdefault(key, values[0])
    if not choices:
        return ""
    shown = "; ".join(
        f"{key} is {' or '.join(value or 'absent' for value in values)}"
        for key, values in choices.items()
    )
    table = ", ".join(f'{key} = "{value}"' for key, value in chosen.items())
    return (
        f"Keep one by a filter ({shown}): [sources.bids] filter = {{ {table} }} in a task file, or "
        f"for one command mtseg-check or mtseg-prepare --bids-filter "
        f"{','.join(f'{key}={value}' for key, value in chosen.items())} (nothing after = chooses "
        "files without the entity)."
    )


def _read_label_tables(tables: Sequence[Path]) -> dict[str, tuple[int, ...]]:
    """The labels that the tables name.

    Raises:
        InputError: if a table cannot be read, or two give one name two values.
    """
    label_names: dict[str, tuple[int, ...]] = {}
    for table in (path for path in tables if path.is_file()):
        for name, value in _read_label_table(table):
            if label_names.setdefault(name, (value,)) != (value,):
                raise InputError(
                    f"{table}: {name} is {value} here and {label_names[name][0]} in another table "
                    "of this data set. Make them agree, or give labels by number in the task file."
                )
    return label_names


def _read_label_table(path: Path) -> list[tuple[str, int]]:
    """Name and value of each label in a `dseg.tsv`."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        return [(row["name"].strip(), int(row["index"])) for row in rows]
    except (OSError, csv.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: is not a table of labels. Write the columns index and name, separated by "
            "tabs."
        ) from error
