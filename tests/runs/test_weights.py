"""Weights and their evaluation stay together while the run that writes both goes on."""

import keras
import pytest

from mtseg.errors import InputError
from mtseg.models.export import make_manifest
from mtseg.runs import weights
from mtseg.runs.building import build_model
from mtseg.runs.config import TrainConfig
from mtseg.runs.weights import load_trained
from mtseg.runs.workdir import EVALUATION, VALIDATION, weights_path, write_config
from mtseg.system.atomic_files import write_json
from mtseg.system.checksums import file_checksum
from mtseg.tasks.label_space import parse_tasks

LABEL_SPACE = parse_tasks("breast:phantom")


@pytest.fixture
def evaluate(tmp_path):
    """Writes what an evaluation leaves: a bias of the logits, and that number as a threshold."""
    config = TrainConfig(LABEL_SPACE.spec, "data")
    write_config(tmp_path, config, LABEL_SPACE)
    model = build_model(config, LABEL_SPACE)

    def evaluate(number):
        model.get_layer("logits").bias.assign([number, number])
        path = weights_path(tmp_path, "last")
        model.save_weights(path)
        stored = {"operating_points": {"pectoral_muscle": number}, "rows": []}
        stored |= {"split": "test", "operating_points_from": "validation"}
        stored |= {"weights_sha256": file_checksum(path)}
        write_json(tmp_path / VALIDATION, stored | {"split": "validation"})
        write_json(tmp_path / EVALUATION, stored)

    evaluate(0.25)
    yield evaluate
    keras.backend.clear_session()


def evaluating_meanwhile(monkeypatch, evaluate, *numbers):
    """Has the run evaluate whenever its weights file is about to be read."""
    coming, check = iter(numbers), weights.require_plain

    def check_later(path):
        for number in coming:
            evaluate(number)
            break
        check(path)

    monkeypatch.setattr(weights, "require_plain", check_later)


def test_weights_are_loaded_with_their_own_thresholds(evaluate, tmp_path, monkeypatch):
    evaluating_meanwhile(monkeypatch, evaluate, 0.5)
    trained = load_trained(tmp_path)
    assert trained.model.get_layer("logits").bias.numpy().tolist() == [0.5, 0.5]
    assert trained.operating_points == {"pectoral_muscle": 0.5}


@pytest.mark.promise("refused input")
def test_a_run_that_evaluates_all_the_time_is_one_line(evaluate, tmp_path, monkeypatch):
    evaluating_meanwhile(monkeypatch, evaluate, 0.5, 0.75)
    with pytest.raises(InputError, match=r"last\.weights\.h5: belongs to another evaluation"):
        load_trained(tmp_path)


@pytest.mark.promise("refused input")
def test_a_model_has_the_evaluation_that_its_weights_were_loaded_with(evaluate, tmp_path):
    trained = load_trained(tmp_path)
    manifest = make_manifest(trained, tmp_path, "last")
    assert manifest["operating_points"] == {"pectoral_muscle": 0.25}
    evaluate(0.5)
    with pytest.raises(InputError, match=r"validation\.json: belongs to another evaluation"):
        make_manifest(trained, tmp_path, "last")
