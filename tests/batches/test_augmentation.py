"""What each augmentation does to a patch, and to which."""

import doctest

import numpy as np
import pytest

from mtseg.batches import augmentation, balance
from mtseg.batches.augmentation import augment


def patches(count):
    values = np.arange(count * 3 * 51 * 51) % 97 + 1
    return values.reshape(count, 3, 51, 51).astype(np.float16)


def augmented(count, is_symmetric, names, rows=slice(None), seed=0):
    changed = patches(count)[rows]
    augment(changed, np.asarray(is_symmetric), rows, names, np.random.default_rng(seed))
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


def test_background_stays_0():
    changed = np.zeros((4, 3, 51, 51), np.float16)
    augment(changed, np.ones(4, bool), slice(None), ("flip", "intensity"), np.random.default_rng(0))
    assert not changed.any()


def test_a_share_of_a_minibatch_is_changed_as_in_the_whole():
    names = ("flip", "intensity")
    whole = augmented(10, [True] * 10, names)
    np.testing.assert_array_equal(augmented(10, [True] * 10, names, slice(4, 7)), whole[4:7])


@pytest.mark.parametrize("module", [augmentation, balance])
def test_examples_in_docstrings_run(module):
    result = doctest.testmod(module)
    assert (result.failed, result.attempted > 0) == (0, True)
