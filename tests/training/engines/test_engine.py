"""The choice of an engine, and what JAX does not compute."""

import keras
import pytest

from mtseg.errors import InputError
from mtseg.runs.config import TrainConfig
from mtseg.system.hardware import num_cores
from mtseg.training.engines.engine import (
    JAX_STATE,
    TENSORFLOW_STATE,
    open_engine,
    require_own_state,
)
from mtseg.training.engines.jax_engine import check_config


def config(**changes):
    return TrainConfig("breast:phantom", "data", **changes)


def test_another_backend_of_keras_is_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(InputError, match="trains on tensorflow or jax, not torch"):
        open_engine(config())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": "patches"}, "input: JAX trains from volumes"),
        ({"strategy": "multiworker"}, "--strategy mirrored"),
        ({"precision": "float64"}, "float32 or mixed_bfloat16, not float64"),
        ({"precision": "mixed_float16"}, "float32 or mixed_bfloat16, not mixed_float16"),
        ({"num_threads": num_cores() + 1}, "taskset"),
    ],
)
def test_what_only_tensorflow_computes_is_refused(changes, message):
    with pytest.raises(InputError, match=message) as error:
        check_config(config(**changes))
    assert "without KERAS_BACKEND=jax" in str(error.value)


def test_what_jax_computes_is_not_refused():
    check_config(config(precision="mixed_bfloat16", strategy="mirrored"))
    check_config(config(is_deterministic=True, num_threads=num_cores()))


def test_a_checkpoint_names_the_engine_that_it_is_of(tmp_path):
    require_own_state(tmp_path, JAX_STATE)  # empty, so damaged: the reader will say so
    (tmp_path / TENSORFLOW_STATE).touch()
    require_own_state(tmp_path, TENSORFLOW_STATE)
    with pytest.raises(InputError, match=r"training on TensorFlow.*without KERAS_BACKEND=jax"):
        require_own_state(tmp_path, JAX_STATE)
