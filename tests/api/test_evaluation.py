"""Evaluation of several networks as one, with networks that are quick and see intensities alone."""

import dataclasses

import pytest
import tensorflow as tf

from mtseg.api import evaluation
from mtseg.errors import InputError
from mtseg.inference.dense import DenseNetwork
from mtseg.network.architecture import HALO
from mtseg.provenance.file_state import FileState
from mtseg.provenance.training_data import write_training_data
from mtseg.records.reading import read_fingerprints
from mtseg.runs.building import build_model
from mtseg.runs.config import TrainConfig
from mtseg.runs.unevaluated import write_unevaluated
from mtseg.runs.weights import TrainedModel
from mtseg.runs.workdir import write_config
from mtseg.tasks.label_space import parse_tasks

BREAST = 7
"""Combined index of the class of breast, behind six of the brain."""


def make_network(bright, dark):
    """Muscle has one probability in bright voxels, and another in dark ones."""

    def function(tile, chunk_positions):
        interior = tile[HALO:-HALO, HALO:-HALO, HALO:-HALO]
        is_bright = tf.boolean_mask(interior, interior != 0) > 0.5
        muscle = tf.where(is_bright, bright, dark)
        others = (1 - muscle)[:, None]
        zeros = tf.zeros_like(others)
        return tf.concat([others, *[zeros] * (BREAST - 1), muscle[:, None], zeros], axis=-1)

    return DenseNetwork(function, 9, "float32", 1000)


@pytest.fixture
def found(random_run, tiny_data, monkeypatch):
    """A function that evaluates such networks as an ensemble; mean Dice of muscle by argmax."""

    def found(*networks):
        given = iter(networks)
        monkeypatch.setattr(evaluation, "make_dense_network", lambda *_: next(given))
        paths = [random_run[0]] * len(networks)
        scored = evaluation.evaluate_trained(
            paths, data_dir=str(tiny_data.data_dir), is_quiet=True, on_note=lambda line: None
        )
        (dice,) = scored.values("breast", "pectoral_muscle", "dice_argmax").values()
        return dice

    return found


def test_the_mean_of_two_networks_is_scored(found):
    sure, unsure, against = make_network(0.9, 0.1), make_network(0.3, 0.3), make_network(0.0, 0.0)
    alone = found(sure)
    assert alone > 0
    assert found(unsure) == 0
    assert found(sure, unsure) == alone  # 0.6 in bright voxels, 0.2 in dark ones
    assert found(sure, against) == 0  # 0.45


def make_trained(points, points_from):
    return TrainedModel(None, None, None, points, points_from)


@pytest.mark.parametrize(
    ("of_each", "expected"),
    [
        ([({"a": 0.3}, "validation"), ({"a": 0.5}, "validation")], ({"a": 0.4}, "validation")),
        ([({"a": 0.3}, "test"), ({"a": 0.5, "b": 0.1}, "test")], ({"a": 0.4, "b": 0.1}, "test")),
        ([({"a": 0.3}, "validation"), ({"a": 0.5}, "test")], ({"a": 0.4}, "test and validation")),
        ([({"a": 0.3}, "validation"), (None, "test")], ({"a": 0.3}, "validation")),
        # They are chosen on the scans that are scored if no network has any.
        ([(None, "test"), (None, "test")], (None, "test")),
    ],
)
def test_operating_points_are_those_of_a_prediction_with_the_networks(of_each, expected):
    assert evaluation._join_points([make_trained(*each) for each in of_each]) == expected


def test_flips_are_refused_before_a_scan_is_computed(random_run):
    with pytest.raises(InputError, match=r"^--tta flip: cta does not allow left and right"):
        evaluation.evaluate_trained([random_run[0]], data_dir="nowhere", use_flips=True)


def test_int8_is_computed_by_openvino(random_run, tiny_data, monkeypatch):
    used = []
    monkeypatch.setattr(
        evaluation, "evaluate_model", lambda network, *_, **__: used.append(network)
    )
    evaluation.evaluate_trained(
        [random_run[0]],
        data_dir=str(tiny_data.data_dir),
        precision="int8",
        is_quiet=True,
        on_note=lambda line: None,
    )
    assert [(network.engine, network.precision) for network in used] == [("openvino", "int8")]


def test_a_model_that_does_not_know_its_training_scans_says_so(random_run, tiny_data, monkeypatch):
    def say(**arguments):
        lines = []
        evaluation.evaluate_trained(
            [random_run[0]], data_dir=data_dir, is_quiet=True, on_note=lines.append, **arguments
        )
        return [line for line in lines if "does not say what it was trained on" in line]

    data_dir = str(tiny_data.data_dir)
    monkeypatch.setattr(evaluation, "evaluate_model", lambda *_, **__: None)
    (line,) = say()
    assert line.startswith(f"{random_run[0]}: ")
    assert say(may_score_training_scans=True) == []


@pytest.mark.promise("refused input")
def test_a_run_without_evaluations_chooses_nothing_on_scans_that_it_was_trained_on(
    three_splits, tmp_path, monkeypatch
):
    """The test scans are sound, but operating points would be chosen on validation scans."""
    label_space = parse_tasks("breast:phantom")
    config = TrainConfig(label_space.spec, str(three_splits), curves_on="validation")
    write_config(tmp_path, config, label_space)
    write_unevaluated(tmp_path, build_model(config, label_space), 2, 1.0, "mtseg-train", "none")
    (print_,), _ = read_fingerprints(three_splits, label_space, "volumes")
    subjects = [
        dataclasses.replace(s, image=FileState(s.name, 1, 1, 1, sha256=s.name))
        for s in print_.subjects
    ]
    scored = dataclasses.replace(print_, subjects=tuple(subjects))
    of_training = [
        dataclasses.replace(s, split="train") if s.split == "validation" else s for s in subjects
    ]
    write_training_data(tmp_path, [dataclasses.replace(print_, subjects=tuple(of_training))])
    monkeypatch.setattr(evaluation, "read_fingerprints", lambda *_: ([scored], []))
    monkeypatch.setattr(evaluation, "evaluate_run", None)  # would choose them
    with pytest.raises(InputError, match=r"phantom000 \(validation in .*--allow-training-scans"):
        evaluation.evaluate_trained([tmp_path], on_note=lambda line: None)
