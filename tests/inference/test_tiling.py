"""The division of a volume into tiles: every foreground voxel once, within the memory."""

import numpy as np
import pytest

from mtseg.errors import InputError
from mtseg.inference import tile_cost, tiling
from mtseg.inference.tile_cost import Message
from mtseg.inference.tiling import ABOVE, BELOW, plan_tiles
from mtseg.network.architecture import HALO


def make_volume(shape, seed=0, share=0.6):
    rng = np.random.default_rng(seed)
    return (rng.random(shape) < share).astype(np.float32)


@pytest.mark.parametrize("is_interpolated", [False, True])
@pytest.mark.parametrize("shape", [(60, 70, 80), (200, 40, 33)])
def test_every_foreground_voxel_is_in_one_core(shape, is_interpolated, monkeypatch):
    monkeypatch.setattr(tile_cost, "_FIXED_BYTES", 0)
    volume = np.pad(make_volume(shape), 3)
    how = {"is_interpolated": is_interpolated}
    whole = plan_tiles(volume, 4, "bfloat16", **how).tile_bytes
    for limit in (2 * whole, whole, 0.95 * whole, 0.8 * whole):
        plan = plan_tiles(volume, 4, "bfloat16", limit, is_interpolated=is_interpolated)
        assert plan.tile_bytes <= limit
        counts = np.zeros(volume.shape, int)
        for tile in plan.tiles:
            counts[tile.core] += 1
            for core, computed in zip(tile.core, tile.computed, strict=True):
                assert 0 <= core.start - computed.start <= BELOW * is_interpolated
                assert 0 <= computed.stop - core.stop <= ABOVE * is_interpolated
        assert (counts[volume > 0] == 1).all()
        assert counts.max() == 1


def test_tiles_without_foreground_are_left_out(monkeypatch):
    monkeypatch.setattr(tile_cost, "_FIXED_BYTES", 0)
    volume = np.zeros((400, 8, 8), np.float32)
    volume[:5] = volume[-5:] = 1
    plan = plan_tiles(volume, 4, "bfloat16")
    assert len(plan.tiles) == 1
    divided = plan_tiles(volume, 4, "bfloat16", plan.tile_bytes * 0.99)
    assert len(divided.tiles) > 1
    assert all(volume[tile.core].any() for tile in divided.tiles)
    assert divided.flop < plan.flop


def test_a_volume_without_foreground_has_no_tiles():
    plan = plan_tiles(np.zeros((4, 5, 6), np.float32), 4, "float32")
    assert plan.tiles == ()
    assert plan.flop == 0


def test_interpolation_reaches_a_voxel_below_and_above_the_foreground():
    volume = np.zeros((9, 9, 9), np.float32)
    volume[4, 4, 0] = 1
    (tile,) = plan_tiles(volume, 4, "float32", is_interpolated=True).tiles
    assert tile.core == (slice(3, 5), slice(3, 5), slice(0, 1))
    (tile,) = plan_tiles(volume, 4, "float32").tiles
    assert tile.core == tile.computed == (slice(4, 5), slice(4, 5), slice(0, 1))


def test_interpolated_tiles_overlap_by_what_second_differences_need(monkeypatch):
    monkeypatch.setattr(tile_cost, "_FIXED_BYTES", 0)
    volume = np.ones((200, 20, 20), np.float32)
    whole = plan_tiles(volume, 4, "float32", is_interpolated=True).tile_bytes
    tiles = plan_tiles(volume, 4, "float32", 0.9 * whole, is_interpolated=True).tiles
    first, second = sorted(tiles, key=lambda tile: tile.core[0].start)[:2]
    middle = first.core[0].stop
    assert middle == second.core[0].start
    assert first.computed[0] == slice(0, middle + 2)
    assert second.computed[0].start == middle - 1


def test_a_tile_with_foreground_only_below_its_core_is_left_out(monkeypatch):
    """Labels between two voxels belong to the tile of the lower one."""
    monkeypatch.setattr(tiling, "_cheapest_edges", lambda *_: (8, 8, 8))
    volume = np.zeros((32, 8, 8), np.float32)
    volume[:8] = volume[24:] = 1
    tiles = plan_tiles(volume, 4, "float32", is_interpolated=True).tiles
    assert sorted(tile.core[0].start for tile in tiles) == [0, 16, 24]


def test_less_memory_means_more_tiles_and_more_operations():
    volume = np.ones((150, 150, 150), np.float32)
    whole = plan_tiles(volume, 9, "bfloat16")
    parts = plan_tiles(volume, 9, "bfloat16", 0.6 * whole.tile_bytes)
    assert len(whole.tiles) == 1 < len(parts.tiles)
    assert whole.flop < parts.flop < 1.5 * whole.flop
    exact = plan_tiles(volume, 9, "float32")
    assert exact.tile_bytes > whole.tile_bytes


def test_a_scan_that_cannot_be_computed_in_the_memory_is_refused_with_what_it_needs():
    with pytest.raises(
        InputError, match=r"needs at least 0\.2 GB of memory, but only 0\.0 GB are left"
    ):
        plan_tiles(np.ones((30, 30, 30), np.float32), 4, "bfloat16", 1000.0)


def test_the_tile_with_most_work_comes_first(monkeypatch):
    monkeypatch.setattr(tile_cost, "_FIXED_BYTES", 0)
    volume = np.zeros((300, 60, 60), np.float32)
    volume[:, 20:40, 20:40] = 1
    volume[150:250] = 1
    whole = plan_tiles(volume, 4, "bfloat16")
    tiles_by_work = plan_tiles(volume, 4, "bfloat16", 0.7 * whole.tile_bytes).tiles
    flop = [tile.flop for tile in tiles_by_work]
    assert len(flop) > 1
    assert flop == sorted(flop, reverse=True)


def test_tiles_for_a_server_fit_into_its_messages():
    volume = make_volume((60, 60, 60))
    message = Message(most_bytes=3_000_000)
    plan = plan_tiles(volume, 4, "float32", message=message)
    assert len(plan.tiles) > 1
    for tile in plan.tiles:
        with_halo = [part.stop - part.start + 2 * HALO for part in tile.computed]
        assert 4 * np.prod(with_halo) < message.most_bytes
        assert 4 * 4 * np.count_nonzero(volume[tile.computed]) < message.most_bytes
    assert len(plan_tiles(volume, 4, "float32", message=Message(6_000_000)).tiles) == 1


def test_a_message_too_small_for_any_tile_is_refused():
    with pytest.raises(InputError, match=r"Give a larger --message-mb"):
        plan_tiles(make_volume((60, 60, 60)), 4, "float32", message=Message(500_000))
