"""Splits: from split.csv, or a share of the persons that is held out by their names."""

from pathlib import Path

import pytest

from mtseg.sources.find import find_subjects, list_subjects
from mtseg.sources.splits import hold_out_test_subjects
from mtseg.tasks.task import Split
from tests.layout_files import NAMES, write_folder, write_task
from tests.sources.test_find import refused, write_three


@pytest.fixture
def task(tmp_path):
    return write_task(tmp_path / "renal.toml")


@pytest.mark.parametrize(
    "text",
    [
        "subject,split\n1003,train\n1000,test\n",
        "\ufeffsubject,split\r\n1003,train\r\n\r\n1000,test\r\n",
        "split, subject, age\ntest,1000,70\ntrain, 1003,\n",
    ],
)
def test_split_csv_replaces_the_task_files_split(brain, tmp_path, text):
    write_three(tmp_path)
    (tmp_path / "split.csv").write_text(text, encoding="utf-8", newline="")
    subjects = list_subjects(brain, "miccai2012", tmp_path)
    assert [(s.name, s.split) for s in subjects] == [("1003", "train"), ("1000", "test")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["columns none", "subject,split"]),
        ("subject;split\n1000;train\n", ["columns subject;split"]),
        ("1000,train\n1003,test\n", ["columns 1000, train"]),
        ("subject,split\n1000,validation\n", ["line 2"]),
        ("subject,split\n1000,train\n1003\n", ["line 3"]),
        ("subject,split\n1000,train\n,test\n", ["line 3"]),
        ("subject,split\n1000,train,yes\n1003,test\n", ["line 2"]),
        ("subject,split\n1000,train\n", ["no test subject"]),
        ("subject,split\n1000,test\n", ["no train subject"]),
        ("subject,split\n1000,train\n1000,test\n", ["1000", "train and test"]),
        ("subject,split\n1000,train\n1000,train\n1003,test\n", ["1000", "twice"]),
        ("subject,split\n1023,train\n1003,test\n", ["1003, 1023 are one person"]),
    ],
)
def test_a_faulty_split_csv_is_refused(brain, tmp_path, text, words):
    write_three(tmp_path)
    path = tmp_path / "split.csv"
    path.write_text(text)
    message = refused(list_subjects, brain, "miccai2012", tmp_path)
    assert message.startswith(f"{path}: ")
    assert all(word in message for word in words), message


def test_a_split_csv_in_another_encoding_is_refused(brain, tmp_path):
    write_three(tmp_path)
    (tmp_path / "split.csv").write_bytes(b"subject,split\n\xff\xfe,train\n")
    assert "split.csv" in refused(list_subjects, brain, "miccai2012", tmp_path)


def test_a_subject_of_split_csv_without_files_is_refused(brain, tmp_path):
    write_three(tmp_path)
    (tmp_path / "split.csv").write_text("subject,split\n1000,train\n100,test\n")
    assert "1 of 2 subjects" in refused(list_subjects, brain, "miccai2012", tmp_path)


def test_a_fifth_of_the_subjects_is_held_out(task, tmp_path):
    found = find_subjects(task, "folder", write_folder(tmp_path / "data"))
    assert sorted(s.split for s in found.subjects) == ["test"] + ["train"] * 4
    more = write_folder(tmp_path / "more", [*NAMES, "b1", "b2", "b3"])
    found = find_subjects(task, "folder", more)
    assert [s.split for s in found.subjects].count("test") == 2


def test_which_subjects_are_held_out_depends_on_their_names_alone():
    names = [f"subject{n:02d}" for n in range(50)]
    split = hold_out_test_subjects(names, Split(), Path("data"))
    assert len(split.test) == 10
    reversed_order = hold_out_test_subjects(names[::-1], Split(), Path("data"))
    assert set(reversed_order.test) == set(split.test)
    # Five more subjects: one more is held out, and at most one of the others changes sides.
    more = hold_out_test_subjects([*names, *"vwxyz"], Split(), Path("data"))
    assert len(set(split.test) - set(more.test)) <= 1


def test_a_single_person_cannot_be_divided(task, tmp_path):
    message = refused(list_subjects, task, "folder", write_folder(tmp_path / "data", ["a1"]))
    assert str(tmp_path / "data") in message
    assert "a1" in message
    assert "second person" in message


def test_the_share_of_test_subjects_may_be_chosen(tmp_path):
    task = write_task(tmp_path / "t.toml", "[sources.folder]\nsplit = { test_share = 0.4 }\n")
    found = find_subjects(task, "folder", write_folder(tmp_path / "data"))
    assert sum(s.split == "test" for s in found.subjects) == 2
