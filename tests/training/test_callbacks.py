"""What callbacks are told of a run, and what becomes of a run whose callback fails."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from mtseg.evaluation.results import Evaluation, Row
from mtseg.runs.config import TrainConfig
from mtseg.runs.workdir import LEARNING_CURVE
from mtseg.training.callbacks import Callback
from mtseg.training.loop import train_and_evaluate


class Recorded(Callback):
    """Keeps what it is called with."""

    def __init__(self):
        self.events = []

    def on_start(self, run):
        self.events.append(("start", run.step, run.num_steps))
        self.run = run

    def on_figures(self, step, figures):
        self.events.append(("figures", step))
        self.figures = figures

    def on_evaluation(self, step, evaluation, pictures):
        self.events.append(("evaluation", step, evaluation.split))
        self.evaluation, self.pictures = evaluation, pictures

    def on_end(self, step):
        self.events.append(("end", step))


class Failing(Callback):
    """Raises an error in one event."""

    def __init__(self, event, error):
        self._error = error
        setattr(self, event, self.fail)

    def fail(self, *_):
        raise self._error


PICTURE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def score(*_, split, on_picture, **__):
    """In place of inference of whole volumes, which has tests of its own."""
    on_picture("breast", PICTURE)
    row = Row("breast", "pectoral_muscle", "a", "dice", 0.5)
    return Evaluation((row,), {"pectoral_muscle": 0.5}, split=split, points_from="validation")


def make_config(data_dir):
    return TrainConfig(
        "breast:phantom", str(data_dir), minibatches_per_task=4, global_batch_size=4,
        evaluate_every=2, checkpoint_every=2, curves_on="auto",
    )  # fmt: skip


def test_a_run_fails_with_the_error_of_its_callback_and_is_resumed(
    three_splits, tmp_path, monkeypatch, capsys
):
    """An error that would mean too little memory, if it were not the callback's own."""
    monkeypatch.setattr("mtseg.training.reporting.evaluate_model", score)
    config = make_config(three_splits)
    error = tf.errors.ResourceExhaustedError(None, None, "the callback's own")
    failed = Recorded()
    with pytest.raises(tf.errors.ResourceExhaustedError) as raised:
        train_and_evaluate(config, tmp_path, callbacks=[failed, Failing("on_evaluation", error)])
    assert raised.value is error
    assert failed.events == [("start", 0, 4), ("figures", 2), ("evaluation", 2, "validation")]
    assert not (tmp_path / LEARNING_CURVE).exists()

    resumed = Recorded()
    evaluation = train_and_evaluate(config, tmp_path, callbacks=[resumed])
    assert resumed.events == [
        ("start", 2, 4),
        ("evaluation", 2, "validation"),
        ("figures", 4),
        ("evaluation", 4, "validation"),
        ("evaluation", 4, "test"),
        ("end", 4),
    ]
    assert "Resuming after mini-batch 2 of 4." in capsys.readouterr().out
    assert resumed.run.config == dataclasses.replace(config, curves_on="validation")
    assert resumed.run.label_space.spec == "breast:phantom"
    assert resumed.run.workdir == tmp_path
    assert np.isfinite(resumed.figures["loss"])
    assert resumed.figures["learning_rate"] == pytest.approx(1e-3)
    assert resumed.evaluation == evaluation
    np.testing.assert_array_equal(resumed.pictures["breast"], PICTURE)
    curve = json.loads((tmp_path / LEARNING_CURVE).read_text())
    assert [point["minibatch"] for point in curve] == [2, 4]
