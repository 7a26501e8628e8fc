"""Intervals and comparisons of two networks, by hand on a few numbers."""

import numpy as np
import pytest

from mtseg.evaluation.statistics import compare, mean_interval, mean_over_classes


def test_the_interval_of_two_numbers_by_hand():
    # Student's t with one degree of freedom: 12.7062 standard errors to each side of the mean.
    error = np.std([0, 1], ddof=1) / np.sqrt(2)
    assert mean_interval([0, 1]) == pytest.approx((0.5 - 12.7062 * error, 0.5 + 12.7062 * error))
    assert mean_interval([0, 1], limits=(0, 1)) == (0, 1)


def test_few_equal_numbers_have_no_interval_many_have_one_of_no_width():
    assert mean_interval([0.5]) is None
    assert mean_interval([0.5, 0.5]) is None
    assert mean_interval([0.5] * 6) == (0.5, 0.5)


def coverage(num_scans, draw, num_trials=2000):
    """Share of simulated test sets whose interval contains the true mean, 0."""
    rng = np.random.default_rng(0)
    intervals = [mean_interval(draw(rng, num_scans).tolist()) for _ in range(num_trials)]
    return np.mean([low <= 0 <= high for low, high in intervals])


@pytest.mark.parametrize("num_scans", [4, 6, 20])
def test_the_interval_covers_the_true_mean_as_often_as_it_says(num_scans):
    assert 0.935 < coverage(num_scans, lambda rng, n: rng.normal(size=n)) < 0.965
    # Also of figures that are uniform. A long tail, as of a few failed scans, costs some of it.
    assert coverage(num_scans, lambda rng, n: rng.uniform(-1, 1, size=n)) > 0.92
    assert coverage(num_scans, lambda rng, n: 1 - rng.exponential(size=n)) > 0.85


def scans(*values):
    return dict(zip("abcdefghij", values, strict=False))


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ((0.01, 0.0, -0.01, 0.01, 0.0, -0.01), "not inferior"),
        ((0.1, 0.2, 0.3, 0.1, 0.2, 0.3), "not inferior"),
        ((-0.1, 0.1, 0.0, -0.1, 0.1, 0.0), "undecided"),
        ((-0.05, -0.06, -0.04, -0.05, -0.06, -0.04), "inferior"),
        ((-0.05, -0.06, -0.04, -0.05, -0.06), "undecided"),  # five scans
        ((0.01, 0.01), "undecided"),
        ((0.0,) * 6, "not inferior"),
    ],
)
def test_the_verdict_follows_the_interval_from_six_scans_on(differences, verdict):
    single = scans(*[0.8] * len(differences))
    found = compare([single], [scans(*[0.8 + d for d in differences])])
    assert found.verdict == verdict
    assert found.difference == pytest.approx(np.mean(differences))
    assert (found.num_scans, found.num_runs) == (len(differences), 2)


def test_two_equal_differences_have_no_interval():
    found = compare([scans(0.7, 0.9)], [scans(0.8, 1.0)])  # equal but for rounding
    assert found.difference == pytest.approx(0.1)
    assert found.interval is None


def test_scans_are_paired_by_name_and_undefined_figures_left_out():
    single = {"a": 0.5, "b": 0.9, "c": None, "d": 0.7}
    multiple = {"b": 0.91, "a": 0.51, "c": 0.3}
    found = compare([single], [multiple])
    assert found.num_scans == 2
    assert found.difference == pytest.approx(0.01)


def test_nothing_to_compare_is_undecided():
    assert compare([{"a": None}], [{"a": 0.5}]).verdict == "undecided"
    assert compare([{"a": 0.4}], [{"a": 0.5}]).verdict == "undecided"  # one scan has no interval


def test_what_differs_between_seeds_widens_the_interval():
    single, multiple = scans(*[0.8] * 6), scans(0.81, 0.80, 0.79, 0.81, 0.80, 0.79)
    worse = {scan: dice - 0.04 for scan, dice in single.items()}
    alone, equal, unequal = (
        compare(runs, [multiple]) for runs in ([single], [single, single], [single, worse])
    )
    assert alone.verdict == equal.verdict == "not inferior"
    assert (alone.num_runs, unequal.num_runs) == (2, 3)
    # Compared with the mean of both runs, 0.78, of which one seed says little.
    assert unequal.difference == pytest.approx(0.02)
    assert unequal.verdict == "undecided"
    assert unequal.interval[0] < -0.1


def test_seeds_enter_the_interval_so_that_it_covers_the_difference_of_the_networks():
    """Two equal networks, four runs each; a run is better or worse by 0.02 on all of its scans."""
    rng, covered, covered_alone = np.random.default_rng(0), [], []
    for _ in range(400):
        difficulty = rng.normal(0.8, 0.05, 12)

        def run(difficulty=difficulty):
            dice = difficulty + rng.normal(0, 0.02) + rng.normal(0, 0.01, 12)
            return {str(scan): float(value) for scan, value in enumerate(dice)}

        single, multiple = ([run() for _ in range(4)] for _ in range(2))
        low, high = compare(single, multiple).interval
        covered.append(low <= 0 <= high)
        low, high = compare(single[:1], multiple[:1]).interval
        covered_alone.append(low <= 0 <= high)
    assert 0.92 < np.mean(covered) < 0.98
    assert np.mean(covered_alone) < 0.5  # an interval over scans alone is of these two runs


def test_the_mean_over_classes_leaves_out_those_that_a_scan_does_not_have():
    assert mean_over_classes([{"a": 0.5, "b": None}, {"a": 0.7, "b": None}]) == {
        "a": pytest.approx(0.6),
        "b": None,
    }


def test_scans_of_one_person_count_as_one():
    single = scans(*[0.5] * 8)
    other = scans(0.6, 0.8, 0.6, 0.6, 0.7, 0.7, 0.9, 0.7)
    person_of = dict(zip("abcdefgh", "AABBCCDD", strict=True))
    found = compare([single], [other], person_of)
    assert (found.num_scans, found.num_persons) == (8, 4)
    assert found.difference == pytest.approx(0.2)
    assert found.interval == pytest.approx(mean_interval([0.2, 0.1, 0.2, 0.3]))
    assert found.verdict == "undecided"  # four persons
    of_scans = compare([single], [other])
    assert (of_scans.num_persons, of_scans.verdict) == (8, "not inferior")


def test_with_two_equal_scans_of_each_person_the_interval_still_covers():
    rng, covered, too_sure = np.random.default_rng(0), [], []
    persons = {f"{n}{scan}": str(n) for n in range(8) for scan in "ab"}
    for _ in range(500):
        difference = rng.normal(scale=0.1, size=8)
        single = dict.fromkeys(persons, 0.0)
        other = {scan: difference[int(person)] for scan, person in persons.items()}
        for known, intervals in ((persons, covered), (None, too_sure)):
            low, high = compare([single], [other], known).interval
            intervals.append(low <= 0 <= high)
    assert np.mean(covered) > 0.92
    assert np.mean(too_sure) < 0.87
