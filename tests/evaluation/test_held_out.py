"""Which scans a run scores follows from the records and what is wanted."""

import shutil

import pytest

from mtseg.errors import InputError
from mtseg.evaluation.held_out import HeldOut, choose_held_out
from mtseg.tasks.label_space import parse_tasks
from tests.conftest import ONE_OF_THREE, prepare_breast


def choose(data_dir, curves_on, tasks="breast:phantom"):
    return choose_held_out(str(data_dir), parse_tasks(tasks), curves_on)


def test_validation_scans_are_scored_if_there_are_some(three_splits, tiny_data):
    validation = HeldOut("validation", 1, num_test=2)
    assert choose(three_splits, "auto") == choose(three_splits, "validation") == validation
    assert validation.final == "test"
    assert choose(tiny_data.data_dir, "auto") == HeldOut("test", 1)


def test_the_papers_way_leaves_validation_scans_unused_and_says_so(three_splits):
    held_out = choose(three_splits, "test")
    assert held_out == HeldOut("test", 2, num_unused=1)
    assert "2 test scans (the paper's way). The validation scans (1) are not used" in (
        held_out.describe()
    )


def test_without_either_only_training_scans_are_left(only_training):
    held_out = choose(only_training, "auto")
    assert held_out == choose(only_training, "test") == HeldOut("train", 3)
    assert (held_out.curves_on, held_out.final) == ("test", "train")


def test_what_is_wanted_and_not_there_is_refused(three_splits, tiny_data, tmp_path):
    with pytest.raises(InputError, match=r"breast was prepared without.*--curves-on test"):
        choose(tiny_data.data_dir, "validation")
    without_test = prepare_breast(tmp_path, num_test=0, **ONE_OF_THREE)
    assert choose(without_test, "auto") == HeldOut("validation", 1)
    with pytest.raises(InputError, match=r"breast was prepared without.*--curves-on validation"):
        choose(without_test, "test")


def test_learning_curves_need_scans_of_every_task(three_splits, tiny_data, tmp_path):
    data_dir = tmp_path / "data"
    shutil.copytree(three_splits, data_dir)
    shutil.copytree(tiny_data.data_dir / "mtseg_cta", data_dir / "mtseg_cta")
    with pytest.raises(InputError, match="cta was prepared without"):
        choose(data_dir, "auto", "breast:phantom,cta:phantom")
