"""The decision rule: by hand, and the same for arrays, graphs, counts and stored scans."""

import doctest

import numpy as np
import pytest
import tensorflow as tf

from mtseg.evaluation.counts import count_scan
from mtseg.evaluation.metrics import THRESHOLDS
from mtseg.evaluation.stored_scan import StoredScan
from mtseg.inference import decision
from mtseg.inference.decision import (
    apply_thresholds,
    decide,
    decide_in_graph,
    decide_rows,
    rank,
)
from mtseg.inference.dense import DenseNetwork
from mtseg.sources.subject import PreparedSubject

ARGMAX = None


def label(probabilities, thresholds):
    (found,) = decide([np.array([p], np.float32) for p in probabilities], thresholds)
    return int(found)


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ((0.7, 0.1, 0.1, 0.1), 0),  # background is the most probable
        ((0.2, 0.5, 0.2, 0.1), 1),
        ((0.1, 0.2, 0.6, 0.1), 2),
        ((0.6, 0.05, 0.0, 0.35), 3),  # reaches its operating point below the background
        ((0.1, 0.5, 0.0, 0.4), 1),  # an argmax class is the most probable: white matter, not muscle
        ((0.2, 0.26, 0.25, 0.29), 0),  # the most probable, but below its operating point
        ((0.2, 0.25, 0.25, 0.3), 3),  # reaches its operating point exactly
    ],
)
def test_two_argmax_classes_and_one_with_an_operating_point_of_0_3(probabilities, expected):
    assert label(probabilities, (ARGMAX, ARGMAX, ARGMAX, 0.3)) == expected


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ((0.2, 0.5, 0.3), 1),  # both reach theirs: the more probable one
        ((0.2, 0.35, 0.45), 2),
        ((0.6, 0.3, 0.1), 0),  # the candidate misses its own, so nobody else gets the voxel
    ],
)
def test_two_operating_points_of_0_4_and_0_1(probabilities, expected):
    assert label(probabilities, (ARGMAX, 0.4, 0.1)) == expected


def test_of_equally_probable_classes_the_first_counts():
    assert label((0.4, 0.4, 0.2), (ARGMAX, ARGMAX, ARGMAX)) == 0
    assert label((0.2, 0.4, 0.4), (ARGMAX, ARGMAX, ARGMAX)) == 1
    assert label((0.2, 0.4, 0.4), (ARGMAX, 0.3, ARGMAX)) == 1
    assert label((0.2, 0.4, 0.4), (ARGMAX, ARGMAX, 0.3)) == 1


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ((0.1, 0.3, 0.6), 2),  # the most probable of all
        ((0.5, 0.2, 0.3), 0),  # the candidate, but background is more probable
        ((0.1, 0.6, 0.3), 1),  # reaches its own operating point of 0.4
        ((0.3, 0.45, 0.25), 1),
        ((0.42, 0.42, 0.16), 1),  # ties with background, and reaches it
    ],
)
def test_a_class_whose_operating_point_is_unknown_is_found_where_it_is_the_most_probable(
    probabilities, expected
):
    ranking = rank([np.array([p], np.float32) for p in probabilities], (False, True, True))
    assert apply_thresholds(ranking, (False, True, True), {1: 0.4}) == [expected]


def test_the_example_of_the_docstring():
    result = doctest.testmod(decision)
    assert result.attempted > 0 == result.failed


def test_thresholds_are_chosen_after_ranking():
    """One ranking serves every threshold, as an evaluation needs it."""
    maps = np.random.default_rng(3).dirichlet(np.ones(4), 200).astype(np.float32).T
    is_thresholded = (False, True, False, True)
    ranking = rank(maps, is_thresholded)
    for first, second in ((0.1, 0.6), (0.5, 0.5), (1.0, 0.0)):
        np.testing.assert_array_equal(
            apply_thresholds(ranking, is_thresholded, {1: first, 3: second}),
            decide(maps, (ARGMAX, first, ARGMAX, second)),
        )


def test_there_must_be_one_map_per_class():
    with pytest.raises(ValueError, match="longer"):
        decide([np.zeros(1), np.zeros(1)], (ARGMAX, 0.5, 0.5))


def test_the_papers_networks_of_one_task_are_decided_as_in_the_paper():
    rng = np.random.default_rng(0)
    tissues = rng.dirichlet(np.ones(7), 500).astype(np.float32)
    np.testing.assert_array_equal(decide(tissues.T, (ARGMAX,) * 7), tissues.argmax(axis=1))
    muscle = rng.dirichlet(np.ones(2), 500).astype(np.float32)
    by_threshold = muscle[:, 1] >= np.float32(0.17)
    np.testing.assert_array_equal(decide(muscle.T, (ARGMAX, 0.17)), by_threshold)


@pytest.mark.parametrize(
    "thresholds",
    [
        (ARGMAX,) * 4,
        (ARGMAX, ARGMAX, 0.3, 0.2),
        (ARGMAX, 0.5, ARGMAX, 0.0),
        (ARGMAX, 0.25, 0.25, 1.0),
        (ARGMAX, 0.4),
        (ARGMAX, ARGMAX),
    ],
)
def test_arrays_graph_counts_and_stored_scans_agree(thresholds):
    """Probabilities in steps of 1/8: many classes tie and many reach a threshold exactly."""
    rng = np.random.default_rng(1)
    shape, num_classes = (5, 6, 7), len(thresholds)
    steps = rng.multinomial(8, np.ones(num_classes) / num_classes, shape)
    probabilities = (steps / 8).astype(np.float32)
    reference = rng.integers(0, num_classes, shape).astype(np.uint8)
    labels = decide(np.moveaxis(probabilities, -1, 0), thresholds)

    in_graph = decide_in_graph(tf.constant(probabilities), thresholds)
    np.testing.assert_array_equal(in_graph, labels)
    of_voxels = probabilities.reshape(-1, num_classes)
    by_rows = decide_rows(of_voxels, of_voxels.argmax(axis=-1), thresholds)
    np.testing.assert_array_equal(by_rows.reshape(shape), labels)

    # One task has all the classes, and the network answers with these probabilities.
    points = {c: t for c, t in enumerate(thresholds) if t is not None}
    is_thresholded = [t is not None for t in thresholds]
    subject = PreparedSubject("a", np.ones(shape, np.float32), reference, np.eye(4))
    to_combined = np.arange(num_classes, dtype=np.uint8)
    stored = StoredScan(subject, to_combined, is_thresholded)
    rows = tf.constant(probabilities.reshape(-1, num_classes))
    network = DenseNetwork(lambda tile, chunk_positions: rows, num_classes, "float32", 1000)
    counts = count_scan(network, to_combined, is_thresholded, subject, [stored])
    np.testing.assert_array_equal(stored.labels(points), labels)
    for c, threshold in points.items():
        predicted, right, in_reference = counts.at_threshold(c, threshold)
        assert predicted == np.count_nonzero(labels == c)
        assert right == np.count_nonzero((labels == c) & (reference == c))
        assert in_reference == np.count_nonzero(reference == c)
    for c in set(range(1, num_classes)) - set(points):
        assert counts.at_argmax(c)[0] == np.count_nonzero(labels == c)


def test_every_threshold_counts_what_it_would_decide():
    rng = np.random.default_rng(2)
    probabilities = rng.dirichlet(np.ones(3), (4, 4, 4)).astype(np.float32)
    subject = PreparedSubject(
        "a", np.ones((4, 4, 4), np.float32), np.ones((4, 4, 4), np.uint8), np.eye(4)
    )
    rows = tf.constant(probabilities.reshape(-1, 3))
    network = DenseNetwork(lambda tile, chunk_positions: rows, 3, "float32", 1000)
    is_thresholded = (False, True, False)
    to_combined = np.arange(2, dtype=np.uint8)
    counts = count_scan(network, to_combined, is_thresholded, subject)
    for threshold in THRESHOLDS[::10]:
        labels = decide(np.moveaxis(probabilities, -1, 0), (ARGMAX, threshold, ARGMAX))
        assert counts.at_threshold(1, threshold)[0] == np.count_nonzero(labels == 1)
