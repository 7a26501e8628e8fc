"""Splits: from split.csv, or a share of the persons that is held out by their names."""

import json
from pathlib import Path

import pytest

from mtseg.errors import InputError
from mtseg.sources.find import find_subjects, list_subjects
from mtseg.sources.splits import ValidationRule, hold_out_test_subjects, set_validation_aside
from mtseg.tasks.task import Split, join_groups
from tests.layout_files import NAMES, subject, write, write_folder, write_nnunet, write_task
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
        ("subject,split\n1000,testing\n", ["line 2", "train, validation or test"]),
        ("subject,split\n1000,train\n1003\n", ["line 3"]),
        ("subject,split\n1000,train\n,test\n", ["line 3"]),
        ("subject,split\n1000,train,yes\n1003,test\n", ["line 2"]),
        ("subject,split\n1000,val\n", ["no train subject"]),
        ("subject,split\n1000,train\n1000,val\n", ["1000", "train and validation"]),
        ("subject,split\n1000,train\n1003,test\n1023,val\n", ["1003, 1023", "validation and test"]),
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


def test_scans_that_are_one_person_through_others_stay_together(tmp_path):
    """a1 is a2, a2 is a3: the three are one person, wherever the pairs are listed."""
    pairs = 'same_person = [["a2", "a1"], ["a4", "a5"], ["a3", "a2"]]\n'
    task = write_task(tmp_path / "t.toml", f"[sources.folder.split]\n{pairs}")
    folder = write_folder(tmp_path / "data")
    sides = {s.name: s.split for s in find_subjects(task, "folder", folder).subjects}
    assert sides["a1"] == sides["a2"] == sides["a3"] != sides["a4"] == sides["a5"]
    (folder / "split.csv").write_text("subject,split\na1,train\na4,train\na3,test\n")
    assert "are one person" in refused(list_subjects, task, "folder", folder)


def test_the_share_of_test_subjects_may_be_chosen(tmp_path):
    task = write_task(tmp_path / "t.toml", "[sources.folder]\nsplit = { test_share = 0.4 }\n")
    found = find_subjects(task, "folder", write_folder(tmp_path / "data"))
    assert sum(s.split == "test" for s in found.subjects) == 2


def test_a_share_of_the_task_file_comes_before_the_test_folder_of_the_layout(tmp_path):
    folder = write_nnunet(tmp_path / "data")
    image, label_map = subject(9)
    write(folder / "imagesTs" / "t1_0000.nii.gz", image)
    write(folder / "labelsTs" / "t1.nii.gz", label_map)
    task = write_task(tmp_path / "t.toml", "[sources.nnunet]\nsplit = { test_share = 0 }\n")
    found = find_subjects(task, "nnunet", folder).require_sound()
    assert {s.split for s in found.subjects} == {"train"}
    assert "t1" in found.names_of_split("train")


FRAMES = ["p1_frame01", "p1_frame12", "p2_frame01", "p2_frame09", "p3_frame01", "p3_frame05"]


def test_the_person_may_be_in_the_name(tmp_path):
    """nnU-Net's and plain folders do not say whose scans belong together, but names may."""
    text = '[sources.folder.split]\nperson_before = "_frame"\n'
    task = write_task(tmp_path / "t.toml", text)
    folder = write_folder(tmp_path / "data", FRAMES)
    sides = {s.name: s.split for s in find_subjects(task, "folder", folder).subjects}
    for person in ("p1", "p2", "p3"):
        assert len({side for name, side in sides.items() if name.startswith(person)}) == 1
    assert sorted(sides.values()) == ["test"] * 2 + ["train"] * 4
    held_out = find_subjects(task, "folder", folder, validation=ValidationRule(share=0.5))
    of_validation = held_out.names_of_split("validation")
    assert len({name[:2] for name in of_validation}) == 1
    assert len(of_validation) == 2
    (folder / "split.csv").write_text("subject,split\np1_frame01,train\np1_frame12,test\n")
    message = refused(list_subjects, task, "folder", folder)
    assert "subjects p1_frame01, p1_frame12 are one person, in train and test" in message


def test_subjects_may_be_left_out(tmp_path):
    text = '[sources.folder.split]\nleave_out = ["a2", "ghost"]\n'
    task = write_task(tmp_path / "t.toml", text)
    folder = write_folder(tmp_path / "data")
    found = find_subjects(task, "folder", folder).require_sound()
    assert sorted(s.name for s in found.subjects) == ["a1", "a3", "a4", "a5"]
    (issue,) = found.issues
    assert "not used: images/a2.nii.gz" in issue.message
    text = text.replace('"a2", ', '"a1", "a2", "a3", "a4", ')
    assert "of one person only (a5)" in refused(
        list_subjects, write_task(tmp_path / "one.toml", text), "folder", folder
    )


def sides_of(found):
    return {side: found.names_of_split(side) for side in ("train", "validation", "test")}


@pytest.mark.parametrize("word", ["val", "validation"])
def test_split_csv_may_list_validation_subjects(brain, tmp_path, word):
    write_three(tmp_path)
    (tmp_path / "split.csv").write_text(f"subject,split\n1000,train\n1003,{word}\n")
    found = find_subjects(brain, "miccai2012", tmp_path)
    assert sides_of(found) == {"train": ["1000"], "validation": ["1003"], "test": []}
    assert found.require_sound().describe_split() == (
        "1 train, 1 validation, no test subjects (split.csv). Validation: 1003."
    )


@pytest.mark.parametrize("word", ["val", "validation"])
def test_a_task_file_may_list_validation_subjects(tmp_path, word):
    text = f'[sources.folder]\nsplit = {{ train = ["a1", "a2"], {word} = ["a3"] }}\n'
    task = write_task(tmp_path / "t.toml", text)
    found = find_subjects(task, "folder", write_folder(tmp_path / "data"))
    assert sides_of(found) == {"train": ["a1", "a2"], "validation": ["a3"], "test": []}


def test_all_subjects_may_be_for_training(tmp_path):
    task = write_task(tmp_path / "t.toml", "[sources.folder]\nsplit = { test_share = 0 }\n")
    found = find_subjects(task, "folder", write_folder(tmp_path / "data", ["a1"]))
    assert sides_of(found.require_sound()) == {"train": ["a1"], "validation": [], "test": []}


NAMED = tuple(f"subject{n:02d}" for n in range(20))
PAIRS = tuple(zip(NAMED[::2], NAMED[1::2], strict=True))
"""Ten persons with two scans each."""


def set_aside(split=Split(NAMED, ("t",), PAIRS), **rule):  # noqa: B008 - frozen
    return set_validation_aside(split, ValidationRule(**rule), "data")


@pytest.mark.parametrize(("share", "num_persons"), [(0, 0), (0.01, 1), (0.3, 3), (0.99, 9)])
def test_a_share_of_the_training_persons_is_set_aside(share, num_persons):
    split = set_aside(share=share)
    assert len(split.validation) == 2 * num_persons
    assert all(set(pair) <= set(split.validation) or not set(pair) & set(split.validation)
               for pair in PAIRS)  # fmt: skip
    assert sorted(split.train + split.validation) == sorted(NAMED)
    assert split.test == ("t",)
    split.check("data")


def test_who_is_set_aside_depends_on_names_and_seed_alone():
    first = set_aside(share=0.3)
    assert set(set_aside(Split(NAMED[::-1], (), PAIRS), share=0.3).validation) == set(
        first.validation
    )
    assert set_aside(share=0.3, seed=1).validation != first.validation


CHAIN = (("a", "b"), ("c", "d"), ("b", "c"), ("e", "f"))
"""Pairs of one person; a, b, c and d are one."""


def test_pairs_that_share_a_subject_are_one_person():
    assert join_groups(CHAIN) == (("a", "b", "c", "d"), ("e", "f"))
    for seed in range(10):
        names = Split(tuple("abcdefgh"), (), CHAIN)
        aside = set(set_aside(names, share=0.5, seed=seed).validation)
        assert set("abcd") <= aside or not set("abcd") & aside
    # No pair is on both sides, but the person is.
    with pytest.raises(InputError, match="a, b, c, d are one person, in train and test"):
        Split(("a",), ("d",), CHAIN).check("data")
    held_out = hold_out_test_subjects(tuple("abcdef"), Split(same_person=CHAIN), Path("data"))
    assert sorted(held_out.test) in (list("abcd"), list("ef"))


def test_every_person_is_in_one_fold():
    folds = [set_aside(fold=f"{k}/4") for k in range(1, 5)]
    assert sorted(name for fold in folds for name in fold.validation) == sorted(NAMED)
    assert sorted(len(fold.validation) for fold in folds) == [4, 4, 6, 6]
    for fold in folds:
        fold.check("data")  # no person on two sides


@pytest.mark.parametrize(
    ("split", "rule", "words"),
    [
        (Split(("a",), ()), {"share": 0.5}, ["data: ", "1 persons"]),
        (Split(("a", "b"), (), (("a", "b"),)), {"fold": "1/2"}, ["1 persons", "2 parts"]),
        (Split(("a", "b"), ()), {"fold": "1/3"}, ["2 persons", "3 parts"]),
        (
            Split(("a", "b"), (), validation=("c",)),
            {"share": 0.5},
            ["already", "--validation-share"],
        ),
        (Split(), {"fold": "0/3"}, ["--fold: '0/3'", "1/5"]),
        (Split(), {"fold": "4/3"}, ["--fold: '4/3'"]),
        (Split(), {"fold": "1/1"}, ["--fold: '1/1'"]),
        (Split(), {"fold": "2"}, ["--fold: '2'"]),
        (Split(), {"share": 1.0}, ["--validation-share", "below 1"]),
        (Split(), {"share": -0.1}, ["--validation-share"]),
        (Split(), {"share": 0.1, "fold": "1/2"}, ["Leave out one"]),
    ],
)
def test_a_rule_that_cannot_be_followed_is_refused(split, rule, words):
    with pytest.raises(InputError) as caught:
        set_aside(split, **rule)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.fixture
def with_folds(tmp_path):
    """A folder of scans with nnU-Net's file of two folds."""
    folder = write_folder(tmp_path / "data")
    folds = [
        {"train": ["a1", "a2", "a3"], "val": ["a4", "a5"]},
        {"train": ["a4", "a5"], "val": ["a1", "a2", "a3"]},
    ]
    (folder / "splits_final.json").write_text(json.dumps(folds))
    return folder


def test_a_fold_of_nnunets_file_is_read(task, with_folds):
    found = find_subjects(task, "folder", with_folds, validation=ValidationRule(fold="1/2"))
    assert sides_of(found.require_sound()) == {
        "train": ["a1", "a2", "a3"], "validation": ["a4", "a5"], "test": [],
    }  # fmt: skip
    assert "(splits_final.json, fold 1/2)" in found.describe_split()
    found = find_subjects(task, "folder", with_folds, validation=ValidationRule(fold="2/2"))
    assert found.names_of_split("validation") == ["a1", "a2", "a3"]


def test_a_subject_that_is_left_out_is_in_no_fold(with_folds, tmp_path):
    text = '[sources.folder.split]\nleave_out = ["a2"]\n'
    task = write_task(tmp_path / "without.toml", text)
    found = find_subjects(task, "folder", with_folds, validation=ValidationRule(fold="1/2"))
    assert sides_of(found) == {"train": ["a1", "a3"], "validation": ["a4", "a5"], "test": []}


def test_nnunets_folds_are_not_used_without_the_flag_and_that_is_said(task, with_folds):
    found = find_subjects(task, "folder", with_folds)
    assert found.names_of_split("validation") == []
    assert len(found.names_of_split("test")) == 1
    assert "splits_final.json is not used without --fold" in found.describe_split()


@pytest.mark.parametrize(
    ("text", "fold", "words"),
    [
        (None, "1/3", ["has 2 folds", "--fold K/2"]),
        ("{", "1/2", ["not a list of folds"]),
        ("[" * 100_000, "1/2", ["not a list of folds", "nested too deeply"]),
        ('[{"train": []}]', "1/2", ["not a list of folds"]),
        ('[{"train": [1], "val": []}]', "1/2", ["not a list of folds"]),
        ("3", "1/2", ["not a list of folds"]),
    ],
)
def test_a_faulty_file_of_folds_is_refused(task, with_folds, text, fold, words):
    path = with_folds / "splits_final.json"
    if text is not None:
        path.write_text(text)
    rule = ValidationRule(fold=fold)
    message = refused(find_subjects, task, "folder", with_folds, validation=rule)
    assert message.startswith(f"{path}: ")
    assert all(word in message for word in words), message


def test_a_test_subject_in_a_fold_is_refused(task, with_folds):
    (with_folds / "split.csv").write_text("subject,split\na2,train\na1,test\n")
    rule = ValidationRule(fold="1/2")
    found = find_subjects(task, "folder", with_folds, validation=rule)
    with pytest.raises(InputError, match="train and test: a1"):
        found.require_sound()


def test_phantoms_can_be_set_aside(brain):
    rule = ValidationRule(share=0.5, seed=3)
    found = find_subjects(brain, "phantom", None, 4, 1, rule)
    assert [s.split for s in found.subjects] == ["train"] * 2 + ["validation"] * 2 + ["test"]
    assert found.describe_split().startswith(
        "2 train, 2 validation, 1 test subjects (generated, validation share 0.5, seed 3)"
    )
    assert find_subjects(brain, "phantom", None, 4, 0).names_of_split("test") == []
