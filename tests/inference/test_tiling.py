"""The division of a volume: every foreground voxel once, within the memory, counted by hand."""

import numpy as np
import pytest

from mtseg.errors import InputError
from mtseg.inference import tiling
from mtseg.inference.tiling import count_flop, plan_tiles
from mtseg.network.model import HALO


def make_volume(shape, seed=0, share=0.6):
    rng = np.random.default_rng(seed)
    return (rng.random(shape) < share).astype(np.float32)


@pytest.mark.parametrize("is_interpolated", [False, True])
@pytest.mark.parametrize("shape", [(60, 70, 80), (200, 40, 33)])
def test_every_foreground_voxel_is_in_one_core(shape, is_interpolated, monkeypatch):
    monkeypatch.setattr(tiling, "_FIXED_BYTES", 0)
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
                assert core.start == computed.start
                assert 0 <= computed.stop - core.stop <= int(is_interpolated)
        assert (counts[volume > 0] == 1).all()
        assert counts.max() == 1


def test_tiles_without_foreground_are_left_out(monkeypatch):
    monkeypatch.setattr(tiling, "_FIXED_BYTES", 0)
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


def test_less_memory_means_more_tiles_and_more_operations():
    volume = np.ones((150, 150, 150), np.float32)
    whole = plan_tiles(volume, 9, "bfloat16")
    parts = plan_tiles(volume, 9, "bfloat16", 0.6 * whole.tile_bytes)
    assert len(whole.tiles) == 1 < len(parts.tiles)
    assert whole.flop < parts.flop < 1.5 * whole.flop
    exact = plan_tiles(volume, 9, "float32")
    assert exact.tile_bytes > whole.tile_bytes


def test_operations_counted_by_hand():
    """One voxel: three planes of two slices (the second is empty), one extent, one head."""
    mask = np.ones((1, 1, 1), bool)
    sizes = [1 + 2 * (HALO - layer) for layer in range(1, 26)]
    assert sizes[0] == 49
    assert sizes[-1] == 1
    stack = sum(2 * 2 * n * n * 9 * (1 if n == 49 else 32) * 32 for n in sizes)
    head = 2 * (96 * 192 + 192 * 192 + 192 * 9)
    assert count_flop(mask, 9, chunk_positions=1) == 3 * stack + head
    assert count_flop(mask, 9, chunk_positions=7 * 51**2) == 3 * stack // 2 * 7 + head


def test_only_slices_and_extents_with_foreground_are_counted():
    small = np.ones((16, 16, 16), bool)
    around = np.zeros((16, 80, 16), bool)
    around[:, 20:36] = True
    chunk = 66**2 * 16  # a chunk is the cube, in every plane
    assert count_flop(small, 2, chunk) == pytest.approx(
        count_flop(around, 2, 66 * 130 * 8), rel=0.3
    )
    assert tiling._extent(np.array([0, 1, 1, 0] * 20, bool)) == 80
    assert tiling._extent(np.array([0] * 20 + [1] + [0] * 20, bool)) == 16
    assert tiling._extent(np.zeros(5, bool)) == 0
    assert tiling._extent(np.ones(5, bool)) == 5


def test_what_cannot_be_computed_in_the_memory_is_refused_with_what_it_needs():
    with pytest.raises(InputError, match=r"needs at least 0\.2 GB more .* 0\.0 GB are left"):
        plan_tiles(np.ones((30, 30, 30), np.float32), 4, "bfloat16", 1000.0)


def test_memory_grows_with_each_of_its_causes():
    def bytes_of(sizes=(50, 50, 50), foreground=9, classes=9, precision="bfloat16", ratio=1.0):
        return tiling._tile_bytes(sizes, foreground, classes, precision, ratio)

    least = bytes_of()
    for more in (
        bytes_of(sizes=(51, 50, 50)),
        bytes_of(foreground=10),
        bytes_of(precision="float32"),
        bytes_of(ratio=50.0),
        bytes_of(sizes=(5, 5, 5), foreground=100_000, classes=2000),
    ):
        assert more > least


def test_the_tile_with_most_work_comes_first(monkeypatch):
    monkeypatch.setattr(tiling, "_FIXED_BYTES", 0)
    volume = np.zeros((300, 60, 60), np.float32)
    volume[:, 20:40, 20:40] = 1
    volume[150:250] = 1
    whole = plan_tiles(volume, 4, "bfloat16")
    tiles_by_work = plan_tiles(volume, 4, "bfloat16", 0.7 * whole.tile_bytes).tiles
    flop = [tile.flop for tile in tiles_by_work]
    assert len(flop) > 1
    assert flop == sorted(flop, reverse=True)
