"""A network that starts from a trained one computes what that one computes, for what both know."""

import doctest
from pathlib import Path

import numpy as np
import pytest

from mtseg.errors import InputError
from mtseg.network import model as network
from mtseg.network.model import build_patch_model
from mtseg.runs import growing
from mtseg.runs.config import TrainConfig
from mtseg.runs.growing import load_initial, start_from
from mtseg.runs.weights import TrainedModel
from mtseg.tasks.label_space import parse_tasks


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Three convolutions, since the depth makes no difference here."""
    monkeypatch.setattr(network, "NUM_CONVOLUTIONS", 3)


def config(tasks, backgrounds):
    return TrainConfig(tasks, "data", backgrounds=backgrounds)


def build(tasks, backgrounds, seed):
    space = parse_tasks(tasks)
    count = space.num_backgrounds(backgrounds)
    model = build_patch_model(space.num_classes, num_backgrounds=count)
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if "norm" in weight.path:
            weight.assign(rng.uniform(0.5, 1, weight.shape))
        else:
            weight.assign(rng.normal(0, 0.1, weight.shape))
    return space, model


def start(given, wanted, backgrounds=("shared", "shared")):
    """A trained network, one for other tasks that starts from it, and the line that it says."""
    space, model = build(given, backgrounds[0], 0)
    trained = TrainedModel(config(given, backgrounds[0]), space, model)
    new_space, new_model = build(wanted, backgrounds[1], 1)
    said = start_from(trained, new_model, new_space, config(wanted, backgrounds[1]))
    return trained, new_model, said


def classify(model):
    rng = np.random.default_rng(2)
    planes = ("axial", "coronal", "sagittal")
    inputs = {name: rng.random((5, 7, 7, 1), np.float32) for name in planes}
    return model(inputs).numpy().reshape(5, -1)


def test_for_the_same_tasks_it_is_the_same_network():
    trained, model, said = start("breast,cta", "breast,cta")
    np.testing.assert_array_equal(classify(model), classify(trained.model))
    assert said == "Starting from the trained network breast:phantom,cta:phantom."


def test_for_fewer_tasks_the_others_probability_is_shared_out():
    trained, model, _ = start("breast,cta", "cta")
    before = classify(trained.model)[:, [0, 2]]
    np.testing.assert_allclose(
        classify(model), before / before.sum(axis=1, keepdims=True), rtol=1e-5
    )


@pytest.mark.parametrize("backgrounds", ["shared", "by-task"])
def test_for_more_tasks_the_old_classes_keep_their_order(backgrounds):
    """The odds of two old classes do not depend on what is added."""
    trained, model, said = start("breast,cta", "cta,brain,breast", (backgrounds, backgrounds))
    before, after = classify(trained.model), classify(model)
    assert after.shape[1] == 9  # background, arteries, six tissues, muscle
    np.testing.assert_allclose(after[:, 8] / after[:, 1], before[:, 1] / before[:, 2], rtol=1e-4)
    assert "at random: white_matter, cortical_grey_matter" in said
    assert "pectoral" not in said


def test_a_shared_background_becomes_one_of_each_task():
    trained, model, _ = start("breast,cta", "cta,breast", ("shared", "by-task"))
    np.testing.assert_allclose(
        classify(model)[:, [0, 2, 1]], classify(trained.model), rtol=1e-4, atol=1e-6
    )


def test_backgrounds_of_tasks_become_a_shared_one():
    trained, model, said = start("breast,cta", "breast,cta", ("by-task", "shared"))
    before, after = classify(trained.model), classify(model)
    np.testing.assert_allclose(after[:, 1] / after[:, 2], before[:, 1] / before[:, 2], rtol=1e-4)
    assert "at random" not in said


def test_without_a_name_there_is_nothing_to_load():
    assert load_initial(config("breast", "shared")) is None


def test_the_packaged_network_has_a_name(monkeypatch):
    monkeypatch.undo()  # it has all its convolutions
    trained = load_initial(TrainConfig("breast", "data", init_from="packaged"))
    assert "pectoral_muscle" in trained.label_space.class_names


@pytest.mark.promise("refused input")
@pytest.mark.parametrize("name", ["nowhere", "."])
def test_a_folder_without_a_network_is_refused_by_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=rf"--init-from: {Path(name)}: is not the folder of a"):
        load_initial(TrainConfig("breast", "data", init_from=name))


def test_a_name_that_is_a_folder_too_is_refused(tmp_path, monkeypatch):
    """Or a run of one's own would silently not be the start."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "research").mkdir()
    with pytest.raises(
        InputError, match="--init-from: research: is the name of a model that comes"
    ):
        load_initial(TrainConfig("breast", "data", init_from="research"))


def test_examples_in_docstrings_run():
    result = doctest.testmod(growing)
    assert (result.failed, result.attempted > 0) == (0, True)
