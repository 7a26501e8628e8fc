"""The voxel size that a scan is segmented at is that of the task it looks like."""

import numpy as np
import pytest

from mtseg.errors import InputError
from mtseg.inference.dense import with_halo
from mtseg.inference.recognition import (
    BLOCK_EDGE,
    NUM_BLOCKS,
    candidate_spacings,
    choose_spacing,
    mismatch,
    plan_blocks,
    sample_statistics,
)
from mtseg.inference.tile_cost import Message
from mtseg.inference.tiling import plan_tiles
from mtseg.inference.verdict import ScanStatistics, calibrate
from mtseg.tasks.label_space import parse_tasks

TASKS = [selection.task for selection in parse_tasks("brain,breast,cta").selections]
CLASS_TASK = (None, "a", "a", "b")


def statistics(*num_voxels, confidence=0.9):
    found = ScanStatistics(len(num_voxels))
    found.num_voxels[:] = num_voxels
    found.confidence[:] = np.multiply(num_voxels, confidence)
    return found


def test_each_task_asks_for_its_own_voxel_size():
    found = candidate_spacings(TASKS, (0.7, 0.7, 3.0), is_ct=False)
    assert found == {1.0: ("brain",), 0.7: ("breast",)}
    assert candidate_spacings(TASKS, (0.7, 0.7, 3.0), is_ct=True) == {0.45: ("cta",)}


def test_tasks_that_ask_for_the_same_voxel_size_are_one_candidate():
    assert candidate_spacings(TASKS, (1.0, 1.001, 1.0), is_ct=False) == {1.0: ("brain", "breast")}


def test_a_scan_unlike_those_of_training_is_resampled_to_their_in_plane_size():
    breast, trained = TASKS[1:2], {"breast": 1.2}
    for own, wanted in ((1.25, 1.25), (1.05, 1.05), (0.95, 1.2), (0.6, 1.2), (1.5, 1.2)):
        found = candidate_spacings(breast, (own, own, 4.0), False, trained)
        assert found == {wanted: ("breast",)}


def test_a_scan_that_all_tasks_can_take_at_one_voxel_size_is_not_resampled_for_one_of_them():
    """So a brain of 1 mm is segmented without comparing voxel sizes first."""
    trained = {"brain": 1.0, "breast": 1.27}
    found = candidate_spacings(TASKS, (1.0, 1.0, 1.0), False, trained)
    assert found == {1.0: ("brain", "breast")}
    found = candidate_spacings(TASKS, (1.05, 1.05, 1.0), False, trained)
    assert found == {1.0: ("brain",), 1.27: ("breast",)}


def test_a_network_without_a_task_of_the_modality_uses_what_it_has():
    assert candidate_spacings(TASKS[:1], (0.5, 0.5, 0.5), is_ct=True) == {1.0: ("brain",)}


class Constant:
    """A network that gives every voxel class 1, perhaps in messages of a limited size."""

    num_classes = 3

    def __init__(self, message=None):
        self.message, self.num_tiles = message, 0

    def plan(self, volume, memory_bytes):
        return plan_tiles(volume, 3, "float32", memory_bytes, message=self.message)

    def run_all(self, volume, plan):
        for tile in plan.tiles:
            self.num_tiles += 1
            if self.message is not None:
                assert 4 * with_halo(volume, tile).size <= self.message.most_bytes
            count = np.count_nonzero(volume[tile.computed])
            yield tile, np.tile(np.array([0.1, 0.7, 0.2], np.float32), (count, 1))


def test_blocks_lie_around_foreground_voxels_and_within_the_volume():
    volume = np.zeros((80, 81, 82), np.float32)
    volume[0, 0, 0] = volume[72, 73, 74] = 1
    blocks = {str(tile.core) for tile in plan_blocks(Constant(), volume).tiles}
    half = BLOCK_EDGE // 2
    corner = (slice(0, half),) * 3
    middle = tuple(slice(c - half, c + half) for c in (72, 73, 74))
    assert blocks == {str(corner), str(middle)}
    assert len(plan_blocks(Constant(), volume).tiles) == NUM_BLOCKS
    assert plan_blocks(Constant(), volume) == plan_blocks(Constant(), volume)
    assert plan_blocks(Constant(), np.zeros((3, 4, 5), np.float32)).tiles == ()


def test_of_a_small_scan_all_foreground_is_computed_once():
    volume = np.zeros((40, 50, 40), np.float32)
    volume[2:38, 0:50, 1:39] = 1  # a crop around a hippocampus
    (tile,) = plan_blocks(Constant(), volume).tiles
    assert tile.core == tile.computed == (slice(2, 38), slice(0, 50), slice(1, 39))


def test_statistics_are_those_of_the_foreground_voxels_of_the_blocks():
    volume = np.ones((80, 80, 80), np.float32)
    found = sample_statistics(Constant(), volume)
    voxels = sum(volume[tile.core].size for tile in plan_blocks(Constant(), volume).tiles)
    assert found.num_voxels.tolist() == [0, voxels, 0]


def test_a_small_scan_is_divided_where_a_server_takes_small_messages():
    volume = np.zeros((40, 50, 40), np.float32)
    volume[2:38, 0:50, 1:39] = 1  # 3 MB with its halo
    network = Constant(Message(1_500_000))
    found = sample_statistics(network, volume)
    assert network.num_tiles > 1
    np.testing.assert_array_equal(
        found.num_voxels, sample_statistics(Constant(), volume).num_voxels
    )


@pytest.mark.parametrize("size", [40, 80])
def test_messages_that_no_block_fits_into_are_refused_with_the_remedy(size):
    """A server would only say that they are too large."""
    with pytest.raises(InputError, match="Give a larger --message-mb"):
        sample_statistics(Constant(Message(300_000)), np.ones([size] * 3, np.float32))


@pytest.mark.parametrize("is_calibrated", [True, False])
def test_voxels_like_those_of_a_task_match_it_best(is_calibrated):
    check = None
    if is_calibrated:
        scans = {
            "a": [statistics(1000 + n, 4000, 5000, 0) for n in range(5)],
            "b": [statistics(9000 + n, 0, 0, 900) for n in range(5)],
        }
        check = calibrate(scans, CLASS_TASK)
    like_a, like_b = statistics(100, 400, 500, 1), statistics(950, 0, 1, 99)
    assert mismatch(like_a, CLASS_TASK, "a", check) < mismatch(like_a, CLASS_TASK, "b", check)
    if is_calibrated:  # without, a task with little foreground cannot be told from nothing
        assert mismatch(like_b, CLASS_TASK, "b", check) < mismatch(like_b, CLASS_TASK, "a", check)


def test_a_share_that_so_few_voxels_cannot_show_is_no_mismatch():
    """A structure of 0.2 % of a scan is missed by chance in some hundred voxels."""
    scans = {"b": [statistics(9980, 0, 0, 20)] * 5, "a": [statistics(0, 5000, 5000, 0)] * 5}
    check = calibrate(scans, CLASS_TASK)
    assert mismatch(statistics(6912, 0, 0, 0), CLASS_TASK, "b", check) < 1


def test_the_voxel_size_with_the_best_match_is_chosen_and_said():
    found = choose_spacing({1.0: {"brain": 0.4}, 0.5: {"breast": 9.0, "knee": 7.0}})
    assert (found.spacing_mm, found.tasks) == (1.0, ("brain",))
    assert found.reason.startswith("segmented at 1 mm, the voxel size of brain")
    assert found.reason.endswith("its reference scans (mismatch 0.40) than at 0.5 mm (7.00)")
