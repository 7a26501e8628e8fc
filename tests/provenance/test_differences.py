"""What differs between two preparations, in words that say what to look at."""

import dataclasses

import pytest

from mtseg.provenance.differences import list_differences, list_task_differences
from mtseg.provenance.file_state import FileState
from mtseg.provenance.fingerprint import Fingerprint, SubjectPrint, format_labels
from mtseg.tasks.task_file import read_task
from tests.layout_files import TASK


def state(path, checksum):
    return FileState(path, 1, 2, 3, sha256=checksum)


def subject(name, split="train", image="i", label_map="l"):
    files = state(f"/A/{name}", f"{name}{image}"), state(f"/A/{name}_l", f"{name}{label_map}")
    return SubjectPrint(name, split, None, *files)


BEFORE = Fingerprint(
    kind="patches",
    task={
        "name": "renal",
        "file": "/renal.toml",
        "modality": "MR",
        "classes": ["background", "kidney", "cyst"],
        "spacing_rule": "fixed",
        "spacing_mm": 1.0,
    },
    source={
        "name": "folder",
        "layout": "folder",
        "folder": "/A",
        "labels": {"background": "0", "kidney": "1", "cyst": "2"},
        "labels_in_task_file": None,
        "validation": {"share": 0.0, "fold": "", "seed": 0},
        "filter": {},
    },
    settings={"size": None, "patches_per_class": 5, "seed": 0, "num_shards": None},
    versions={"records": "1.0.0", "preparation": 1},
    subjects=(subject("s0"), subject("s1"), subject("s2", "test")),
)


def changed(part, **values):
    return dataclasses.replace(BEFORE, **{part: {**getattr(BEFORE, part), **values}})


def with_subjects(*subjects):
    return dataclasses.replace(BEFORE, subjects=subjects)


CHANGES = {
    "exchanged classes": (
        changed("task", classes=["background", "cyst", "kidney"]),
        ["class 1 is cyst, was kidney", "class 2 is kidney, was cyst"],
    ),
    "a class more": (
        changed("task", classes=["background", "kidney", "cyst", "stone"]),
        ["class 3 (stone) was added"],
    ),
    "another task": (
        changed("task", file="", classes=["background", "kidney"]),
        [
            "another task of the same name: the task that comes with mtseg, was /renal.toml",
            "class 2 (cyst) was removed",
        ],
    ),
    "voxel size": (changed("task", spacing_mm=0.5), ["voxel size is 0.5 mm, was 1 mm"]),
    "rule of the voxel size": (
        changed("task", spacing_rule="in_plane", spacing_mm=None),
        ["voxel size is the in-plane voxel size, was 1 mm"],
    ),
    "modality": (changed("task", modality="CT"), ["modality is CT, was MR"]),
    "labels": (
        changed("source", labels={"background": "0", "kidney": "1, 3"}),
        ["labels of kidney are 1, 3, were 1", "labels of cyst are none, were 2"],
    ),
    "fold": (
        changed("source", validation={"share": 0.0, "fold": "1/5", "seed": 0}),
        ["fold is 1/5, was the default"],
    ),
    "setting": (
        changed("settings", patches_per_class=6, num_shards=3),
        ["patches per class is 6, was 5", "number of shards is 3, was the default"],
    ),
    "version": (changed("versions", preparation=2), ["version of preparation is 2, was 1"]),
    "scan and label map": (
        with_subjects(subject("s0", image="x"), subject("s1", label_map="x"), BEFORE.subjects[2]),
        ["scan of s0 changed", "label map of s1 changed"],
    ),
    "added and removed": (
        with_subjects(*BEFORE.subjects[1:], subject("s7"), subject("s8")),
        ["subjects s7, s8 added", "subject s0 removed"],
    ),
    "split": (
        with_subjects(subject("s1"), subject("s2"), subject("s0", "test")),
        ["split of s2 changed from test to train", "split of s0 changed from train to test"],
    ),
    "order": (
        with_subjects(subject("s1"), subject("s0"), BEFORE.subjects[2]),
        ["order of the subjects changed"],
    ),
    "another folder": (
        dataclasses.replace(
            changed("source", folder="/B"),
            subjects=tuple(subject(s.name, s.split, image="b") for s in BEFORE.subjects),
        ),
        ["another folder: /B, was /A", "scan of s0, s1, s2 changed"],
    ),
    "the same elsewhere": (changed("source", folder="/B"), []),
    "the same task file elsewhere": (changed("task", file="/other.toml"), []),
    "nothing": (BEFORE, []),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_said_in_words(name):
    now, texts = CHANGES[name]
    assert list_differences(BEFORE, now) == texts


def test_a_fingerprint_is_read_as_it_was_written():
    assert Fingerprint.from_json(BEFORE.to_json()) == BEFORE


@pytest.mark.parametrize(
    ("sources", "texts"),
    [
        ("", []),  # the data set decides
        ("[sources.folder.labels]\nbackground=[0]\nkidney=[1]\ncyst=[2]", []),
        (
            "[sources.folder.labels]\nbackground=[0]\nkidney=[2]\ncyst=[1]",
            ["labels of kidney are 2, were 1", "labels of cyst are 1, were 2"],
        ),
    ],
)
def test_labels_of_a_task_file_are_compared_with_those_of_records(tmp_path, sources, texts):
    (tmp_path / "renal.toml").write_text(TASK + sources)
    assert list_task_differences(BEFORE, read_task(tmp_path / "renal.toml")) == texts


def test_labels_as_text():
    assert format_labels([207, 100, 31, 101, 32, 47, *range(102, 207)]) == "31, 32, 47, 100-207"
    assert format_labels(["b", 0, "a"]) == "0, a, b"
