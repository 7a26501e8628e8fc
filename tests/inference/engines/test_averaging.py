"""Means over networks and mirror images, with networks that say where and what a voxel is."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from mtseg.errors import InputError
from mtseg.inference.dense import DenseNetwork
from mtseg.inference.engines.averaging import MeanNetwork, require_symmetric
from mtseg.inference.tiling import Plan, Tile
from mtseg.network.architecture import HALO
from mtseg.serving.address import ServerOptions, parse_address
from mtseg.serving.remote_model import ServedNetwork
from mtseg.tasks.label_space import parse_tasks

SHAPE = (5, 3, 2)


@dataclasses.dataclass(frozen=True)
class PlaceNetwork:
    """Its rows are the voxel's index from the left, its value, and a number of its own."""

    own: float = 0.0
    num_classes: int = 3
    engine: str = "none"
    precision: str = "float32"

    def plan(self, volume, memory_bytes=None, **how):
        whole = slice(0, 3), slice(0, 2)
        cores = (slice(0, 2), *whole), (slice(2, 5), *whole)
        tiles = (Tile(cores[0], (slice(0, 3), *whole), 7), Tile(cores[1], cores[1], 9))
        return Plan(tiles, 1000 if memory_bytes is None else int(memory_bytes))

    def run_all(self, volume, plan):
        for tile in plan.tiles:
            block = volume[tile.computed]
            from_left = np.indices(block.shape)[0] + tile.computed[0].start
            mask = block != 0
            own = np.full(mask.sum(), self.own)
            yield tile, np.stack([from_left[mask], block[mask], own], -1).astype(np.float32)


@pytest.fixture
def volume():
    volume = np.arange(1, 31, dtype=np.float32).reshape(SHAPE)
    volume[1, 1, 1] = volume[4, 0, 0] = volume[0, 2, 0] = 0  # no foreground is symmetric
    return volume


def test_the_mirror_image_is_computed_and_its_rows_are_mirrored_back(volume):
    network = MeanNetwork((PlaceNetwork(),), is_mirrored=True)
    (first, rows_of_first), (last, rows_of_last) = network.run_all(volume, network.plan(volume))
    for tile, rows in ((first, rows_of_first), (last, rows_of_last)):
        block = volume[tile.computed]
        # Whatever a voxel's place, it is as far from the left once as from the right once.
        np.testing.assert_array_equal(rows[:, 0], (SHAPE[0] - 1) / 2)
        # What was computed of a voxel is where the voxel is.
        np.testing.assert_array_equal(rows[:, 1], block[block != 0])
    assert first.computed[0] == slice(0, 3)  # beyond its core, as without flips


def test_without_flips_places_stay(volume):
    network = MeanNetwork((PlaceNetwork(1.0), PlaceNetwork(4.0)))
    rows = np.concatenate([rows for _, rows in network.run_all(volume, network.plan(volume))])
    assert set(rows[:, 0]) == {0, 1, 2, 3, 4}
    assert set(rows[:, 2]) == {2.5}


def test_every_network_computes_both_images(volume):
    network = MeanNetwork((PlaceNetwork(1.0), PlaceNetwork(4.0)), is_mirrored=True)
    for _, rows in network.run_all(volume, network.plan(volume)):
        assert set(rows[:, 0]) == {2}
        assert set(rows[:, 2]) == {2.5}
    assert [tile.flop for tile in network.plan(volume).tiles] == [28, 36]


def test_the_sum_of_earlier_passes_is_kept_in_memory(volume):
    network = MeanNetwork((PlaceNetwork(),), is_mirrored=True)
    kept = 4 * 3 * (3 * 3 * 2 - 1)  # the last tile: 3 classes of its voxels but one, in float32
    assert network.plan(volume).tile_bytes == 1000 + kept
    assert network.plan(volume, 5000).tile_bytes == 5000  # so the tiles have less


class Connection:
    """A server whose answer for a voxel is its value, over 100, and the rest."""

    options, address = ServerOptions(in_flight=3), parse_address("grpc://host")

    def predict(self, signature, inputs, outputs, version):
        (tile,) = inputs["tile"]
        inner = tile[HALO:-HALO, HALO:-HALO, HALO:-HALO]
        values = inner[inner != 0] / 100
        rows = np.stack([values, 1 - values], axis=-1)
        return SimpleNamespace(outputs={"probabilities": rows[np.newaxis]})


def test_a_server_computes_mirror_images_too(volume):
    served = ServedNetwork(Connection(), 1, 2, "float32", "tile")
    network = MeanNetwork((served,), is_mirrored=True)
    ((tile, rows),) = network.run_all(volume, network.plan(volume))
    block = volume[tile.computed]
    np.testing.assert_allclose(rows[:, 0], block[block != 0] / 100)


def test_an_empty_volume_has_nothing_to_average():
    network = MeanNetwork((PlaceNetwork(),), is_mirrored=True)
    assert list(network.run_all(np.zeros(SHAPE, np.float32), Plan((), 0))) == []


def test_flips_need_the_leave_of_every_task_that_a_scan_may_be_for():
    tasks = [selection.task for selection in parse_tasks("brain,breast,cta").selections]
    require_symmetric(tasks[:2])
    require_symmetric(tasks, "breast")
    with pytest.raises(InputError, match=r"^--tta flip: cta does not .* --task brain or breast, "):
        require_symmetric(tasks)
    with pytest.raises(InputError, match=r"cta does not allow .* Leave it out\."):
        require_symmetric(tasks, "cta")


def test_smaller_chunks_reach_the_networks_of_an_ensemble_that_is_mirrored():
    networks = tuple(DenseNetwork(None, 3, "float32", 1000) for _ in range(2))
    smaller = MeanNetwork((MeanNetwork(networks),), is_mirrored=True).with_smaller_chunks()
    expected = networks[0].with_smaller_chunks()
    assert expected.chunk_positions < 1000
    assert smaller.members[0].members == (expected, expected)
