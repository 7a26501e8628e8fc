"""Scores of small scans that a person can work out."""

import csv
import dataclasses
import io

import numpy as np
import pytest
import tensorflow as tf

from mtseg.dense import DenseNetwork
from mtseg.evaluate import Evaluation, Row, evaluate_task, join
from mtseg.subject import PreparedSubject
from mtseg.tasks import parse_tasks

LABEL_SPACE = parse_tasks("breast,cta")  # background, pectoral_muscle, coronary_arteries


def subject(name, class_index_map):
    class_index_map = np.array(class_index_map, np.uint8).reshape(1, 1, -1)
    image = np.ones(class_index_map.shape, np.float32)
    return PreparedSubject(name, image, class_index_map, np.eye(4))


def probabilities(muscle, artery):
    """Probabilities of a row of voxels."""
    muscle, artery = np.array(muscle, np.float32), np.array(artery, np.float32)
    return np.stack([1 - muscle - artery, muscle, artery], axis=-1)


def network_that_answers(predicted):
    """A network that gives each scan's foreground voxels these probabilities."""
    answers = iter(predicted)
    return DenseNetwork(
        lambda tile, chunk_positions: tf.constant(next(answers)),
        predicted[0].shape[-1],
        "float32",
        1000,
    )


def evaluate(task_name, subjects, predicted, **how):
    task = next(s.task for s in LABEL_SPACE.selections if s.task.name == task_name)
    return evaluate_task(network_that_answers(predicted), LABEL_SPACE, task, subjects, **how)


def test_one_threshold_is_found_for_the_whole_test_set_and_applied_to_each_scan():
    subjects = [subject("a", [1, 1, 0, 0]), subject("b", [1, 0, 0, 0])]
    predicted = [
        probabilities([0.9, 0.6, 0.2, 0.1], [0, 0, 0, 0]),
        probabilities([0.7, 0.55, 0.1, 0.1], [0, 0, 0, 0]),
    ]
    evaluation = evaluate("breast", subjects, predicted)
    # Above 0.55 and up to 0.60 everything is right in both scans.
    assert evaluation.operating_points == {"pectoral_muscle": pytest.approx(0.56)}
    dice = {row.subject: row.value for row in evaluation.rows if row.metric == "dice"}
    assert dice == {"a": 1.0, "b": 1.0}


def test_a_scan_without_the_class_is_undefined_not_zero():
    subjects = [subject("a", [1, 1, 0, 0]), subject("b", [0, 0, 0, 0])]
    predicted = [probabilities([0.9, 0.9, 0, 0], [0] * 4), probabilities([0.9, 0, 0, 0], [0] * 4)]
    rows = evaluate("breast", subjects, predicted).rows
    assert [r.value for r in rows if r.metric == "dice"] == [1.0, None]


def test_alien_share_counts_the_other_tasks_classes_among_the_foreground():
    predicted = [probabilities([0.9, 0, 0, 0.1], [0, 0.8, 0, 0.2])]
    rows = evaluate("breast", [subject("a", [1, 0, 0, 0])], predicted).rows
    assert [r.value for r in rows if r.metric == "alien_share"] == [0.25]


def test_argmax_task_is_scored_at_the_highest_activation():
    label_space = parse_tasks("brain")
    task = label_space.selections[0].task
    class_map = [1, 1, 2, 0]
    network = network_that_answers([np.eye(7, dtype=np.float32)[[1, 2, 2, 0]]])
    evaluation = evaluate_task(network, label_space, task, [subject("a", class_map)])
    assert evaluation.operating_points == {}
    mean = evaluation.mean_dice()
    assert mean["brain/white_matter"] == pytest.approx(2 / 3)
    assert mean["brain/cortical_grey_matter"] == pytest.approx(2 / 3)
    assert mean["brain/cerebellum"] is None


def small_evaluation():
    rows = (
        Row("brain", "white_matter", "1", "dice", 0.5),
        Row("brain", "white_matter", "2", "dice", 0.7),
        Row("brain", "brain_stem", "1", "dice", None),
        Row("brain", "all", "1", "alien_share", 0.0),
    )
    return Evaluation(rows, {})


def test_evaluation_comes_back_from_json():
    evaluation = join([small_evaluation(), Evaluation((), {"pectoral_muscle": 0.4})])
    stored = evaluation.to_json(model="m", command="c")
    assert stored["schema"] == 1
    assert stored["rows"][0] == {
        "task": "brain", "class": "white_matter", "subject": "1", "metric": "dice", "value": 0.5,
    }  # fmt: skip
    assert Evaluation.from_json(stored) == evaluation


def test_csv_leaves_an_undefined_figure_empty():
    lines = list(csv.DictReader(io.StringIO(small_evaluation().to_csv())))
    assert [line["value"] for line in lines] == ["0.5", "0.7", "", "0.0"]


def test_table_shows_mean_range_and_absence():
    table = small_evaluation().table().splitlines()
    assert "0.600  0.500  0.700      2  highest activation" in table[1]
    assert "absent" in table[2]


def test_the_picture_is_of_the_first_scan_at_its_operating_point():
    first = subject("a", [1, 1, 0, 0])
    image = first.image.copy()
    image[0, 0, 3] = 0  # not computed: background
    first = dataclasses.replace(
        first, image=image.reshape(1, 4, 1), class_index_map=first.class_index_map.reshape(1, 4, 1)
    )
    predicted = [probabilities([0.3, 0.2, 0.1], [0.0, 0.0, 0.0])]
    pictures = []
    evaluate("breast", [first], predicted, on_picture=pictures.append)
    (picture,) = pictures
    coloured = (picture[..., 0] != picture[..., 2])[::-1].T  # panels, from posterior
    assert coloured.tolist() == [
        [False] * 4,
        [True, True, False, False],
        [True, True, False, False],
    ]
