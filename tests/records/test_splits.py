"""Splits on disk: who is in them, and scans that are set aside for validation."""

import json
import shutil

import pytest
import tensorflow_datasets as tfds

from mtseg.errors import InputError
from mtseg.records.prepared import prepared_dir, prepared_settings
from mtseg.records.reading import count_scans, read_members, read_volumes, require_scans
from mtseg.records.writing import prepare
from mtseg.tasks.label_space import LabelSpace, TaskSelection

SMALL = {"num_processes": 1, "patches_per_class": 20}


def names_in(data_dir, split):
    return [subject.name for subject in read_volumes(data_dir, "renal", "folder", split)]


def patch_subjects(data_dir):
    builder = tfds.builder_from_directory(prepared_dir(data_dir, "renal", "folder", "patches"))
    (split,) = builder.info.splits  # patches are for training alone
    return {r["subject"].decode() for r in tfds.as_numpy(builder.as_dataset(split=split))}


def test_validation_subjects_are_a_split_of_their_own(task, scans, tmp_path, capsys):
    (scans / "split.csv").write_text("subject,split\na1,train\na2,train\na3,val\na4,val\na5,test\n")
    prepare(task, "folder", tmp_path, manual_dir=scans, **SMALL)
    assert names_in(tmp_path, "train") == ["a1", "a2"]
    assert names_in(tmp_path, "validation") == ["a3", "a4"]
    assert names_in(tmp_path, "test") == ["a5"]
    assert patch_subjects(tmp_path) == {"a1", "a2"}
    said = capsys.readouterr().out
    assert (
        "2 train, 2 validation, 1 test subjects (split.csv). Validation: a3, a4. Test: a5." in said
    )
    label_space = LabelSpace((TaskSelection(task, ("folder",)),))
    assert count_scans(tmp_path, label_space, "validation") == {"renal": 2}
    assert read_members(tmp_path, label_space) == {
        "renal:folder": {
            "origin": "split.csv",
            "train": ["a1", "a2"], "validation": ["a3", "a4"], "test": ["a5"],
        }
    }  # fmt: skip


def test_without_test_subjects_all_are_trained_on(task, scans, tmp_path, capsys):
    (scans / "split.csv").write_text(
        "subject,split\n" + "".join(f"a{n},train\n" for n in range(1, 6))
    )
    prepare(task, "folder", tmp_path, manual_dir=scans, **SMALL)
    assert len(patch_subjects(tmp_path)) == 5
    assert names_in(tmp_path, "test") == []
    assert "5 train, no validation, no test subjects (split.csv)." in capsys.readouterr().out
    label_space = LabelSpace((TaskSelection(task, ("folder",)),))
    with pytest.raises(InputError, match="folder has no test scan"):
        require_scans(tmp_path, label_space, "test")


def test_each_fold_is_another_preparation(task, scans, tmp_path):
    held_out = []
    for fold in ("1/2", "2/2"):
        data_dir = tmp_path / fold[0]
        prepare(task, "folder", data_dir, manual_dir=scans, fold=fold, split_seed=0, **SMALL)
        held_out += names_in(data_dir, "validation")
        assert not set(patch_subjects(data_dir)) & set(names_in(data_dir, "validation"))
        assert len(names_in(data_dir, "test")) == 1
    assert len(held_out) == len(set(held_out)) == 4
    with pytest.raises(InputError, match=r"fold is 2/2, was 1/2; split of a3, a4 changed"):
        prepare(task, "folder", tmp_path / "1", manual_dir=scans, fold="2/2", split_seed=0, **SMALL)


def test_records_made_before_there_was_a_validation_split_are_read(whole, task, scans, tmp_path):
    data_dir = tmp_path / "data"
    shutil.copytree(whole, data_dir)
    folder = prepared_dir(data_dir, "renal", "folder", "volumes")
    settings = prepared_settings(folder)
    label_space = LabelSpace((TaskSelection(task, ("folder",)),))
    assert count_scans(data_dir, label_space, "validation") == {"renal": 0}
    assert names_in(data_dir, "validation") == []
    for name in ("validation_share", "fold", "split_seed", "split"):
        del settings[name]
    (folder / "metadata.json").write_text(json.dumps(settings))
    assert read_members(data_dir, label_space) == {"renal:folder": None}
    prepare(task, "folder", data_dir, manual_dir=scans, **SMALL)  # nothing to do, and not refused
