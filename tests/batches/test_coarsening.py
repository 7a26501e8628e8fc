"""Larger voxels on rows of pixels that a person can check."""

import numpy as np
import pytest

from mtseg.batches.coarsening import coarsen, coarsen_noise
from mtseg.scans.patches import PLANE_AXES


def steps_along(axis):
    """Patches whose intensity grows with the place along an axis, from 1 to 51; else 0.5."""
    patches = np.full((1, 3, 51, 51), 0.5, np.float32)
    for plane, (rows, columns) in enumerate(PLANE_AXES):
        along = np.arange(1, 52, dtype=np.float32)
        if rows == axis:
            patches[0, plane] = along[:, None]
        elif columns == axis:
            patches[0, plane] = along
    return patches


def each(*values):
    return np.array([values], np.float32)


def test_voxels_of_the_same_size_change_nothing():
    patches = np.random.default_rng(0).random((2, 3, 51, 51), np.float32) + 0.1
    same = coarsen(patches, np.ones((2, 3), np.float32), np.full((2, 3), 0.3, np.float32))
    np.testing.assert_allclose(same, patches, rtol=1e-6)


def test_equal_intensities_stay():
    patches = np.full((1, 3, 51, 51), 0.7, np.float32)
    coarse = coarsen(patches, each(2.6, 1, 1.3), each(0.2, 0.5, 0.9))
    np.testing.assert_allclose(coarse, patches, rtol=1e-5)


@pytest.mark.parametrize("axis", range(3))
def test_a_slope_stays_a_slope_and_an_edge_becomes_one(axis):
    factors = np.where(np.arange(3) == axis, 2, 1)[None].astype(np.float32)
    slope = steps_along(axis)
    coarse = coarsen(slope, factors, each(0, 0, 0))
    np.testing.assert_allclose(coarse[..., 3:-3, 3:-3], slope[..., 3:-3, 3:-3], rtol=1e-5)
    edge = np.where(slope > 20, 9, slope / slope).astype(np.float32)
    edge[slope == 0.5] = 0.5
    coarse = coarsen(edge, factors, each(0, 0, 0))
    (first, *_) = [p for p, axes in enumerate(PLANE_AXES) if axis in axes]
    row = coarse[0, first, :, 25] if PLANE_AXES[first][0] == axis else coarse[0, first, 25]
    # The voxel at 20 covers pixels 19 (half), 20 and 21 (half); 20 and above are bright.
    assert row[18:24].round(3).tolist() == [1, 4, 7, 8, 9, 9]


def test_foreground_ends_where_the_coarse_grid_is_closer_to_the_background():
    patches = np.full((1, 3, 51, 51), 0.6, np.float32)
    patches[:, 0, :20] = 0
    coarse = coarsen(patches, each(3, 1, 1), each(0, 0, 0))
    column = coarse[0, 0, :, 25]
    assert (column == 0).any()
    border = int(np.flatnonzero(column)[0])
    assert 18 <= border <= 21
    assert (column[border:] > 0).all()


def test_noise_stays_as_strong_where_a_coarse_voxel_has_its_centre():
    noise = np.random.default_rng(0).standard_normal((1, 3, 51, 51)).astype(np.float32)
    coarse = coarsen_noise(noise, each(3, 3, 3), each(0, 0, 0))
    np.testing.assert_allclose(coarse[..., ::3, ::3], noise[..., ::3, ::3], rtol=1e-5)
    between = (2 * coarse[..., :48:3, ::3] + coarse[..., 3::3, ::3]) / 3
    np.testing.assert_allclose(coarse[..., 1:48:3, ::3], between, atol=1e-5)
