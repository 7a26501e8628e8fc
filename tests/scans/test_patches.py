"""Patches small enough to check by eye, and voxels drawn with the same number of each class."""

import numpy as np
import pytest

from mtseg.scans.patches import choose_voxels, cut_patches, cut_turned_patches, pad_volume
from tests.scans.grids import ranged


def test_planes_are_axial_coronal_sagittal_with_first_axis_as_rows():
    volume = ranged((4, 5, 6))
    patches = cut_patches(pad_volume(volume, 3), np.array([[1, 2, 3]]), 3)
    np.testing.assert_array_equal(patches[0, 0], volume[0:3, 1:4, 3])
    np.testing.assert_array_equal(patches[0, 1], volume[0:3, 2, 2:5])
    np.testing.assert_array_equal(patches[0, 2], volume[1, 1:4, 2:5])


def test_patch_at_a_corner_reaches_beyond_the_border_as_zeros():
    volume = ranged((2, 2, 2))
    patches = cut_patches(pad_volume(volume, 3), np.array([[0, 0, 0]]), 3)
    np.testing.assert_array_equal(patches[0, 0], [[0, 0, 0], [0, 1, 3], [0, 5, 7]])


def test_default_patch_is_51_voxels_with_its_voxel_in_the_centre():
    volume = ranged((4, 5, 6))
    patches = cut_patches(pad_volume(volume), np.array([[3, 0, 5], [0, 4, 1]]))
    assert patches.shape == (2, 3, 51, 51)
    np.testing.assert_array_equal(
        patches[:, :, 25, 25], [[volume[3, 0, 5]] * 3, [volume[0, 4, 1]] * 3]
    )


def test_even_patch_size_is_refused():
    with pytest.raises(ValueError, match="odd"):
        cut_patches(np.zeros((8, 8, 8)), np.array([[0, 0, 0]]), 4)


def turned(volume, voxel, transform):
    (patches,) = cut_turned_patches(
        pad_volume(volume, 3), np.array([voxel]), np.array([transform], float), 3
    )
    return patches


def test_a_quarter_turn_about_k_is_that_of_the_volume():
    """A step to the right in the patch is one to the front in the volume."""
    volume = ranged((5, 5, 5))
    quarter = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    (expected,) = cut_patches(pad_volume(np.rot90(volume, -1, (0, 1)), 3), np.array([[2, 2, 3]]), 3)
    np.testing.assert_array_equal(turned(volume, (2, 2, 3), quarter), expected)


def test_half_the_scale_is_interpolated_between_neighbours():
    volume = np.zeros((3, 3, 5))
    volume[1, 1] = [0, 10, 20, 40, 0]
    axial, coronal, sagittal = turned(volume, (1, 1, 2), np.eye(3) / 2)
    assert coronal[1].tolist() == sagittal[1].tolist() == [15, 20, 30]
    assert axial.tolist() == [[5, 10, 5], [10, 20, 10], [5, 10, 5]]


def test_beyond_the_padded_volume_a_turned_patch_is_0():
    patches = turned(np.ones((1, 1, 1)), (0, 0, 0), 3 * np.eye(3))
    assert patches[:, 1, 1].tolist() == [1, 1, 1]
    assert patches.sum() == 3


def draw(classes, foreground, per_class, num_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    return choose_voxels(classes, foreground, per_class=per_class, num_classes=num_classes, rng=rng)


def test_each_class_gives_its_share_and_only_from_the_foreground():
    classes = np.zeros((4, 5, 6), int)
    classes[0] = 1
    classes[1, 0, :3] = 2
    foreground = np.ones((4, 5, 6), bool)
    foreground[0, :4] = False
    index_ijk, class_index = draw(classes, foreground, per_class=5)
    # Class 1 has 6 foreground voxels, so 5 are drawn; class 2 has only 3.
    assert np.bincount(class_index).tolist() == [5, 5, 3]
    assert foreground[tuple(index_ijk.T)].all()
    np.testing.assert_array_equal(classes[tuple(index_ijk.T)], class_index)
    assert len({tuple(row) for row in index_ijk}) == len(index_ijk)


def test_a_class_that_the_subject_does_not_have_is_absent():
    _, class_index = draw(np.zeros((2, 3, 4), int), np.ones((2, 3, 4), bool), per_class=4)
    assert class_index.tolist() == [0, 0, 0, 0]


def test_an_empty_foreground_gives_no_voxel():
    index_ijk, class_index = draw(np.zeros((2, 3, 4), int), np.zeros((2, 3, 4), bool), per_class=4)
    assert index_ijk.shape == (0, 3)
    assert class_index.shape == (0,)


def test_the_same_seed_draws_the_same_voxels():
    classes = np.random.default_rng(1).integers(0, 3, (6, 7, 8))
    draws = [draw(classes, classes >= 0, per_class=9, seed=seed)[0] for seed in (5, 5, 6)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()
