"""What each augmentation does to a patch, and to which."""

import doctest

import numpy as np
import pytest

from mtseg.batches import augmentation, balance
from mtseg.batches.augmentation import augment, draw_transforms
from mtseg.runs.config import AUGMENTATIONS
from mtseg.scans.preprocessing import LARGEST_INTENSITY


def patches(count):
    values = (np.arange(count * 3 * 51 * 51) % 97 + 1) / 97
    return values.reshape(count, 3, 51, 51).astype(np.float16)


def augmented(count, is_symmetric, names, rows=slice(None), key=(0, 0), is_mr=True):
    changed = patches(count)[rows]
    augment(changed, np.asarray(is_symmetric), np.full(count, is_mr), rows, names, key)
    return changed


def test_flip_exchanges_left_and_right_of_half_the_samples_that_may_be():
    original, changed = patches(40), augmented(40, [True] * 40, ("flip",))
    is_flipped = (changed != original).any(axis=(1, 2, 3))
    assert 10 < is_flipped.sum() < 30
    for before, after in zip(original[is_flipped], changed[is_flipped], strict=True):
        np.testing.assert_array_equal(after[0], before[0, ::-1])  # axial: rows are left to right
        np.testing.assert_array_equal(after[1], before[1, ::-1])  # coronal: so are its
        np.testing.assert_array_equal(after[2], before[2])  # sagittal: has no left and right


def test_an_anatomy_that_is_not_symmetric_is_never_flipped():
    np.testing.assert_array_equal(augmented(20, [False] * 20, ("flip",)), patches(20))


def test_intensity_multiplies_a_sample_by_one_factor_near_1():
    ratio = augmented(30, [True] * 30, ("intensity",)).astype(float) / patches(30)
    factor = ratio.mean(axis=(1, 2, 3))
    assert factor.min() == pytest.approx(1 / 1.1, abs=0.02)
    assert factor.max() == pytest.approx(1.1, abs=0.02)
    np.testing.assert_allclose(
        ratio, np.broadcast_to(factor[:, None, None, None], ratio.shape), rtol=2e-3
    )


def changed_samples(changed):
    """Which samples of `patches` are not what they were."""
    return (changed != patches(len(changed))).any(axis=(1, 2, 3))


def test_the_brightest_voxel_that_a_record_may_have_stays_finite():
    original = np.full((40, 3, 51, 51), LARGEST_INTENSITY, np.float16)
    yes = np.ones(40, bool)
    for minibatch in range(5):
        changed = original.copy()
        augment(changed, yes, yes, slice(None), ("bias", "gamma", "intensity"), (0, minibatch))
        assert np.isfinite(changed).all()


def test_gamma_changes_the_contrast_of_half_the_samples():
    changed = augmented(60, [True] * 60, ("gamma",))
    is_changed = changed_samples(changed)
    assert 20 < is_changed.sum() < 40
    before = patches(60)[is_changed].astype(float)
    for sample, original in zip(changed[is_changed].astype(float), before, strict=True):
        power = np.log(sample.min()) / np.log(1 / 97)
        np.testing.assert_allclose(sample, original**power, rtol=5e-3)
        assert sample.max() == 1
        assert 0.7 < power < 1.4


def test_bias_is_a_slow_change_along_each_axis_of_mr_alone():
    assert not changed_samples(augmented(20, [True] * 20, ("bias",), is_mr=False)).any()
    changed = augmented(60, [True] * 60, ("bias",))
    is_changed = changed_samples(changed)
    assert 20 < is_changed.sum() < 40
    axial, coronal, sagittal = (changed / patches(60))[is_changed][0].astype(float)
    # Axial has rows i and columns j, coronal i and k, sagittal j and k.
    along_i, along_j, along_k = axial[:, 25], axial[25], coronal[25]
    np.testing.assert_allclose(coronal[:, 25], along_i, rtol=0.01)
    np.testing.assert_allclose(sagittal, np.outer(along_j, along_k), rtol=0.01)
    for along in (along_i, along_j, along_k):
        assert along[25] == pytest.approx(1, abs=0.01)
        assert np.ptp(np.diff(np.log(along))) < 0.01
        assert np.abs(np.log(along)).max() < 0.21


def test_noise_is_added_to_the_foreground_of_half_the_samples():
    before = np.full((60, 3, 51, 51), 0.5, np.float16)
    before[:, :, :20] = 0
    changed, yes = before.copy(), np.ones(60, bool)
    augment(changed, yes, yes, slice(None), ("noise",), (0, 0))
    added = (changed - before).astype(float)
    deviations = added[:, :, 20:].std(axis=(1, 2, 3))
    assert 20 < (deviations > 0).sum() < 40
    assert 0.05 < deviations.max() < 0.1
    assert not changed[:, :, :20].any()
    assert (changed[:, :, 20:] > 0).all()
    assert abs(added[deviations > 0][:, :, 20:].mean()) < 1e-3


def test_resolution_blurs_half_the_samples_along_all_axes_or_one():
    rng = np.random.default_rng(0)
    before = rng.uniform(0.2, 1, (80, 3, 51, 51)).astype(np.float16)
    changed, yes = before.copy(), np.ones(80, bool)
    augment(changed, yes, yes, slice(None), ("resolution",), (0, 0))
    rough = np.abs(np.diff(changed.astype(float), axis=2)).mean(axis=(2, 3))  # along the rows
    rough /= np.abs(np.diff(before.astype(float), axis=2)).mean(axis=(2, 3))
    is_changed = (changed != before).any(axis=(1, 2, 3))
    assert 25 < is_changed.sum() < 55
    assert (rough <= 1.01).all()
    is_all = (changed != before).any(axis=(2, 3)).all(axis=1) & (rough < 0.99).all(axis=1)
    assert 8 < is_all.sum() < is_changed.sum() - 8  # others change along one axis


def test_turned_and_scaled_grids_of_half_the_samples():
    assert draw_transforms(slice(None), 9, ("flip",), (0, 0)) is None
    turns = draw_transforms(slice(None), 200, ("rotation",), (0, 0))
    np.testing.assert_allclose(
        turns @ turns.transpose(0, 2, 1), np.tile(np.eye(3), (200, 1, 1)), atol=1e-12
    )
    angles = np.rad2deg(np.arccos(np.clip((np.trace(turns, axis1=1, axis2=2) - 1) / 2, -1, 1)))
    assert 70 < (angles == 0).sum() < 130
    assert 8 < angles.max() < 8 * np.sqrt(3)
    scales = draw_transforms(slice(None), 200, ("scaling",), (0, 0))[:, 0, 0]
    assert 70 < (scales == 1).sum() < 130
    assert (scales.min(), scales.max()) == pytest.approx((1 / 1.25, 1.25), abs=0.02)
    both = draw_transforms(slice(None), 200, ("rotation", "scaling"), (0, 0))
    np.testing.assert_allclose(both, turns * scales[:, None, None])


@pytest.mark.parametrize("name", sorted(set(AUGMENTATIONS) - {"resolution"}))
def test_background_stays_0(name):
    changed = np.zeros((4, 3, 51, 51), np.float16)
    augment(changed, np.ones(4, bool), np.ones(4, bool), slice(None), (name,), (0, 0))
    assert not changed.any()


def test_a_share_of_a_minibatch_is_changed_as_in_the_whole():
    whole = augmented(10, [True] * 10, AUGMENTATIONS)
    share = augmented(10, [True] * 10, AUGMENTATIONS, slice(4, 7))
    np.testing.assert_array_equal(share, whole[4:7])
    whole = draw_transforms(slice(None), 10, AUGMENTATIONS, (0, 0))
    share = draw_transforms(slice(4, 7), 10, AUGMENTATIONS, (0, 0))
    np.testing.assert_array_equal(share, whole[4:7])


@pytest.mark.parametrize("name", sorted(set(AUGMENTATIONS) - {"rotation", "scaling"}))
def test_another_minibatch_or_seed_is_changed_otherwise(name):
    given = augmented(20, [True] * 20, (name,))
    assert (augmented(20, [True] * 20, (name,), key=(0, 1)) != given).any()
    assert (augmented(20, [True] * 20, (name,), key=(1, 0)) != given).any()
    np.testing.assert_array_equal(augmented(20, [True] * 20, (name,)), given)


@pytest.mark.parametrize("module", [augmentation, balance])
def test_examples_in_docstrings_run(module):
    result = doctest.testmod(module)
    assert (result.failed, result.attempted > 0) == (0, True)
