"""Patches cut from a buffer on the device are those that the host cuts, bit for bit."""

import numpy as np
import pytest

from mtseg.batches.balance import BalancedSamples
from mtseg.batches.pipeline import make_dataset, read_ahead
from mtseg.batches.placed_samples import PlacedSamples, Places, count_voxels
from mtseg.batches.volume_patches import VolumePatches
from mtseg.scans.patches import pad_volume
from mtseg.tasks.label_space import parse_tasks
from mtseg.training.engines.cutting import cut_from_buffer
from tests.batches.test_balance import NumberedStore

SHAPES = [[(3, 5, 2), (1, 7, 4)], [(60, 2, 3)]]
"""Of the volumes of two sources; in one of them a patch meets no border along i."""


def numbered_volumes(shapes, first):
    """Volumes whose intensities say which voxel it is: odd ones background, even ones tissue."""
    sizes = [int(np.prod(shape)) for shape in shapes]
    begins = first + np.cumsum(sizes) - sizes
    volumes = [
        np.arange(begin, begin + size).reshape(shape)
        for begin, size, shape in zip(begins, sizes, shapes, strict=True)
    ]
    voxels = [
        tuple(np.flatnonzero(v % 2 == is_tissue).astype(np.uint32) for v in volumes)
        for is_tissue in (1, 0)
    ]
    ends = tuple(np.cumsum([v.size for v in of_class]) for of_class in voxels)
    padded = tuple(pad_volume(volume, dtype=np.float16) for volume in volumes)
    return VolumePatches(padded, tuple(shapes), tuple(voxels), ends)


def make_samples(augmentations=()):
    """Two tasks with a source each: the breast's is symmetric, the heart's arteries are not."""
    stores = [[numbered_volumes(SHAPES[0], 1)], [numbered_volumes(SHAPES[1], 100)]]
    return BalancedSamples(parse_tasks("breast,cta"), stores, 5, augmentations)


@pytest.mark.parametrize("augmentations", [(), ("flip", "intensity"), ("flip",), ("intensity",)])
@pytest.mark.parametrize("index_dtype", ["int64", "int32"])
def test_patches_are_those_of_the_host_bit_for_bit(augmentations, index_dtype):
    samples = make_samples(augmentations)
    placed = PlacedSamples(samples)
    buffer = placed.make_buffer()
    assert buffer.size == count_voxels(samples)
    for n in range(3):
        patches, score_index = samples.read_minibatch(n, 40)
        places, same_score_index = placed.read_minibatch(n, 40)
        steps = places.steps.astype(index_dtype)
        cut = np.asarray(cut_from_buffer(buffer, Places(steps, places.factors)))
        assert cut.dtype == np.float16
        np.testing.assert_array_equal(cut.view(np.uint16), patches.view(np.uint16))
        np.testing.assert_array_equal(same_score_index, score_index)
    assert len(np.unique(patches[:, 0, 25, 25])) > 20  # many voxels, also next to borders


def test_every_voxel_of_every_volume_has_its_place():
    samples = make_samples()
    placed = PlacedSamples(samples)
    buffer, seen = placed.make_buffer(), set()
    for n in range(40):
        places, _ = placed.read_minibatch(n, 40)
        seen |= set(buffer[places.steps[:, 0]].astype(int).tolist())
    breast, cta = range(1, 1 + 30 + 28), range(100, 100 + 360)
    assert seen & set(breast) == set(breast)
    assert seen <= {*breast, *cta}
    assert len(seen) > len(breast) + 300


def test_a_share_is_those_rows_of_the_mini_batch():
    placed = PlacedSamples(make_samples(("flip", "intensity")))
    places, score_index = placed.read_minibatch(5, 12)
    some, some_score_index = placed.read_minibatch(5, 12, slice(3, 7))
    np.testing.assert_array_equal(some.steps, places.steps[3:7])
    np.testing.assert_array_equal(some.factors, places.factors[3:7])
    np.testing.assert_array_equal(some_score_index, score_index[3:7])
    assert len(np.unique(np.sign(places.steps[:, 1]))) == 2  # some are mirrored


def test_read_ahead_and_the_dataset_give_the_same_places():
    placed, calls = PlacedSamples(make_samples()), [(0, 2), (2, 3)]
    expected = [[placed.read_minibatch(n, 6) for n in range(*call)] for call in calls]
    ours = read_ahead(placed, 6, calls, lambda *call: call)
    theirs = make_dataset(placed, 6, calls).as_numpy_iterator()
    for of_call, *read in zip(expected, ours, theirs, strict=True):
        for places, score_index in read:
            np.testing.assert_array_equal(places.steps, [p.steps for p, _ in of_call])
            np.testing.assert_array_equal(places.factors, [p.factors for p, _ in of_call])
            np.testing.assert_array_equal(score_index, [s for _, s in of_call])


def test_patches_of_records_have_no_place():
    stores = [[NumberedStore(0, [9, 9])]]
    with pytest.raises(ValueError, match="cut before"):
        PlacedSamples(BalancedSamples(parse_tasks("breast"), stores, 0))
