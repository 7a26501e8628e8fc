"""Resume to the bit, replicas equal one device, and a loss that is not finite."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtseg import workdir as folder
from mtseg.config import TrainConfig
from mtseg.errors import InputError
from mtseg.evaluate import Evaluation
from mtseg.train import train_and_evaluate

pytestmark = pytest.mark.slow


@pytest.fixture
def without_evaluation(monkeypatch):
    """Whole-volume inference has tests of its own."""
    monkeypatch.setattr("mtseg.train.evaluate_model", lambda *_, **__: Evaluation((), {}))


def make_config(tiny_data, **changes):
    settings = {
        "minibatches_per_task": 4,
        "global_batch_size": 4,
        "evaluate_every": 4,
        "checkpoint_every": 2,
        "schedule": "cosine",
        "warmup_minibatches": 2,
    }
    return TrainConfig("breast:phantom", str(tiny_data.data_dir), **{**settings, **changes})


def weights_of(workdir):
    return folder.load_trained(workdir).model.get_weights()


def scalars_of(workdir, tag):
    values = {}
    for path in sorted((workdir / "tensorboard").glob("events.*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.tag == tag:
                    values[event.step] = float(tf.make_ndarray(value.tensor))
    return values


def test_a_stopped_run_that_goes_on_has_the_same_weights(tiny_data, tmp_path, without_evaluation):
    config = make_config(tiny_data)
    train_and_evaluate(config, tmp_path / "whole")

    class Stopped(Exception):
        pass

    def stop_after_three(self, step):
        original(self, step)
        if step >= 2:
            raise Stopped

    original = _trainer_class().save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_trainer_class(), "save", stop_after_three)
        with pytest.raises(Stopped):
            train_and_evaluate(config, tmp_path / "stopped")
    train_and_evaluate(config, tmp_path / "stopped")

    for whole, resumed in zip(
        weights_of(tmp_path / "whole"), weights_of(tmp_path / "stopped"), strict=True
    ):
        np.testing.assert_array_equal(whole, resumed)


def _trainer_class():
    from mtseg import train

    return train._Trainer


def test_two_replicas_are_one_device(tiny_data, tmp_path, without_evaluation):
    # Dropout draws a mask for each replica, so it is off here.
    common = {
        "dropout_rate": 0.0,
        "learning_rate": 1e-5,
        "minibatches_per_task": 3,
        "checkpoint_every": 1,
    }
    train_and_evaluate(make_config(tiny_data, **common), tmp_path / "one")
    train_and_evaluate(make_config(tiny_data, **common, strategy="mirrored"), tmp_path / "two")
    one, two = (scalars_of(tmp_path / name, "loss") for name in ("one", "two"))
    assert list(one) == list(two) == [1, 2, 3]
    # Synchronised statistics are summed up in another way than the fused operation does, and 25
    # layers carry the rounding along. Statistics of each replica alone would differ by far more.
    for step in one:
        assert one[step] == pytest.approx(two[step], abs=1e-3)
    for a, b in zip(weights_of(tmp_path / "one"), weights_of(tmp_path / "two"), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-2)


def test_a_batch_that_replicas_cannot_share_is_refused(tiny_data, tmp_path, without_evaluation):
    config = make_config(tiny_data, strategy="mirrored", global_batch_size=5)
    with pytest.raises(InputError, match="multiple of 2"):
        train_and_evaluate(config, tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(tiny_data, tmp_path, without_evaluation):
    config = make_config(tiny_data, learning_rate=1e30, warmup_minibatches=0, schedule="constant")
    with pytest.raises(InputError, match="learning-rate"):
        train_and_evaluate(config, tmp_path)


def test_best_and_last_weights_and_the_learning_curve(tiny_data, tmp_path, monkeypatch):
    from mtseg.evaluate import Row

    scores = iter([0.2, 0.6, 0.4])

    def evaluate(*_, **__):
        return Evaluation((Row("breast", "pectoral_muscle", "a", "dice", next(scores)),), {})

    monkeypatch.setattr("mtseg.train.evaluate_model", evaluate)
    train_and_evaluate(make_config(tiny_data, minibatches_per_task=3, evaluate_every=1), tmp_path)
    curve = json.loads((tmp_path / folder.LEARNING_CURVE).read_text())
    assert [point["minibatch"] for point in curve] == [1, 2, 3]
    assert [point["mean_dice"] for point in curve] == [0.2, 0.6, 0.4]
    last, best = (
        folder.load_trained(tmp_path, which).model.get_weights() for which in folder.WEIGHTS
    )
    assert any((a != b).any() for a, b in zip(last, best, strict=True))


def test_a_damaged_weights_file_is_one_clear_line(tiny_data, tmp_path, without_evaluation):
    train_and_evaluate(make_config(tiny_data, minibatches_per_task=1), tmp_path)
    folder.weights_path(tmp_path, "last").write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"last\.weights\.h5"):
        folder.load_trained(tmp_path)


def test_mixed_precision_keeps_float32_weights(tiny_data, tmp_path, without_evaluation):
    config = make_config(tiny_data, minibatches_per_task=1, precision="mixed_bfloat16")
    train_and_evaluate(config, tmp_path)
    assert keras.config.dtype_policy().name == "float32"
    assert {w.dtype.name for w in weights_of(tmp_path)} == {"float32"}
