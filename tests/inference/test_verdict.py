"""The out-of-distribution check, on sums that a person can add up."""

from unittest.mock import ANY

import numpy as np
import pytest

from mtseg.errors import InputError
from mtseg.inference.verdict import (
    OutOfDistributionCheck,
    ScanStatistics,
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


def test_a_scan_without_foreground_has_a_verdict():
    empty = ScanStatistics(len(CLASS_TASK))
    assert empty.mean_confidence == 0
    verdict = assess(empty, CLASS_TASK)
    assert verdict.task is None
    assert "background only" in verdict.describe()


def test_the_task_is_that_of_most_labelled_voxels():
    verdict = assess(statistics(0.5, 0.3, 0.15, 0.05), CLASS_TASK)
    assert verdict.task == "brain"
    assert verdict.task_shares == pytest.approx({"brain": 0.45, "vessels": 0.05})
    assert verdict.other_tasks_share == pytest.approx(0.05)
    assert verdict.warning is None  # the model has no check


def make_check():
    scans = {
        "brain": [statistics(0.1, 0.5, 0.4, 0), statistics(0.1, 0.45, 0.45, 0)],
        "vessels": [statistics(0.97, 0, 0, 0.03), statistics(0.96, 0, 0, 0.04)],
    }
    return OutOfDistributionCheck(fit_reference(scans, CLASS_TASK), threshold=4.0)


def test_a_scan_like_the_test_scans_of_a_task_gets_no_warning():
    verdict = assess(statistics(0.1, 0.48, 0.42, 0), CLASS_TASK, make_check())
    assert verdict.closest_task == "brain"
    assert verdict.score < 1
    assert verdict.warning is None


@pytest.mark.parametrize(
    "scan",
    [
        statistics(0.1, 0.45, 0.4, 0.05),  # 5 % of voxels have a class of another task
        statistics(0.1, 0.48, 0.42, 0, confidence=0.5),  # low confidence
        statistics(1.0, 0, 0, 0),  # background alone
        statistics(0.1, 0.9, 0, 0),  # a brain of one tissue
    ],
)
def test_a_scan_unlike_the_test_scans_of_every_task_gets_a_warning(scan):
    verdict = assess(scan, CLASS_TASK, make_check())
    assert verdict.score > 4
    assert f"closest known task: {verdict.closest_task}" in verdict.warning
    assert verdict.to_json()["warning"] == verdict.warning


def test_the_threshold_follows_from_how_much_the_test_scans_differ():
    brains = [statistics(0.1, 0.5 - s, 0.4 + s, 0) for s in (0.0, 0.01, 0.02, 0.05)]
    vessels = [statistics(0.97 - s, 0, 0, 0.03 + s) for s in (0.0, 0.002, 0.004)]
    found = calibrate({"brain": brains, "vessels": vessels}, CLASS_TASK)
    assert (found.num_scans, found.false_alarms) == (7, 0)
    for scan in (*brains, *vessels):
        assert assess(scan, CLASS_TASK, found).warning is None
    assert assess(statistics(0.1, 0.9, 0, 0), CLASS_TASK, found).warning


def test_a_test_scan_unlike_the_others_counts_as_a_false_alarm():
    brains = [statistics(0.1, 0.5, 0.4, 0)] * 3 + [statistics(0.1, 0.05, 0.85, 0)]
    assert calibrate({"brain": brains}, CLASS_TASK).false_alarms == 1


def test_too_few_scans_give_no_check():
    assert calibrate({"brain": [statistics(0.1, 0.5, 0.4, 0)] * 2}, CLASS_TASK) is None
    assert calibrate({}, CLASS_TASK) is None


def test_features_are_logarithms_by_hand():
    features = scan_features(statistics(0.9, 0, 0, 0.1), CLASS_TASK, "vessels")
    np.testing.assert_allclose(features, [-1, -4, np.log10(0.9), -1], atol=1e-6)


def test_a_stored_check_is_the_same_and_a_damaged_one_names_its_model():
    assert OutOfDistributionCheck.from_json(make_check().to_json(), "model") == make_check()
    for damaged in ({}, {"tasks": 3}, {"tasks": {}, "of_another_version": 1}):
        with pytest.raises(InputError, match=r"^model/1: .*Export the model again"):
            OutOfDistributionCheck.from_json(damaged, "model/1")


def test_verdict_files_keep_their_names():
    """Programs read these files; fields of the class may have other names."""
    assert assess(statistics(0.5, 0.3, 0.15, 0.05), CLASS_TASK, make_check()).to_json() == {
        "task": "brain",
        "task_shares": pytest.approx({"brain": 0.45, "vessels": 0.05}),
        "mean_confidence": pytest.approx(0.9),
        "mixture_share": pytest.approx(0.05),
        "score": pytest.approx(26.99, abs=0.01),
        "threshold": 4.0,
        "resembles": "brain",
        "warning": ANY,
    }
