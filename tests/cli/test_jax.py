"""The commands where KERAS_BACKEND is set, and where JAX or TensorFlow is missing."""

import os
import sys

import pytest

from mtseg.cli import command, experiments, train
from mtseg.errors import InputError
from mtseg.system.quiet_tensorflow import import_tensorflow
from tests.cli.test_bad_input import expect_refusal, run


def test_experiments_refuse_jax(capsys, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    expect_refusal(run(experiments, capsys), "KERAS_BACKEND=jax", "leave it unset")


def test_without_jax_training_says_how_to_install_it(capsys, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setitem(sys.modules, "jax", None)
    expect_refusal(
        run(train, capsys, "--tasks", "breast:phantom"), "jax cannot be imported", "'mtseg[jax]'"
    )


def test_without_tensorflow_other_commands_say_who_does_without_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(InputError, match=r"tensorflow cannot be imported.*KERAS_BACKEND=jax"):
        command.start_tensorflow(None)


def test_where_tensorflow_computes_keras_is_told_so(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    import_tensorflow()
    assert os.environ["KERAS_BACKEND"] == "tensorflow"
