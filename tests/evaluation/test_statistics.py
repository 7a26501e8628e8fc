"""Intervals and comparisons of two networks, by hand on a few numbers."""

import itertools

import numpy as np
import pytest

from mtseg.evaluation.statistics import bootstrap_interval, compare, mean_over_classes


def test_the_interval_is_that_of_all_resamples_of_six_numbers():
    """Six numbers have 6⁶ resamples; their means, all of them, are the bootstrap distribution."""
    values = [0.80, 0.82, 0.85, 0.86, 0.90, 0.91]
    means = np.mean(list(itertools.product(values, repeat=6)), axis=1)
    low, high = bootstrap_interval(values)
    assert low == pytest.approx(np.percentile(means, 2.5), abs=0.001)
    assert high == pytest.approx(np.percentile(means, 97.5), abs=0.001)
    assert bootstrap_interval(values) == (low, high)  # the same again


def test_two_numbers_by_hand():
    # Means of two draws of 0 and 1: 0 and 1 in a quarter of cases each, so beyond 2.5 %.
    assert bootstrap_interval([0, 1]) == (0, 1)


def test_one_number_has_no_interval_and_equal_numbers_an_interval_of_no_width():
    assert bootstrap_interval([0.5]) is None
    assert bootstrap_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)


def scans(*values):
    return dict(zip("abcdef", values, strict=False))


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ((0.01, 0.0, -0.01), "not inferior"),
        ((0.1, 0.2, 0.3), "not inferior"),
        ((-0.1, 0.1, 0.0), "undecided"),
        ((-0.05, -0.06, -0.04), "inferior"),
    ],
)
def test_the_verdict_follows_the_interval(differences, verdict):
    single = scans(*[0.8] * len(differences))
    found = compare(single, scans(*[0.8 + d for d in differences]))
    assert found.verdict == verdict
    assert found.difference == pytest.approx(np.mean(differences))


def test_scans_are_paired_by_name_and_undefined_figures_left_out():
    single = {"a": 0.5, "b": 0.9, "c": None, "d": 0.7}
    multiple = {"b": 0.91, "a": 0.51, "c": 0.3}
    found = compare(single, multiple)
    assert found.num_scans == 2
    assert found.difference == pytest.approx(0.01)


def test_nothing_to_compare_is_undecided():
    assert compare({"a": None}, {"a": 0.5}).verdict == "undecided"
    assert compare({"a": 0.4}, {"a": 0.5}).verdict == "undecided"  # one scan has no interval


def test_the_mean_over_classes_leaves_out_those_that_a_scan_does_not_have():
    assert mean_over_classes([{"a": 0.5, "b": None}, {"a": 0.7, "b": None}]) == {
        "a": pytest.approx(0.6),
        "b": None,
    }
