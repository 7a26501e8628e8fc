"""Scores of small scans that a person can work out."""

import csv
import dataclasses
import io
import os
import resource
import shutil

import numpy as np
import pytest
import tensorflow as tf

from mtseg.errors import InputError
from mtseg.evaluation.metrics import precision_recall
from mtseg.evaluation.results import Evaluation, Row, join
from mtseg.evaluation.scoring import evaluate_task
from mtseg.evaluation.tables import complete_table, describe_scans, dice_table
from mtseg.inference.dense import DenseNetwork
from mtseg.sources.subject import PreparedSubject
from mtseg.tasks.label_space import LabelSpace, parse_tasks

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


def test_operating_points_that_were_chosen_on_other_scans_are_applied_as_they_are():
    subjects = [subject("a", [1, 1, 0, 0])]
    predicted = [probabilities([0.9, 0.6, 0.2, 0.1], [0, 0, 0, 0])]
    evaluation = evaluate("breast", subjects, predicted, operating_points={"pectoral_muscle": 0.7})
    assert evaluation.operating_points == {"pectoral_muscle": 0.7}
    assert evaluation.values("breast", "pectoral_muscle", "recall") == {"a": 0.5}
    # A class that no scan had on which points were chosen is found where it is the most probable.
    evaluation = evaluate("breast", subjects, predicted, operating_points={})
    assert evaluation.operating_points == {}
    assert evaluation.values("breast", "pectoral_muscle", "recall") == {"a": 1}


def test_an_evaluation_says_of_which_scans_it_is(tmp_path):
    rows = (Row("breast", "pectoral_muscle", "a", "dice", 0.5),)
    points = {"pectoral_muscle": 0.7}
    one = join([Evaluation(rows, points)], "test", "validation")
    stored = one.to_json(model="m", command="c")
    assert (stored["split"], stored["operating_points_from"]) == ("test", "validation")
    assert Evaluation.from_json(stored) == one
    assert describe_scans(one) == (
        "Figures of the test scans; operating points chosen on: validation scans."
    )
    del stored["split"], stored["operating_points_from"]  # as files were before
    assert describe_scans(Evaluation.from_json(stored)) == (
        "Figures of the test scans; operating points chosen on: test scans (the paper's way)."
    )
    assert describe_scans(Evaluation(rows, {}, split="validation")) == (
        "Figures of the validation scans."
    )


def test_a_scan_without_the_class_is_undefined_not_zero():
    subjects = [subject("a", [1, 1, 0, 0]), subject("b", [0, 0, 0, 0])]
    predicted = [probabilities([0.9, 0.9, 0, 0], [0] * 4), probabilities([0.9, 0, 0, 0], [0] * 4)]
    rows = evaluate("breast", subjects, predicted).rows
    assert [r.value for r in rows if r.metric == "dice"] == [1.0, None]


def test_the_best_threshold_of_each_scan_and_dice_by_argmax_are_given_too():
    subjects = [subject("a", [1, 1, 0, 0]), subject("b", [1, 0, 0, 0])]
    predicted = [
        probabilities([0.9, 0.6, 0.2, 0.1], [0, 0, 0, 0]),
        probabilities([0.7, 0.65, 0.1, 0.1], [0, 0, 0, 0]),
    ]
    evaluation = evaluate("breast", subjects, predicted)
    figures = {
        (row.subject, row.metric): row.value
        for row in evaluation.rows
        if row.class_name == "pectoral_muscle"
    }
    # The lowest of all thresholds that are as good.
    assert figures["a", "operating_point"] == pytest.approx(0.21)
    assert figures["b", "operating_point"] == pytest.approx(0.66)
    assert figures["b", "dice_argmax"] == pytest.approx(2 / 3)
    assert figures["b", "precision"] == 0.5
    assert figures["b", "recall"] == 1


def test_the_curve_has_the_counts_of_the_whole_test_set():
    subjects = [subject("a", [1, 1, 0, 0]), subject("b", [1, 0, 0, 0])]
    predicted = [probabilities([0.9, 0.6, 0.2, 0.1], [0] * 4)] * 2
    curve = evaluate("breast", subjects, predicted).curves["pectoral_muscle"]
    assert curve["num_reference"] == 3
    precision, recall = precision_recall(**curve)
    assert (precision[0], recall[0]) == (3 / 8, 1)
    assert (precision[70], recall[70]) == (1, pytest.approx(2 / 3))
    assert (precision[100], recall[100]) == (1, 0)  # nothing is predicted


def test_confusion_counts_the_reference_class_by_the_most_probable_class():
    predicted = [probabilities([0.9, 0, 0, 0.1], [0, 0.8, 0, 0.2])]
    evaluation = evaluate("breast", [subject("a", [1, 0, 0, 1])], predicted)
    # Rows: background, muscle, artery in the reference.
    assert evaluation.confusion == {"breast": [[1, 0, 1], [1, 1, 0], [0, 0, 0]]}


def test_a_complete_evaluation_measures_surfaces_and_volumes_at_the_operating_point():
    block = np.zeros((6, 6, 6), np.uint8)
    block[2:4, 2:4, 2:4] = 1
    scan = dataclasses.replace(
        subject("a", [0]), image=np.ones(block.shape, np.float32), class_index_map=block,
        affine=np.diag([2.0, 2.0, 2.0, 1.0]),
    )  # fmt: skip
    shifted = np.roll(block, 1, axis=0).ravel()
    predicted = [probabilities(0.3 * shifted, 0 * shifted)]
    kept = []
    evaluation = evaluate(
        "breast", [scan], predicted, is_complete=True, on_labels=lambda *both: kept.append(both)
    )
    figures = {row.metric: row.value for row in evaluation.rows}
    assert figures["dice"] == 0.5
    assert figures["dice_argmax"] == 0  # background is the most probable everywhere
    assert figures["hd95_mm"] == pytest.approx(2.0)
    assert figures["volume_reference_ml"] == figures["volume_predicted_ml"] == pytest.approx(0.064)
    ((stored, labels),) = kept
    assert stored.name == "a"
    np.testing.assert_array_equal(labels.ravel(), shifted)


def test_post_processing_is_scored_beside_the_figures_without_it():
    (selection,) = parse_tasks("breast").selections
    options = dataclasses.replace(selection.task.classes[0], largest_component=True)
    task = dataclasses.replace(selection.task, classes=(options,))
    label_space = LabelSpace((dataclasses.replace(selection, task=task),))
    subjects = [subject("a", [1, 1, 1, 0, 0, 0]), subject("b", [0, 1, 0, 255, 0, 0])]
    muscle = [np.array(row, np.float32) for row in ([1, 1, 0, 0, 1, 0], [0, 1, 0, 0, 0, 0])]
    network = network_that_answers([np.stack([1 - row, row], axis=-1) for row in muscle])
    kept = []
    evaluation = evaluate_task(
        network, label_space, task, subjects, is_complete=True,
        on_labels=lambda scan, labels: kept.append(labels),
    )  # fmt: skip
    of_a = {r.metric: r.value for r in evaluation.rows if r.subject == "a"}
    assert (of_a["dice"], of_a["dice_postprocessed"]) == (pytest.approx(4 / 6), 0.8)
    assert (of_a["precision"], of_a["precision_postprocessed"]) == (pytest.approx(2 / 3), 1)
    assert of_a["recall"] == of_a["recall_postprocessed"]
    assert of_a["volume_predicted_ml_postprocessed"] == pytest.approx(0.002)
    assert of_a["hd95_mm_postprocessed"] < of_a["hd95_mm"]
    assert "volume_reference_ml_postprocessed" not in of_a
    of_b = {r.metric: r.value for r in evaluation.rows if r.subject == "b"}
    assert of_b["dice_postprocessed"] == of_b["dice"] == 1
    # The label maps are those of the other figures.
    assert [labels.ravel().tolist() for labels in kept] == [[1, 1, 0, 0, 1, 0], [0, 1, 0, 0, 0, 0]]
    table = complete_table(evaluation)
    assert "breast pectoral_muscle: with post-processing Dice 0.900 (without 0.833)" in table
    assert Evaluation.from_json(evaluation.to_json(model="m", command="c")) == evaluation


def test_a_class_that_a_scan_does_not_have_is_undefined_but_for_its_predicted_volume():
    predicted = [probabilities([0.9, 0.9, 0, 0], [0] * 4)] * 2
    subjects = [subject("a", [1, 1, 0, 0]), subject("b", [0, 0, 0, 0])]
    evaluation = evaluate("breast", subjects, predicted, is_complete=True)
    of_b = {r.metric: r.value for r in evaluation.rows if r.subject == "b"}
    assert of_b.pop("volume_predicted_ml") == pytest.approx(0.002)
    assert of_b.pop("alien_share") == 0
    assert set(of_b.values()) == {None}


def test_the_cross_task_error_is_the_share_of_foreground_with_a_class_of_another_task():
    predicted = [probabilities([0.9, 0, 0, 0.1], [0, 0.8, 0, 0.2])]
    rows = evaluate("breast", [subject("a", [1, 0, 0, 0])], predicted).rows
    assert [r.value for r in rows if r.metric == "alien_share"] == [0.25]


def test_an_argmax_task_is_scored_at_the_most_probable_class():
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


def test_no_threshold_is_counted_for_a_task_that_uses_none(monkeypatch):
    """In a network that has other tasks with operating points."""

    def refuse(*_):
        raise AssertionError("thresholds were counted")

    label_space = parse_tasks("brain,breast")
    task = label_space.selections[0].task
    # Background, white matter, four voxels of the pectoral muscle that is the most probable or not.
    rows = np.zeros((4, label_space.num_classes), np.float32)
    rows[:, label_space.class_names.index("pectoral_muscle")] = [0.1, 0.3, 0.45, 0.8]
    rows[:, 1] = [0.3, 0.6, 0.4, 0.1]
    rows[:, 0] = 1 - rows.sum(axis=1)
    labels = []
    for name in ("thresholds_reached", "count_above_thresholds"):
        monkeypatch.setattr(f"mtseg.evaluation.metrics.{name}", refuse)
    evaluation = evaluate_task(
        network_that_answers([rows]), label_space, task, [subject("a", [0, 1, 1, 0])],
        is_complete=True, on_labels=lambda scan, found: labels.append(found.ravel().tolist()),
    )  # fmt: skip
    muscle = label_space.class_names.index("pectoral_muscle")
    assert labels == [[0, 1, muscle, muscle]]
    assert evaluation.mean_dice()["brain/white_matter"] == pytest.approx(2 / 3)
    assert evaluation.values("brain", "all", "alien_share") == {"a": 0.5}


def small_evaluation():
    rows = (
        Row("brain", "white_matter", "1", "dice", 0.5),
        Row("brain", "white_matter", "2", "dice", 0.7),
        Row("brain", "brain_stem", "1", "dice", None),
        Row("brain", "all", "1", "alien_share", 0.0),
    )
    return Evaluation(rows, {})


def test_an_evaluation_is_the_same_after_json():
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


def test_the_table_shows_mean_and_range_and_says_which_class_is_absent():
    table = dice_table(small_evaluation()).splitlines()
    assert "0.600  0.500  0.700      2  argmax" in table[1]
    assert "absent" in table[2]


def test_a_complete_table_has_intervals_surfaces_and_cross_task_error():
    rows = (
        Row("brain", "white_matter", "1", "surface_dice", 0.9),
        Row("brain", "white_matter", "2", "surface_dice", 0.8),
    )
    table = complete_table(join([small_evaluation(), Evaluation(rows, {})])).splitlines()
    assert "0.600 (0.000 to 1.000)" in table[1]  # two scans say little
    assert "0.850" in table[1]
    assert "absent" in table[2]
    assert "brain: cross-task error 0.0000 % of the voxels in the median scan" in table[-1]
    # Of whom a scan is, an evaluation does not know.
    assert table[-2].startswith("Every scan counts as one. If several are of one person")


def test_the_picture_shows_the_labels_of_the_evaluation():
    """Also where a class of another task is the most probable: its operating point is unknown."""
    along_j = (1, 4, 1)
    scan = subject("a", [1, 1, 0, 0])
    scan = dataclasses.replace(
        scan,
        image=scan.image.reshape(along_j),
        class_index_map=scan.class_index_map.reshape(along_j),
    )
    predicted = [probabilities([0.6, 0.5, 0.25, 0.1], [0.0, 0.1, 0.45, 0.4])]
    pictures, kept = [], []
    evaluate(
        "breast", [scan], predicted, is_complete=True,
        on_picture=pictures.append, on_labels=lambda scan, labels: kept.append(labels),
    )  # fmt: skip
    (picture,), (labels,) = pictures, kept
    assert labels.ravel().tolist() == [1, 1, 2, 0]
    coloured = (picture[..., 0] != picture[..., 2])[::-1].T  # panels, from posterior
    assert coloured[2].tolist() == [True, True, True, False]


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


def test_a_scan_that_waits_for_its_operating_point_needs_room_on_disk(monkeypatch):
    full = shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: full)
    scan = subject("a", [1, 1, 0, 0])
    with pytest.raises(InputError, match=r"scoring a needs .* 0\.0 GB are free\. Make room"):
        evaluate("breast", [scan], [probabilities([0.5] * 4, [0.1] * 4)], is_complete=True)


def test_more_scans_may_wait_for_their_operating_point_than_files_may_be_open():
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    subjects = [subject(str(n), [1, 1, 0, 0]) for n in range(100)]
    predicted = [probabilities([0.9, 0.6, 0.2, 0.1], [0, 0, 0, 0])] * 100
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 30, limits[1]))
    try:
        evaluation = evaluate("breast", subjects, predicted, is_complete=True)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    surface_dice = evaluation.values("breast", "pectoral_muscle", "surface_dice")
    assert surface_dice == {scan.name: 1 for scan in subjects}


def test_more_scans_than_the_system_lets_wait_are_refused_in_one_line(monkeypatch):
    limit = resource.getrlimit
    files = resource.RLIMIT_NOFILE
    monkeypatch.setattr(resource, "getrlimit", lambda of: (4, 4) if of == files else limit(of))
    with pytest.raises(InputError, match=r"scoring a needs .* only 4 files .* \(ulimit -Hn\)"):
        evaluate(
            "breast", [subject("a", [1])], [probabilities([0.9], [0.0])], is_complete=True
        )  # fmt: skip
