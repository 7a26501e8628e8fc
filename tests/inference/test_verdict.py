"""The out-of-distribution check, on sums that a person can add up."""

import dataclasses
import json
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
    intensity_percentiles,
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
    assert verdict.status == "ok"
    assert verdict.warning is None


@pytest.mark.parametrize(
    ("scan", "closest", "unusual"),
    [
        (
            statistics(0.1, 0.45, 0.4, 0.05),
            "brain",
            "5 % of voxels with a class of another task (usual up to 0.025 %)",
        ),
        (
            statistics(0.1, 0.48, 0.42, 0, confidence=0.5),
            "brain",
            "confidence 0.500 (usual 0.749 to 0.960)",
        ),
        (
            statistics(1.0, 0, 0, 0),
            "vessels",
            "artery at most 0.1 % of the scan (usual 1.4 % to 8.7 %)",
        ),
        (
            statistics(0.1, 0.9, 0, 0),
            "brain",
            "grey at most 0.1 % of the scan (usual 17 % to 100 %)",
        ),
    ],
)
def test_a_scan_unlike_the_test_scans_of_every_task_gets_a_warning(scan, closest, unusual):
    names = ("background", "white", "grey", "artery")
    verdict = assess(scan, CLASS_TASK, make_check(), class_names=names)
    assert verdict.status == "warning"
    assert verdict.score > 4
    assert f"unlike the reference scans of {closest}, which it is closest to" in verdict.warning
    assert [feature.describe() for feature in verdict.features if feature.is_unusual] == [unusual]
    assert verdict.to_json()["warning"] == verdict.warning


def test_the_score_grows_with_how_unusual_a_scan_is_and_in_how_many_ways():
    scans = [
        statistics(0.1, 0.48, 0.42, 0),
        statistics(0.1, 0.47, 0.42, 0.01),
        statistics(0.1, 0.45, 0.4, 0.05),
        statistics(0.1, 0.45, 0.4, 0.05, confidence=0.5),
        statistics(0.01, 0.69, 0, 0.3, confidence=0.3),
    ]
    scores = [assess(scan, CLASS_TASK, make_check()).score for scan in scans]
    assert scores == sorted(scores)
    assert scores[0] < 4 < scores[1]
    assert scores[2] - scores[1] > 5
    assert scores[4] - scores[3] > 5


def test_confidence_is_given_for_each_structure_that_was_found():
    decided = ScanStatistics(len(CLASS_TASK))
    rows = np.array([[0.4, 0.6, 0, 0], [0.2, 0.8, 0, 0], [0.6, 0, 0, 0.4]], np.float32)
    decided.add(rows, np.array([1, 1, 3], np.uint8))  # the artery by its operating point
    names = ("background", "white", "grey", "artery")
    verdict = assess(statistics(0.5, 0.5), CLASS_TASK, class_names=names, decided=decided)
    assert verdict.confidence == pytest.approx({"white": 0.7, "artery": 0.4})
    assert verdict.describe_confidence() == "confidence: white 0.70, artery 0.40"


def test_the_task_is_that_of_the_labels_which_operating_points_decide():
    def decide(*labels):
        decided = ScanStatistics(len(CLASS_TASK))
        decided.add(np.full((len(labels), 4), 0.25, np.float32), np.array(labels, np.uint8))
        return decided

    below_a_half = assess(statistics(1.0), CLASS_TASK, decided=decide(3, 3, 0, 0))
    assert (below_a_half.task, below_a_half.task_shares["vessels"]) == ("vessels", 0.5)
    assert below_a_half.describe().startswith("recognised as vessels (100 % of labelled voxels")
    not_reached = assess(statistics(0.9, 0, 0, 0.1), CLASS_TASK, decided=decide(0, 0, 0, 0))
    assert (not_reached.task, not_reached.other_tasks_share) == (None, 0)
    assert not_reached.describe() == "background only, confidence 0.90"


@pytest.mark.parametrize(
    ("scan", "how", "reason"),
    [
        (statistics(0.1, 0.5, 0.4, 0), {"check": None}, "evaluated on too few scans"),
        (statistics(0, 0.01), {}, "it has 10 foreground voxels, and 1000 are needed"),
        (statistics(0.1, 0.5, 0.4, 0), {"given_task": "knee"}, "no reference scans of knee"),
        (
            statistics(0.1, 0.5, 0.4, 0),
            {"excluded_tasks": ("brain", "vessels")},
            "no reference scans of its modality",
        ),
    ],
)
def test_what_could_not_be_compared_is_not_assessed_which_is_not_ok(scan, how, reason):
    verdict = assess(scan, CLASS_TASK, **{"check": make_check(), **how})
    assert verdict.status == "not assessed"
    assert reason in verdict.not_assessed
    assert verdict.warning is None
    assert verdict.score is None
    assert verdict.to_json()["not_assessed"] == verdict.not_assessed


def test_a_scan_is_compared_with_test_scans_of_the_voxel_size_that_it_was_computed_at():
    scan, trained = statistics(0.97, 0, 0, 0.03), {"brain": 1.0, "vessels": 0.5}
    for mm, task in ((0.5, "vessels"), (0.6, "vessels"), (1.0, "brain"), (1.25, "brain")):
        scan.spacing_mm = mm
        verdict = assess(scan, CLASS_TASK, make_check(), trained_mm=trained)
        assert verdict.closest_task == task
        assert verdict.status == ("ok" if task == "vessels" else "warning")
    scan.spacing_mm = 2.0
    verdict = assess(scan, CLASS_TASK, make_check(), trained_mm=trained)
    assert verdict.not_assessed == (
        "it was computed at 2 mm, the reference scans at 1 mm (brain), 0.5 mm (vessels)"
    )


def test_a_task_that_was_named_is_the_one_to_be_like():
    scan = statistics(0.97, 0, 0, 0.03)
    assert assess(scan, CLASS_TASK, make_check()).status == "ok"
    verdict = assess(scan, CLASS_TASK, make_check(), given_task="brain")
    assert (verdict.status, verdict.closest_task) == ("warning", "brain")
    assert verdict.describe().endswith(", but --task brain was given")


def test_a_scan_of_a_modality_that_is_not_its_own_is_not_like_its_own_task():
    """No voxel may get the class that it has, so its labels are those of nothing."""
    scan = statistics(0.97, 0, 0, 0.03)
    verdict = assess(scan, CLASS_TASK, make_check(), excluded_tasks={"vessels"})
    assert (verdict.status, verdict.closest_task) == ("warning", "brain")


@pytest.mark.parametrize(
    ("own_mm", "is_unusual"), [(0.39, True), (0.4, False), (1, False), (2.5, False), (3, True)]
)
def test_a_voxel_size_far_from_that_of_the_test_scans_is_unusual(own_mm, is_unusual):
    verdict = assess(
        statistics(0.1, 0.48, 0.42, 0), CLASS_TASK, make_check(),
        trained_mm={"brain": 1.0}, in_plane_mm=own_mm,
    )  # fmt: skip
    assert verdict.status == ("warning" if is_unusual else "ok")
    text = f"voxel size {own_mm:.3g} mm (usual 0.4 to 2.5 mm)"
    assert (text in str(verdict.warning)) == is_unusual


def test_intensities_are_compared_where_the_reference_has_them():
    def scan(*intensities):
        found = statistics(0.1, 0.48, 0.42, 0)
        found.intensities = intensities or None
        return found

    check = calibrate({"brain": [scan(0.4, 0.6, 0.9)] * 4}, CLASS_TASK)
    check = dataclasses.replace(check, threshold=3.0)
    assert assess(scan(0.42, 0.62, 0.9), CLASS_TASK, check).status == "ok"
    exchanged = assess(scan(0.1, 0.35, 0.6), CLASS_TASK, check)
    assert "intensities: 10 % of voxels are below 0.10 of the brightest (usual 0.28 to 0.57)" in (
        exchanged.warning
    )
    assert assess(scan(), CLASS_TASK, check).status == "ok"
    assert {f.name for f in exchanged.features} - {
        f.name for f in assess(scan(), CLASS_TASK, check).features
    } == {"intensity_10", "intensity_50", "intensity_90"}


def test_intensity_percentiles_are_those_of_the_foreground():
    volume = np.arange(11, dtype=np.float32).reshape(11, 1, 1)  # 0 is background, 1 to 10 are not
    assert intensity_percentiles(volume) == pytest.approx((1.9, 5.5, 9.1))
    large = np.linspace(0, 1, 8_000_000, dtype=np.float32).reshape(200, 200, 200)
    assert intensity_percentiles(large) == pytest.approx((0.1, 0.5, 0.9), abs=0.005)
    assert intensity_percentiles(np.zeros((2, 3, 4), np.float32)) is None


def test_the_threshold_follows_from_how_much_the_test_scans_differ():
    brains = [statistics(0.1, 0.5 - s, 0.4 + s, 0) for s in (0.0, 0.01, 0.02, 0.05)]
    vessels = [statistics(0.97 - s, 0, 0, 0.03 + s) for s in (0.0, 0.002, 0.004)]
    found = calibrate({"brain": brains, "vessels": vessels}, CLASS_TASK)
    assert (found.num_scans, found.false_alarms) == (7, 0)
    for scan in (*brains, *vessels):
        assert assess(scan, CLASS_TASK, found).warning is None
    assert assess(statistics(0.1, 0.9, 0, 0), CLASS_TASK, found).warning


def test_one_failure_among_many_test_scans_does_not_widen_what_is_usual():
    brains = [statistics(0.1, 0.5 - n / 1000, 0.4 + n / 1000, 0) for n in range(39)]
    failed = statistics(0.1, 0.05, 0.85, 0)
    found = calibrate({"brain": [*brains, failed]}, CLASS_TASK)
    assert (found.num_scans, found.false_alarms) == (40, 1)
    assert assess(failed, CLASS_TASK, found).status == "warning"
    assert all(assess(scan, CLASS_TASK, found).warning is None for scan in brains)
    # Of few scans each counts: there is no telling which is the failure.
    few = calibrate({"brain": [*brains[:6], failed]}, CLASS_TASK)
    assert assess(failed, CLASS_TASK, few).warning is None


def test_false_alarms_are_counted_on_scans_that_had_no_part_in_the_check():
    brains = [statistics(0.1, 0.5, 0.4, 0)] * 3 + [statistics(0.1, 0.05, 0.85, 0)]
    found = calibrate({"brain": brains}, CLASS_TASK)
    # Without the fourth, the others are all alike, and it is far from them.
    assert (found.num_scans, found.false_alarms) == (4, 1)
    for number, scan in enumerate(brains):
        others = [*brains[:number], *brains[number + 1 :]]
        check = calibrate({"brain": others}, CLASS_TASK)
        assert (assess(scan, CLASS_TASK, check).status == "warning") == (number == 3)


def test_few_reference_scans_are_said():
    brains = [statistics(0.1, 0.5 - n / 100, 0.4 + n / 100, 0) for n in range(12)]
    few, many = (calibrate({"brain": scans}, CLASS_TASK) for scans in (brains[:4], brains))
    assert few.describe() == (
        "Out-of-distribution check: made from 4 reference scans of brain; 0 of them would be "
        "warned of if left out. So few scans give rough usual ranges."
    )
    assert "So few" not in many.describe()
    of_earlier_version = dataclasses.replace(make_check(), num_scans=19)
    for reference in of_earlier_version.tasks.values():
        object.__setattr__(reference, "num_scans", None)
    assert "So few" in of_earlier_version.describe()
    assert "So few" not in dataclasses.replace(of_earlier_version, num_scans=20).describe()


def test_too_few_scans_give_no_check():
    assert calibrate({"brain": [statistics(0.1, 0.5, 0.4, 0)] * 2}, CLASS_TASK) is None
    assert calibrate({}, CLASS_TASK) is None


def test_features_are_logarithms_by_hand():
    features = scan_features(statistics(0.9, 0, 0, 0.1), CLASS_TASK, "vessels")
    assert features == pytest.approx(
        {"missing_confidence": -1, "other_tasks": -4, "share_0": np.log10(0.9), "share_1": -1}
    )


def test_fewer_voxels_of_other_tasks_than_usual_are_not_unusual():
    scans = {"brain": [statistics(0.1, 0.46, 0.4, 0.04)] * 3}
    check = dataclasses.replace(calibrate(scans, CLASS_TASK), threshold=4.0)
    assert assess(statistics(0.1, 0.5, 0.4, 0), CLASS_TASK, check).status == "ok"
    assert assess(statistics(0.1, 0.3, 0.4, 0.2), CLASS_TASK, check).status == "warning"


def test_a_stored_check_is_the_same_and_a_damaged_one_names_its_model():
    stored = json.loads(json.dumps(make_check().to_json()))
    assert OutOfDistributionCheck.from_json(stored, "model") == make_check()
    for damaged in ({}, {"tasks": 3}, {"tasks": {}, "of_another_version": 1}):
        with pytest.raises(InputError, match=r"^model/1: .*Export the model again"):
            OutOfDistributionCheck.from_json(damaged, "model/1")


def test_a_check_of_an_earlier_version_is_read():
    stored = {
        "tasks": {"vessels": {"mean": [-1, -4, -0.05, -1], "deviation": [0.1, 0.2, 0.3, 0.4]}},
        "threshold": 4.0,
        "num_scans": 8,
        "false_alarms": 1,
    }
    check = OutOfDistributionCheck.from_json(stored, "model")
    assert check.tasks["vessels"].features == {
        "missing_confidence": (-1, 0.1),
        "other_tasks": (-4, 0.2),
        "share_0": (-0.05, 0.3),
        "share_1": (-1, 0.4),
    }
    assert assess(statistics(0.9, 0, 0, 0.1), CLASS_TASK, check).status == "ok"


def test_verdict_files_keep_their_names():
    """Programs read these files; fields of the class may have other names."""
    stored = assess(statistics(0.5, 0.3, 0.15, 0.05), CLASS_TASK, make_check()).to_json()
    features = stored.pop("features")
    assert stored == {
        "status": "warning",
        "warning": ANY,
        "not_assessed": None,
        "task": "brain",
        "given_task": None,
        "likeliest_task": "brain",
        "task_shares": pytest.approx({"brain": 0.45, "vessels": 0.05}),
        "mean_confidence": pytest.approx(0.9),
        "confidence": {},
        "mixture_share": pytest.approx(0.05),
        "score": pytest.approx(np.hypot(np.hypot(26.99, 6.99), 4.51), abs=0.01),
        "threshold": 4.0,
        "resembles": "brain",
    }
    assert features[0] == {
        "feature": "other_tasks",
        "class": None,
        "value": pytest.approx(0.05),
        "usual_low": pytest.approx(10**-4.4),
        "usual_high": pytest.approx(10**-3.6),
        "unusual": True,
    }
    assert [(f["feature"], f["class"]) for f in features if f["feature"] == "share"] == [
        ("share", "background"), ("share", "class 2"), ("share", "class 1"),
    ]  # fmt: skip
