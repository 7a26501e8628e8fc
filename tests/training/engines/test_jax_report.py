"""Curves for TensorBoard that are written without TensorFlow."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb

from mtseg.training.engines.jax_report import EventFile
from tests.event_files import scalars_of


def test_tensorboard_and_tensorflow_read_what_was_written(tmp_path):
    events = EventFile(tmp_path / "tensorboard")
    events.write(0, text_pb("configuration", "a text"))
    events.write(10, scalar_pb("loss", 0.5), scalar_pb("learning_rate", 0.25))
    # Without closing it: a run may be watched, or killed, at any time.
    events.write(20, scalar_pb("loss", 0.125))
    assert scalars_of(tmp_path, "loss") == {10: 0.5, 20: 0.125}
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert set(read.Tags()["tensors"]) == {"configuration", "loss", "learning_rate"}


def test_a_resumed_run_begins_another_file(tmp_path):
    for step in (1, 2):
        EventFile(tmp_path / "tensorboard").write(step, scalar_pb("loss", float(step)))
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    assert scalars_of(tmp_path, "loss") == {1: 1.0, 2: 2.0}
