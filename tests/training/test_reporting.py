"""What TensorBoard shows of an evaluation, and what is said of it."""

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mtseg.evaluation.results import Evaluation, Row
from mtseg.training.reporting import describe_missed, log_evaluation


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
