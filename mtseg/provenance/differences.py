"""How two fingerprints differ, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mtseg.provenance.fingerprint import (
    Fingerprint,
    SubjectPrint,
    describe_labels,
    describe_task,
)
from mtseg.tasks.task import Task, first_ten

_SETTINGS = {
    "size": "size of phantoms",
    "patches_per_class": "patches per class",
    "seed": "seed",
    "num_shards": "number of shards",
}
"""Name of a setting -> how a reader calls it."""

_VALIDATION = {"share": "validation share", "seed": "seed of the validation subjects"}
"""Likewise, of how validation subjects are chosen."""


def list_differences(before: Fingerprint, now: Fingerprint) -> list[str]:
    """What differs between the data of stored records and the data as it is now.

    Args:
        before: the stored fingerprint.
        now: the other, with the checksums that `mtseg.provenance.fingerprint.add_checksums` adds.

    Returns:
        Short texts, such as `label map of s0 changed`; empty if the records would be the same.
    """
    return [
        *definition_differences(before, now),
        *_changed_values(before.source["validation"], now.source["validation"], _VALIDATION),
        *subject_differences(before, now),
        *_changed_values(before.settings, now.settings, _SETTINGS),
        *(
            f"version of {name} is {_show(now.versions.get(name))}, was {_show(version)}"
            for name, version in before.versions.items()
            if now.versions.get(name) != version
        ),
    ]


def definition_differences(before: Fingerprint, now: Fingerprint) -> list[str]:
    """What differs in the task's definition and in what the labels of the source mean."""
    return [
        *_task_differences(before.task, now.task),
        *_label_differences(before.source["labels"], now.source["labels"]),
    ]


def preparation_differences(before: Fingerprint, now: Fingerprint) -> list[str]:
    """What differs in how scans or phantoms were prepared, whatever the kinds of the records."""

    def of(print_: Fingerprint) -> dict[str, Any]:
        version = print_.versions.get("preparation")
        return {"size": print_.settings.get("size"), "preparation": version}

    called = {"size": _SETTINGS["size"], "preparation": "version of preparation"}
    return list(_changed_values(of(before), of(now), called))


def list_task_differences(before: Fingerprint, task: Task) -> list[str]:
    """What differs between the task of stored records and a task.

    Args:
        before: the stored fingerprint.
        task: from a task file, or from the folder of a run: then it has no sources, and what
            labels mean is not compared.

    Returns:
        As `list_differences`.
    """
    texts = list(
        _task_differences(before.task, describe_task(task), may_be_elsewhere=not task.path)
    )
    if not task.sources and not task.path:
        return texts
    now = describe_labels(task.source(before.source["name"]))
    # The task file may name labels by numbers, or leave their values to the data set.
    if now not in (before.source["labels"], before.source["labels_in_task_file"]):
        if now is None:
            texts.append("labels are those of the data set, were given by the task file")
        else:
            texts += _label_differences(before.source["labels"], now)
    return texts


def subject_differences(before: Fingerprint, now: Fingerprint) -> list[str]:
    """What differs in the subjects, their files and their split."""
    old, new = ({s.name: s for s in print_.subjects} for print_ in (before, now))
    both = [name for name in new if name in old]
    texts = [
        text
        for what, index in (("scan", 0), ("label map", 1))
        if (text := _count(f"{what} of", [n for n in both if _differ(old[n], new[n], index)]))
    ]
    texts = [f"{text} changed" for text in texts]
    if reseeded := [name for name in both if old[name].seed != new[name].seed]:
        texts.append(f"{_count('phantom', reseeded)} changed")
    if added := [name for name in new if name not in old]:
        texts.append(f"{_subjects(added)} added")
    if removed := [name for name in old if name not in new]:
        texts.append(f"{_subjects(removed)} removed")
    moves: dict[tuple[str, str], list[str]] = {}
    for name in both:
        if old[name].split != new[name].split:
            moves.setdefault((old[name].split, new[name].split), []).append(name)
    for (source, target), names in moves.items():
        texts.append(f"split of {first_ten(names)} changed from {source} to {target}")
    if not (added or removed or moves) and list(old) != list(new):
        texts.append("order of the subjects changed")
    folders = before.source["folder"], now.source["folder"]
    if texts and folders[0] != folders[1] and all(folders):
        texts.insert(0, f"another folder: {folders[1]}, was {folders[0]}")
    return texts


def _differ(old: SubjectPrint, new: SubjectPrint, index: int) -> bool:
    before, now = old.files[index], new.files[index]
    if before is None or now is None:
        return before is not now
    return before.sha256 != now.sha256


def _count(what: str, names: Sequence[str]) -> str:
    return f"{what} {first_ten(names)}" if names else ""


def _subjects(names: Sequence[str]) -> str:
    return f"{'subject' if len(names) == 1 else 'subjects'} {first_ten(names)}"


def _task_differences(
    before: Mapping[str, Any], now: Mapping[str, Any], may_be_elsewhere: bool = False
) -> Iterator[str]:
    texts = [*_class_differences(before["classes"], now["classes"])]
    spacings = [_show_spacing(task) for task in (before, now)]
    if spacings[0] != spacings[1]:
        texts.append(f"voxel size is {spacings[1]}, was {spacings[0]}")
    if before["modality"] != now["modality"]:
        texts.append(f"modality is {now['modality']}, was {before['modality']}")
    if texts and before["file"] != now["file"] and not may_be_elsewhere:
        yield (
            f"another task of the same name: {show_file(now['file'])}, was "
            f"{show_file(before['file'])}"
        )
    yield from texts


def show_file(file: str) -> str:
    """The file of a task for messages; a task that comes with mtseg has none."""
    return file or "the task that comes with mtseg"


def _class_differences(before: Sequence[str], now: Sequence[str]) -> list[str]:
    places = range(max(len(before), len(now)))
    old, new = ([*names, *[""] * (len(places) - len(names))] for names in (before, now))
    texts = []
    for n in places:
        if old[n] and new[n] and old[n] != new[n]:
            texts.append(f"class {n} is {new[n]}, was {old[n]}")
        elif old[n] != new[n]:
            texts.append(f"class {n} ({new[n] or old[n]}) was {'added' if new[n] else 'removed'}")
    return texts


def _label_differences(
    before: Mapping[str, str] | None, now: Mapping[str, str] | None
) -> Iterator[str]:
    old, new = before or {}, now or {}
    for name in dict.fromkeys([*old, *new]):
        if old.get(name) != new.get(name):
            is_, was = (labels.get(name) or "none" for labels in (new, old))
            yield f"labels of {name} are {is_}, were {was}"


def _show_spacing(task: Mapping[str, Any]) -> str:
    if task["spacing_rule"] == "in_plane":
        return "the in-plane voxel size"
    return f"{task['spacing_mm']:g} mm"


def _changed_values(
    before: Mapping[str, Any], now: Mapping[str, Any], called: Mapping[str, str]
) -> Iterator[str]:
    for name in dict.fromkeys([*now, *before]):
        if now.get(name) != before.get(name):
            is_, was = (_show(values.get(name)) for values in (now, before))
            yield f"{called.get(name, name)} is {is_}, was {was}"


def _show(value: Any) -> str:
    return "the default" if value in (None, "") else str(value)
