"""What TensorBoard shows of an evaluation, and the figures of the loss curve."""

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mtseg.evaluation.results import Evaluation, Row
from mtseg.runs.config import TrainConfig
from mtseg.training.failures import DivergedError
from mtseg.training.reporting import TrainingFigures, describe_missed, log_evaluation


def test_precision_recall_is_a_curve_of_the_pr_plugin(tmp_path):
    predicted = np.linspace(100, 0, 101).astype(int)
    curve = {
        "num_predicted": predicted.tolist(),
        "num_overlap": np.minimum(predicted, 40).tolist(),
        "num_reference": 40,
    }
    evaluation = Evaluation(
        (Row("breast", "pectoral_muscle", "a", "dice", 0.75),),
        {"pectoral_muscle": 0.6},
        {"pectoral_muscle": curve},
        {"breast": [[50, 10], [5, 35]]},
    )
    writer = tf.summary.create_file_writer(str(tmp_path))
    with writer.as_default(step=7):
        log_evaluation(evaluation)
    writer.close()
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0})
    events.Reload()
    tag = "precision_recall/breast/pectoral_muscle"
    assert events.SummaryMetadata(tag).plugin_data.plugin_name == "pr_curves"
    (event,) = events.Tensors(tag)
    right, wrong, rejected, missed, precision, recall = tf.make_ndarray(event.tensor_proto)
    assert event.step == 7
    # Everything is predicted at threshold 0: all 40 are found among 100.
    assert (right[0], wrong[0], rejected[0], missed[0]) == (40, 60, 0, 0)
    assert precision[0] == pytest.approx(0.4)
    # At 0.8 twenty are, all of them right.
    assert (right[80], wrong[80], rejected[80], missed[80]) == (20, 0, 60, 20)
    assert (precision[80], recall[80]) == (1, 0.5)
    (dice,) = events.Tensors("dice/breast/pectoral_muscle")
    assert tf.make_ndarray(dice.tensor_proto) == pytest.approx(0.75)


def test_a_class_that_no_test_scan_has_gives_no_curve(tmp_path):
    curve = {"num_predicted": [0] * 101, "num_overlap": [0] * 101, "num_reference": 0}
    evaluation = Evaluation(
        (Row("cta", "coronary_arteries", "a", "dice", None),),
        {},
        {"coronary_arteries": curve},
        {"cta": [[50, 0], [0, 0]]},
    )
    writer = tf.summary.create_file_writer(str(tmp_path))
    with writer.as_default(step=1):
        log_evaluation(evaluation)
    writer.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["tensors"] == []


def dice_row(name, subject, value):
    return Row("brain", name, subject, "dice", value)


def test_classes_that_are_not_found_are_named():
    rows = (
        dice_row("white_matter", "a", 0.0),
        dice_row("white_matter", "b", 0.0002),
        dice_row("brain_stem", "a", 0.0),
        dice_row("brain_stem", "b", 0.3),
        dice_row("cerebellum", "a", None),  # absent from the test scans
    )
    line = describe_missed(Evaluation(rows, {}))
    assert line.startswith("warning: Dice is 0 for brain/white_matter: the network does not find")
    assert "mtseg-check" in line
    assert "\n" not in line
    assert describe_missed(Evaluation(rows[2:], {})) == ""


class Lines:
    """In place of a progress bar: what was shown."""

    def __init__(self):
        self.said, self.done = [], 0

    def say(self, line):
        self.said.append(line)

    def advance(self, steps, note=""):
        self.done += steps


def test_loss_speed_and_waiting_are_those_since_the_last_point(monkeypatch):
    clock = iter([0.0, 5.0, 5.0, 5.0, 6.0, 9.0, 9.0, 9.0])
    monkeypatch.setattr("mtseg.training.reporting.time.monotonic", lambda: next(clock))
    config = TrainConfig("breast:phantom", "data", global_batch_size=10)
    shown = Lines()
    figures = TrainingFigures(config, 100, shown)
    figures.add(np.float32([4.0]))  # the first call, until 5 s, traces the graph
    with figures.waiting():  # from 5 to 6 s
        pass
    figures.add(np.float32([2.0, 3.0]))
    point = figures.take(3)  # at 9 s: two mini-batches of ten samples in four seconds
    assert point == {"loss": 3.0, "samples_per_second": 5.0, "share_waiting_for_input": 0.25}
    assert figures.seconds == 9
    assert shown.done == 3
    assert shown.said[0] == "First step after 5 s."
    assert "5 samples/s, 25% of the time waiting for input" in shown.said[1]
    assert "take about 3 min more" in shown.said[1]  # 97 mini-batches of 10 samples


@pytest.mark.promise("defined numerics")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_first_loss_that_is_not_finite_is_named(value):
    figures = TrainingFigures(TrainConfig("breast:phantom", "data"), 100, Lines())
    figures.add(np.float32([0.5, value, value]))
    with pytest.raises(DivergedError, match=r"the loss is \w+ at mini-batch 19\.") as error:
        figures.take(20)  # mini-batches 18, 19 and 20
    assert error.value.minibatch == 19
