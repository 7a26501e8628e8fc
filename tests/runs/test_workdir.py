"""The configuration in a run's folder: what may differ when the run is resumed."""

import dataclasses
import json

import pytest

from mtseg.errors import InputError
from mtseg.evaluation.results import Evaluation, Row
from mtseg.runs.config import TrainConfig
from mtseg.runs.workdir import (
    BEST_EVALUATION,
    read_config,
    weights_path,
    write_config,
    write_evaluation,
)
from mtseg.tasks.label_space import LabelSpace, parse_tasks


def write(folder, label_space=None, **settings):
    settings = {"minibatches_per_task": 10, **settings}
    config = TrainConfig("breast:phantom", "data", **settings)
    return write_config(folder, config, label_space or parse_tasks(config.tasks))


def edited(class_changes=None, **changes):
    """The label space of breast after its task file was edited."""
    (selection,) = parse_tasks("breast:phantom").selections
    muscle = dataclasses.replace(selection.task.classes[0], **(class_changes or {}))
    task = dataclasses.replace(selection.task, classes=(muscle,), **changes)
    return LabelSpace((dataclasses.replace(selection, task=task),))


def test_the_same_configuration_resumes_without_a_word(tmp_path):
    assert write(tmp_path) == write(tmp_path) == ""


def test_what_is_computed_decides_whether_it_is_the_same(tmp_path):
    write(tmp_path)
    assert write(tmp_path, keep=5) == ""
    with pytest.raises(InputError, match=r"there / now: seed: 0 / 1\). Give the same flags"):
        write(tmp_path, seed=1)


@pytest.mark.promise("refused input")
@pytest.mark.parametrize(
    ("label_space", "settings", "difference"),
    [
        (edited(decision="argmax"), {}, "decision of breast: operating_point / argmax"),
        (edited(spacing_rule="fixed", spacing_mm=1.0), {}, "spacing_mm of breast: None / 1.0"),
        (edited(is_symmetric=False), {"augment": "flip"}, "is_symmetric of breast: True / False"),
        (edited({"fill_holes": True}), {}, "fill_holes of pectoral_muscle: False / True"),
        (edited({"name": "muscle"}), {}, "classes of breast: pectoral_muscle / muscle"),
    ],
)
def test_a_task_file_that_was_edited_resumes_no_run(tmp_path, label_space, settings, difference):
    write(tmp_path, **settings)
    with pytest.raises(InputError, match=f"have changed .*there / now: .*{difference}"):
        write(tmp_path, label_space, **settings)
    assert read_config(tmp_path)[1].to_json() == parse_tasks("breast:phantom").to_json()
    with pytest.raises(InputError, match=difference):
        write(tmp_path, label_space, **settings, minibatches_per_task=15)


def test_what_readers_see_of_a_task_may_change_and_is_kept(tmp_path):
    write(tmp_path)
    label_space = edited({"title": "Muscle", "color": "#102030"}, title="The breast")
    assert write(tmp_path, label_space) == ""
    assert read_config(tmp_path)[1].to_json() == label_space.to_json()
    # Training without flips does not ask for it.
    assert write(tmp_path, edited(is_symmetric=False)) == ""


def test_a_run_with_a_constant_rate_may_become_longer(tmp_path):
    write(tmp_path)
    assert write(tmp_path, minibatches_per_task=15) == (
        "The run becomes longer: 15 mini-batches per task in place of 10."
    )
    assert read_config(tmp_path)[0].minibatches_per_task == 15
    assert write(tmp_path, minibatches_per_task=15) == ""


@pytest.mark.promise("refused input")
@pytest.mark.parametrize(
    "changes",
    [{"minibatches_per_task": 9}, {"minibatches_per_task": 15, "seed": 1}],
    ids=["shorter", "another run"],
)
def test_no_other_run_takes_its_place(tmp_path, changes):
    write(tmp_path)
    with pytest.raises(InputError, match=r"minibatches_per_task: 10 / .*use another folder"):
        write(tmp_path, **changes)
    assert read_config(tmp_path)[0].minibatches_per_task == 10


@pytest.mark.promise("refused input")
def test_a_rate_that_has_fallen_is_not_lengthened(tmp_path):
    write(tmp_path, schedule="cosine")
    with pytest.raises(InputError, match=f"cannot be lengthened.*--init-from {tmp_path}"):
        write(tmp_path, schedule="cosine", minibatches_per_task=15)


@pytest.mark.promise("refused input")
@pytest.mark.parametrize("name", ["config.json", "label_space.json"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe{", b"{", b"[]"])
def test_a_damaged_file_of_a_run_is_one_line(tmp_path, name, content):
    write(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=str(tmp_path)):
        read_config(tmp_path)


def test_best_weights_are_best_on_the_scans_as_they_are(tmp_path):
    """After the first evaluation a label map is corrected, and its scan is harder now."""
    write(tmp_path)
    for minibatch, dice, scans in ((1, 0.95, "old"), (2, 0.7, "new"), (3, 0.6, "new")):
        weights_path(tmp_path, "last").write_bytes(b"weights" + bytes([minibatch]))
        rows = (Row("breast", "pectoral_muscle", "a", "dice", dice),)
        write_evaluation(tmp_path, Evaluation(rows, {}), None, minibatch, 0.0, "", "", scans)
    assert weights_path(tmp_path, "best").read_bytes() == b"weights\x02"
    assert json.loads((tmp_path / BEST_EVALUATION).read_text())["minibatch"] == 2
