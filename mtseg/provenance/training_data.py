"""What is checked when training starts, and what a run remembers of its data.

The folder of a run has `training_data.json`. From it follows whether a resumed run still has the
data that it began with, and whether a scan that is to be scored was trained on, by this run or by
one that it started from.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtseg.errors import InputError
from mtseg.provenance.differences import (
    definition_differences,
    list_differences,
    preparation_differences,
    subject_differences,
)
from mtseg.provenance.fingerprint import (
    PREPARATION,
    Fingerprint,
    SubjectPrint,
    add_checksums,
    describe_subjects,
    make_fingerprint,
)
from mtseg.provenance.same_scans import find_same_scans, show_same_scans
from mtseg.sources.find import find_subjects
from mtseg.sources.splits import ValidationRule
from mtseg.system.atomic_files import parse_json, write_json
from mtseg.tasks.file_choice import with_entity_filter
from mtseg.tasks.task import Task

TRAINING_DATA = "training_data.json"
"""The file in the folder of a run."""


def check_training_data(trained: Sequence[Fingerprint], scored: Sequence[Fingerprint]) -> list[str]:
    """Checks the records of a training run against each other.

    Args:
        trained: of the records that are trained on.
        scored: of the volumes that are scored.

    Returns:
        A line for each scan of a task that another task trains on.

    Raises:
        InputError: if the two kinds of records of a source were made from different subjects or
            labels or prepared in different ways, or a scan of a task is on both sides of the split.
    """
    by_spec = {print_.spec: print_ for print_ in scored}
    for print_ in trained:
        other = by_spec.get(print_.spec)
        if other is None:
            continue
        if texts := [
            *definition_differences(print_, other),
            *subject_differences(print_, other),
            *preparation_differences(print_, other),
        ]:
            raise InputError(
                f"{print_.spec}: {print_.kind} and {other.kind} were prepared from different data: "
                f"{'; '.join(texts)}. Rerun mtseg-prepare with --update --kinds patches,volumes."
            )
    found = find_same_scans(trained, scored)
    if same := [item for item in found if item.is_of_one_task]:
        raise InputError(
            f"{same[0].scored.image.path if same[0].scored.image else same[0].scored.name}: the "
            f"same scan is on both sides of the split: {show_same_scans(same)}. Keep it on one "
            "side, and rerun mtseg-prepare with --update."
        )
    if found:
        return [
            f"Scans that one task trains on are scored in another: {show_same_scans(found)}. The "
            "scores of these scans are optimistic."
        ]
    return []


def list_stale(prints: Sequence[Fingerprint], tasks: Sequence[Task]) -> list[str]:
    """Compares records with the scans that they were made from, where these can be found.

    Args:
        prints: of the records.
        tasks: with their sources.

    Returns:
        A line for each source whose scans, label maps or split have changed since, or whose labels
        mean something else, and for each that an earlier version prepared in another way.
    """
    lines = []
    for print_ in prints:
        if print_.versions.get("preparation") != PREPARATION:
            lines.append(
                f"Warning: {print_.spec}: the records were prepared by another version of mtseg, "
                "in another way than this version prepares a scan for prediction. The records are "
                "used as they are; mtseg-prepare with --update brings them up to date."
            )
        folder, source = print_.source["folder"], print_.source["name"]
        (task,) = [task for task in tasks if task.name == print_.task["name"]]
        if not folder or not Path(folder).is_dir():
            continue
        try:
            if entities := print_.source["filter"]:
                text = ",".join(f"{entity}={value}" for entity, value in entities.items())
                task = with_entity_filter(task, source, text)
            rule = ValidationRule(**print_.source["validation"])
            found = find_subjects(task, source, Path(folder), validation=rule).require_sound()
            now = make_fingerprint(
                task,
                found.labels,
                describe_subjects(found),
                folder,
                kind=print_.kind,
                settings=print_.settings,
                validation=rule,
                versions=print_.versions,
            )
            texts = [
                *definition_differences(print_, now),
                *subject_differences(print_, add_checksums(now, print_)),
            ]
        except InputError as error:
            texts = [str(error)]
        if texts:
            lines.append(
                f"Warning: {print_.spec}: the data in {folder} has changed since the records were "
                f"prepared: {'; '.join(texts)}. The records are used as they are; mtseg-prepare "
                "with --update brings them up to date."
            )
    return lines


def write_training_data(
    workdir: Path,
    prints: Sequence[Fingerprint],
    earlier: Sequence[Fingerprint] | None = (),
    *,
    is_new: bool = True,
) -> None:
    """Writes what a run is trained on, or compares it with what the run there was trained on.

    Args:
        workdir: folder of the run.
        prints: of the records that it is trained on; those without a fingerprint are left out.
        earlier: of those that the network was trained on from which a new run starts; None if
            that is not known, empty if it starts at random.
        is_new: whether the run begins with this, and not with a checkpoint; one that is resumed
            keeps what it knows.

    Raises:
        InputError: if the run began with other training subjects, or they were prepared otherwise.
        OSError: if the file cannot be written.
    """
    content = _read(workdir, earlier) or _Content([], earlier)
    stored = content.records
    before = {print_.spec: print_ for print_ in stored}
    texts = [
        f"{print_.spec}: {'; '.join(list_differences(before[print_.spec], print_))}"
        for print_ in prints
        if print_.spec in before and not _are_alike(before[print_.spec], print_, ["train"])
    ]
    if texts:
        raise InputError(
            f"{workdir}: this run was trained on other data: {'; '.join(texts)}. Prepare that data "
            "again to resume the run, or use another --workdir."
        )
    kept = earlier if is_new else content.earlier
    new = [print_ for print_ in prints if print_.spec not in before]
    if new or kept != content.earlier:
        known = None if kept is None else [print_.to_json() for print_ in kept]
        records = [print_.to_json() for print_ in [*stored, *new]]
        write_json(workdir / TRAINING_DATA, {"records": records, "started_from": known})


def _are_alike(before: Fingerprint, now: Fingerprint, splits: Sequence[str]) -> bool:
    """Whether the records of some splits are the same. Subjects of the others may differ.

    Patches are drawn by their places in the shards, so the number of these counts.
    """
    if before.settings.get("num_shards") != now.settings.get("num_shards"):
        return False
    ours, theirs = (
        dataclasses.replace(print_, subjects=print_.of_splits(*splits)) for print_ in (before, now)
    )
    return ours.content == theirs.content and not subject_differences(ours, theirs)


@dataclasses.dataclass(frozen=True)
class _Content:
    """What the file has; the arguments of `write_training_data` say more."""

    records: list[Fingerprint]
    earlier: Sequence[Fingerprint] | None


def read_training_data(workdir: Path) -> list[Fingerprint] | None:
    """What a run was trained on; None if it does not remember, as runs of earlier versions.

    Raises:
        InputError: if the file cannot be read.
    """
    content = _read(workdir, ())
    return None if content is None else content.records


def read_all_training_data(workdir: Path, init_from: str) -> tuple[list[Fingerprint], bool]:
    """What a run, and the networks that it started from, were trained on.

    Args:
        workdir: folder of the run.
        init_from: the network that it started from; empty for none. Runs of earlier versions do not
            remember what that was trained on.

    Returns:
        What is known of it, and whether that is all.

    Raises:
        InputError: if the file cannot be read.
    """
    content = _read(workdir, None if init_from else ())
    if content is None:
        return [], False
    return [*content.records, *(content.earlier or [])], content.earlier is not None


def _read(workdir: Path, default: Sequence[Fingerprint] | None) -> _Content | None:
    """What the file has, with a default for `earlier`, which earlier versions did not write."""
    path = workdir / TRAINING_DATA

    def parse(prints: Any) -> list[Fingerprint]:
        return [Fingerprint.from_json(print_) for print_ in prints]

    try:
        stored = parse_json(path.read_text(encoding="utf-8"))
        records = parse(stored["records"])
        if "started_from" not in stored:
            return _Content(records, default)
        earlier = stored["started_from"]
        return _Content(records, None if earlier is None else parse(earlier))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: cannot be read, so it is not known what the run was trained on. Restore it, "
            "or remove it to go on without."
        ) from error


def check_earlier_data(
    name: str,
    earlier: Sequence[Fingerprint] | None,
    scored: Sequence[Fingerprint],
    splits: Sequence[str],
) -> list[str]:
    """Whether a run scores scans that the network was trained on from which it starts.

    Args:
        name: of that network, for the line.
        earlier: what it was trained on; None if that is not known.
        scored: of the volumes that are scored.
        splits: the splits that are scored.

    Returns:
        A line if it does, or may do so.
    """
    if earlier is None:
        return [
            f"--init-from: {name} does not say what it was trained on. If it was trained on scans "
            "that are scored here, their figures are too good."
        ]
    if found := find_same_scans(earlier, scored, splits):
        return [
            f"Warning: --init-from: {name} was trained on scans that are scored here: "
            f"{show_same_scans(found)}. Their figures are too good, and so is what is chosen by "
            "them: best weights and operating points."
        ]
    return []


def refuse_training_scans(
    workdir: Path,
    trained: Sequence[Fingerprint],
    scored: Sequence[Fingerprint],
    splits: Sequence[str],
) -> None:
    """Refuses to score a scan that a run was trained on.

    Copies are known by their content, whatever their names and sources.

    Args:
        workdir: folder of the run.
        trained: from `read_all_training_data`.
        scored: of the records whose scans are to be scored.
        splits: the splits that are scored.

    Raises:
        InputError: if there is such a scan; the message names it.
    """
    if found := find_same_scans(trained, scored, splits):
        raise InputError(
            f"{workdir}: it, or a network that it started from, was trained on scans that would be "
            f"scored: {show_same_scans(found)}. Prepare the split that both were trained with, or "
            "give mtseg-evaluate --allow-training-scans to score them all the same."
        )


def list_changes(
    workdir: Path, trained: Sequence[Fingerprint], scored: Sequence[Fingerprint]
) -> list[str]:
    """How the scans of records differ from those of a run's records.

    Args:
        workdir: folder of the run.
        trained: from `read_training_data`.
        scored: of the records whose scans are to be scored.

    Returns:
        A line for each source that differs.

    Raises:
        InputError: if a class of the task or its labels now mean something else.
    """
    before = {print_.spec: print_ for print_ in trained}
    lines = []
    for print_ in scored:
        if print_.spec not in before:
            continue
        if texts := definition_differences(before[print_.spec], print_):
            raise InputError(
                f"{workdir}: was trained on another definition of {print_.spec} than that of the "
                f"records: {'; '.join(texts)}. Prepare it as it was, or train another network."
            )
        if texts := [
            *subject_differences(before[print_.spec], print_),
            *preparation_differences(before[print_.spec], print_),
        ]:
            lines.append(
                f"{print_.spec}: the records differ from those that the run was trained on: "
                f"{'; '.join(texts)}."
            )
    return lines


def list_record_changes(
    before: Sequence[Fingerprint], now: Sequence[Fingerprint], splits: Sequence[str]
) -> list[str]:
    """How the records of some splits were changed by another preparation.

    Args:
        before: of the records as they were; those without a fingerprint are left out.
        now: of the records as they are.
        splits: the splits that count.

    Returns:
        A text for each source whose records of these splits are not the same any more.
    """
    known = {print_.spec: print_ for print_ in before}
    texts = []
    for print_ in now:
        if print_.spec not in known:
            texts.append(f"{print_.spec}: had no fingerprint before")
        elif not _are_alike(known[print_.spec], print_, splits):
            differences = list_differences(known[print_.spec], print_)
            texts.append(f"{print_.spec}: {'; '.join(differences)}")
    return texts


def scored_checksum(prints: Sequence[Fingerprint], splits: Sequence[str]) -> str:
    """A checksum of the scans of some splits, their label maps and what the labels mean.

    Args:
        prints: of the volumes that are scored.
        splits: the splits that figures and operating points are from.
    """
    scored = [
        [print_.spec, print_.content, [[s.name, s.seed, *_sha256(s)] for s in subjects]]
        for print_ in prints
        for subjects in [print_.of_splits(*splits)]
    ]
    return hashlib.sha256(json.dumps(scored, sort_keys=True).encode()).hexdigest()


def _sha256(subject: SubjectPrint) -> list[str]:
    return ["" if file is None else file.sha256 for file in subject.files]
