"""Operations and memory of a tile, counted by hand."""

import numpy as np
import pytest

from mtseg.inference.tile_cost import (
    Message,
    TileCost,
    _extent,
    chunk_positions_for,
    chunk_thickness,
    count_flop,
)
from mtseg.network.architecture import HALO


def test_operations_counted_by_hand():
    """One voxel: three planes of two slices (the second is empty), one extent, one head."""
    mask = np.ones((1, 1, 1), bool)
    sizes = [1 + 2 * (HALO - layer) for layer in range(1, 26)]
    assert sizes[0] == 49
    assert sizes[-1] == 1
    stack = sum(2 * 2 * n * n * 9 * (1 if n == 49 else 32) * 32 for n in sizes)
    head = 2 * (96 * 192 + 192 * 192 + 192 * 9)
    assert count_flop(mask, 9, chunk_positions=1) == 3 * stack + head
    # A chunk is not filled up to more slices than there are.
    assert count_flop(mask, 9, chunk_positions=7 * 51**2) == 3 * stack + head


def test_a_large_chunk_costs_no_more_than_a_small_one():
    """The chunk of a GPU with 141 GB, and that of a processor."""
    mask = np.ones((64, 64, 64), bool)
    on_processor = count_flop(mask, 9, chunk_positions_for("bfloat16"))
    on_gpu = count_flop(mask, 9, chunk_positions_for("bfloat16", 141_000_000_000 // 32))
    assert on_gpu <= on_processor


@pytest.mark.parametrize(
    ("num_slices", "chunk_positions", "thickness"),
    [
        (64, 10**9, 64),
        (10, 600, 5),  # in place of 6 and 4, filled up to 6
        (10, 300, 3),  # 3, 3, 3 and 1
        (9, 300, 3),
        (1, 10**9, 2),
        (5, 1, 2),
    ],
)
def test_slices_are_divided_evenly(num_slices, chunk_positions, thickness):
    assert chunk_thickness(num_slices, 100, chunk_positions) == thickness


def test_no_tensor_has_more_elements_than_32_bits_count():
    # The widest layer of the head has 192 values per voxel.
    assert chunk_positions_for("bfloat16", 10**12) * 192 < 2**31
    cost = TileCost(9, "bfloat16")
    assert cost.fits_tensors(2**31 // 32 - 1)  # 32 features per voxel
    assert not cost.fits_tensors(2**31 // 32)


def test_only_slices_and_extents_with_foreground_are_counted():
    small = np.ones((16, 16, 16), bool)
    around = np.zeros((16, 80, 16), bool)
    around[:, 20:36] = True
    chunk = 66**2 * 16  # a chunk is the cube, in every plane
    assert count_flop(small, 2, chunk) == pytest.approx(
        count_flop(around, 2, 66 * 130 * 8), rel=0.3
    )
    assert _extent(np.array([0, 1, 1, 0] * 20, bool), 16) == 80
    assert _extent(np.array([0] * 20 + [1] + [0] * 20, bool), 16) == 16
    assert _extent(np.zeros(5, bool), 16) == 0
    assert _extent(np.ones(5, bool), 16) == 5


def test_memory_grows_with_each_of_its_causes():
    def bytes_of(shape=(50, 50, 50), foreground=9, classes=9, precision="bfloat16", ratio=1.0):
        return TileCost(classes, precision, ratio).memory_bytes(shape, foreground)

    least = bytes_of()
    for more in (
        bytes_of(shape=(51, 50, 50)),
        bytes_of(foreground=10),
        bytes_of(precision="float32"),
        bytes_of(ratio=50.0),
        bytes_of(shape=(5, 5, 5), foreground=100_000, classes=2000),
    ):
        assert more > least


def test_a_client_needs_memory_for_messages_and_not_for_features():
    def bytes_of(**message):
        cost = TileCost(9, "bfloat16", message=Message(10**9, **message))
        return cost.memory_bytes((50, 50, 50), 1000)

    assert bytes_of() < TileCost(9, "bfloat16").memory_bytes((50, 50, 50), 1000)
    # 100 x 100 x 100 voxels of 4 bytes, as arrays, as a protocol buffer and as bytes.
    assert bytes_of(in_flight=2) - bytes_of(in_flight=1) == 3 * 4 * 100**3


@pytest.mark.parametrize(
    ("most_bytes", "num_foreground", "fits"),
    [
        (4 * 51**3 + 1000, 1, True),
        (4 * 51**3 + 999, 1, False),  # the request with its halo
        (1_000_000 + 1000, 50_000, True),
        (1_000_000 + 999, 50_000, False),  # the answer, 5 classes of 4 bytes
    ],
)
def test_requests_and_answers_must_fit_into_a_message(most_bytes, num_foreground, fits):
    cost = TileCost(5, "float32", message=Message(most_bytes))
    assert cost.fits_message((1, 1, 1), num_foreground) == fits


def test_without_a_server_there_is_no_message_to_fit():
    assert TileCost(5, "float32").fits_message((10**6,) * 3, 10**18)


def test_a_chunk_is_as_many_voxels_as_its_memory_holds_in_32_features():
    assert chunk_positions_for("float32", 1280) == 10
    assert chunk_positions_for("bfloat16", 1280) == 20
