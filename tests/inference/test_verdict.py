"""Verdicts: sums over voxels that a person can add up."""

import numpy as np
import pytest

from mtseg.errors import InputError
from mtseg.inference.scan_statistics import ScanStatistics
from mtseg.inference.verdict import (
    OutOfDistributionCheck,
    assess,
    calibrate,
    fit_reference,
    scan_features,
)

CLASS_TASK = (None, "brain", "brain", "vessels")


def statistics(*shares, confidence=0.9):
    """A scan of a thousand voxels, each sure of its class to the same degree."""
    found = ScanStatistics(len(CLASS_TASK))
    for class_index, share in enumerate(shares):
        rows = np.full((round(1000 * share), len(CLASS_TASK)), (1 - confidence) / 3, np.float32)
        rows[:, class_index] = confidence
        found.add(rows)
    return found


def test_sums_over_tiles_are_sums_over_the_scan():
    whole = statistics(0.5, 0.3, 0.2, 0)
    np.testing.assert_array_equal(whole.num_voxels, [500, 300, 200, 0])
    assert whole.mean_confidence == pytest.approx(0.9)
    assert whole.shares.tolist() == [0.5, 0.3, 0.2, 0]


def test_a_scan_without_a_voxel_is_defined():
    empty = ScanStatistics(len(CLASS_TASK))
    assert empty.mean_confidence == 0
    verdict = assess(empty, CLASS_TASK)
    assert verdict.task is None
    assert "background only" in verdict.describe()


def test_the_task_is_that_of_most_labels_and_the_rest_is_mixture():
    verdict = assess(statistics(0.5, 0.3, 0.15, 0.05), CLASS_TASK)
    assert verdict.task == "brain"
    assert verdict.task_shares == pytest.approx({"brain": 0.45, "vessels": 0.05})
    assert verdict.mixture_share == pytest.approx(0.05)
    assert verdict.warning is None  # nothing was calibrated


def familiar():
    scans = {
        "brain": [statistics(0.1, 0.5, 0.4, 0), statistics(0.1, 0.45, 0.45, 0)],
        "vessels": [statistics(0.97, 0, 0, 0.03), statistics(0.96, 0, 0, 0.04)],
    }
    return OutOfDistributionCheck(fit_reference(scans, CLASS_TASK), threshold=4.0)


def test_a_scan_like_those_of_training_is_not_warned_of():
    verdict = assess(statistics(0.1, 0.48, 0.42, 0), CLASS_TASK, familiar())
    assert verdict.resembles == "brain"
    assert verdict.score < 1
    assert verdict.warning is None


@pytest.mark.parametrize(
    "scan",
    [
        statistics(0.1, 0.45, 0.4, 0.05),  # half of nothing, half of another task
        statistics(0.1, 0.48, 0.42, 0, confidence=0.5),  # sure of nothing
        statistics(1.0, 0, 0, 0),  # nothing found
        statistics(0.1, 0.9, 0, 0),  # a brain of one tissue
    ],
)
def test_a_scan_unlike_all_of_them_is(scan):
    verdict = assess(scan, CLASS_TASK, familiar())
    assert verdict.score > 4
    assert "resembles none" in verdict.warning
    assert verdict.to_json()["warning"] == verdict.warning


def test_the_threshold_follows_from_how_unlike_each_other_familiar_scans_are():
    brains = [statistics(0.1, 0.5 - s, 0.4 + s, 0) for s in (0.0, 0.01, 0.02, 0.05)]
    vessels = [statistics(0.97 - s, 0, 0, 0.03 + s) for s in (0.0, 0.002, 0.004)]
    found = calibrate({"brain": brains, "vessels": vessels}, CLASS_TASK)
    assert (found.num_scans, found.false_alarms) == (7, 0)
    for scan in (*brains, *vessels):
        assert assess(scan, CLASS_TASK, found).warning is None
    assert assess(statistics(0.1, 0.9, 0, 0), CLASS_TASK, found).warning


def test_one_scan_unlike_the_rest_would_have_been_a_false_alarm():
    brains = [statistics(0.1, 0.5, 0.4, 0)] * 3 + [statistics(0.1, 0.05, 0.85, 0)]
    assert calibrate({"brain": brains}, CLASS_TASK).false_alarms == 1


def test_too_few_scans_say_nothing():
    assert calibrate({"brain": [statistics(0.1, 0.5, 0.4, 0)] * 2}, CLASS_TASK) is None
    assert calibrate({}, CLASS_TASK) is None


def test_features_are_logarithms_by_hand():
    features = scan_features(statistics(0.9, 0, 0, 0.1), CLASS_TASK, "vessels")
    np.testing.assert_allclose(features, [-1, -4, np.log10(0.9), -1], atol=1e-6)


def test_what_is_stored_comes_back():
    assert OutOfDistributionCheck.from_json(familiar().to_json()) == familiar()
    with pytest.raises(InputError, match="Export the model again"):
        OutOfDistributionCheck.from_json({"tasks": 3})
