"""Figures on arrays small enough to check by eye."""

import doctest

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_recall_fscore_support

from mtseg.evaluation import metrics, statistics
from mtseg.evaluation.metrics import (
    THRESHOLDS,
    best_threshold,
    count_above_thresholds,
    dice,
    overlap_figures,
    precision_recall,
)


@pytest.mark.parametrize("module", [metrics, statistics])
def test_the_examples_of_docstrings(module):
    result = doctest.testmod(module)
    assert result.attempted > 0 == result.failed


def test_dice_of_two_overlapping_pairs_is_a_half():
    assert dice(np.array([1, 1, 0, 0], bool), np.array([0, 1, 1, 0], bool)) == 0.5


def test_dice_of_a_prediction_that_misses_everything_is_zero():
    assert dice(np.array([1, 0], bool), np.array([0, 1], bool)) == 0


def test_dice_is_undefined_where_the_reference_is_empty():
    assert dice(np.zeros(3, bool), np.array([1, 0, 0], bool)) is None
    assert dice(np.zeros(3, bool), np.zeros(3, bool)) is None


def test_counts_agree_with_comparing_every_threshold():
    rng = np.random.default_rng(0)
    probabilities = rng.random((3, 4, 5)).astype(np.float32)
    probabilities.flat[:4] = [0, 1, np.float32(0.5), np.float32(0.29)]
    reference = rng.random((3, 4, 5)) > 0.5
    predicted, overlap = count_above_thresholds(reference, probabilities)
    for at, threshold in enumerate(THRESHOLDS.astype(np.float32)):
        above = probabilities >= threshold
        assert predicted[at] == above.sum()
        assert overlap[at] == (above & reference).sum()


def test_best_threshold_separates_four_voxels():
    reference = np.array([1, 1, 0, 0], bool)
    probabilities = np.array([0.9, 0.6, 0.55, 0.1], np.float32)
    found = best_threshold(*count_above_thresholds(reference, probabilities), 2)
    assert found == (pytest.approx(0.56), 1.0)


def test_a_class_that_the_network_never_finds_has_an_operating_point_above_zero():
    """Every voxel reaches 0, also of air and of a class that a scan cannot have."""
    reference = np.array([True, False, False])
    counted = count_above_thresholds(reference, np.zeros(3, np.float32))
    assert best_threshold(*counted, 1) == (0.01, 0.0)


def test_best_threshold_is_undefined_without_a_reference():
    assert best_threshold(np.ones(101, int), np.zeros(101, int), 0) is None


def test_overlap_figures_by_hand():
    # Four predicted, five in the reference, three in both.
    figures = overlap_figures(4, 3, 5)
    assert figures == {"dice": pytest.approx(6 / 9), "precision": 0.75, "recall": 0.6}


def test_figures_without_a_reference_and_precision_without_a_prediction_are_undefined():
    assert overlap_figures(4, 0, 0) == {"dice": None, "precision": None, "recall": None}
    assert overlap_figures(0, 0, 5) == {"dice": 0, "precision": None, "recall": 0}


def test_precision_and_recall_are_scikit_learns():
    rng = np.random.default_rng(0)
    reference = rng.random(5000) < 0.1
    # In steps of 1/200, so that many lie on a threshold exactly.
    scores = np.round(np.clip(rng.normal(0.3 + 0.3 * reference, 0.2), 0, 1) * 200) / 200
    predicted, overlap = count_above_thresholds(reference, scores)
    precision, recall = precision_recall(predicted, overlap, int(reference.sum()))
    for number, threshold in enumerate(THRESHOLDS):
        by_threshold = scores >= threshold
        expected = precision_recall_fscore_support(
            reference, by_threshold, average="binary", zero_division=1.0
        )
        assert precision[number] == pytest.approx(expected[0])
        assert recall[number] == pytest.approx(expected[1])
    threshold, dice_there = best_threshold(predicted, overlap, int(reference.sum()))
    best = max(f1_score(reference, scores >= t) for t in THRESHOLDS)
    assert dice_there == pytest.approx(best)
    assert f1_score(reference, scores >= threshold) == pytest.approx(best)
