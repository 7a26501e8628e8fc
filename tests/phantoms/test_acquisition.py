"""Painting and scanning of a phantom, on slabs small enough to check by eye."""

import numpy as np
import pytest

from mtseg.phantoms.acquisition import make_ct_acquisition, make_mr_acquisition, paint
from mtseg.phantoms.shapes import Layer, above, ellipsoid, intersect

EVERYWHERE = ellipsoid((300, 300, 300), (1000, 1000, 1000))


def grid_terms(*shape):
    """Coordinates of a grid of 1 mm voxels whose first voxel is at the origin."""
    terms = [[np.zeros(n, np.float32) for n in shape] for _ in range(3)]
    for axis, count in enumerate(shape):
        terms[axis][axis] = np.arange(count, dtype=np.float32)
    return terms


def whole_scan(shape):
    """Places of the voxels along each axis, from -1 to 1."""
    return [np.linspace(-1, 1, n) for n in shape]


def half_space(z_mm):
    return intersect(EVERYWHERE, above(z_mm))


def test_a_voxel_that_a_surface_crosses_is_a_mixture_and_has_the_label_of_the_larger_part():
    layers = [Layer(EVERYWHERE, 100.0), Layer(half_space(1.25), 200.0, label=7)]
    image, labels = paint(layers, grid_terms(1, 1, 4), voxel_mm=1.0, is_ct=False)
    # The voxel at z = 1 reaches to 1.5: a quarter of it is above the surface.
    np.testing.assert_allclose(image[0, 0], [100, 125, 200, 200], atol=0.1)
    assert labels[0, 0].tolist() == [0, 0, 7, 7]


def test_later_layers_cover_earlier_ones_and_take_their_label_away():
    layers = [Layer(EVERYWHERE, 100.0, label=1), Layer(half_space(1.5), 200.0)]
    _, labels = paint(layers, grid_terms(1, 1, 4), voxel_mm=1.0, is_ct=False)
    assert labels[0, 0].tolist() == [1, 1, 0, 0]


def test_intensity_may_vary_in_space():
    layers = [Layer(EVERYWHERE, lambda x, y, z: 10 * z)]
    image, _ = paint(layers, grid_terms(1, 1, 4), voxel_mm=1.0, is_ct=False)
    np.testing.assert_allclose(image[0, 0], [0, 10, 20, 30], atol=1e-3)


@pytest.mark.parametrize(("is_ct", "air"), [(True, -1000), (False, 0)])
def test_where_nothing_is_painted_there_is_air(is_ct, air):
    away = Layer(ellipsoid((50, 50, 50), (2, 2, 2)), 300.0, label=1)
    image, labels = paint([away], grid_terms(3, 4, 5), voxel_mm=1.0, is_ct=is_ct)
    assert image.shape == (3, 4, 5)
    assert (image == air).all()
    assert not labels.any()


def test_ct_has_its_noise_inside_of_a_cylinder_and_air_outside():
    painted = np.full((40, 40, 6), 50, np.float32)
    labels = np.ones(painted.shape, np.uint8)
    acquire = make_ct_acquisition(whole_scan(painted.shape))
    scan, labels = acquire(painted, labels, slice(0, 6), np.random.default_rng(0))
    inside = scan[10:30, 10:30]
    assert inside.mean() == pytest.approx(50, abs=2)
    assert inside.std() == pytest.approx(20, abs=1)
    assert (scan[[0, 0, -1, -1], [0, -1, 0, -1]] == -1024).all()
    assert not labels[0, 0].any()
    assert labels[20, 20].all()


def test_mr_has_dark_air_and_a_bias_field_that_changes_slowly():
    shape = (24, 24, 24)
    rng = np.random.default_rng(0)
    acquire = make_mr_acquisition(whole_scan(shape), rng)
    painted = np.zeros(shape, np.float32)
    painted[12:] = 900
    scan, _ = acquire(painted, np.zeros(shape, np.uint8), slice(0, 24), rng)
    assert (scan[:12] == 0).mean() > 0.85
    assert (scan >= 0).all()
    # The field brightens and darkens by at most 30 %; noise is averaged over 4 x 4 x 4 voxels.
    blocks = scan[12:].reshape(3, 4, 6, 4, 6, 4).mean((1, 3, 5))
    assert blocks.min() > 900 * 0.65
    assert blocks.max() < 900 * 1.35
    assert blocks.std() > 20
