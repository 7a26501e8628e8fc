"""The geometry of phantoms, at points whose distances are known by hand."""

import numpy as np
import pytest

from mtseg.phantoms.shapes import (
    FAR_MM,
    above,
    at_least_voxels,
    bone_layers,
    cylinder,
    deeper_than,
    ellipsoid,
    expand,
    intersect,
    mirror,
    random_field,
    random_sheets,
    smooth_curve,
    subtract,
    tapering_tube,
    tube,
    union,
)

BALL = ellipsoid((0, 0, 0), (10, 10, 10))
NEXT_BALL = ellipsoid((15, 0, 0), (10, 10, 10))


def distances(shape, *points):
    """Distances in mm at points (x, y, z)."""
    field = getattr(shape, "distance", shape)
    return field(*np.array(points, np.float32).T)


def test_distance_to_a_ball_is_its_radius_less():
    found = distances(BALL, (10, 0, 0), (0, 13, 0), (0, 0, -4), (6, 8, 0))
    np.testing.assert_allclose(found, [0, 3, -6, 0], atol=1e-5)


def test_an_ellipsoid_ends_at_its_radii_along_the_axes_of_its_frame():
    # The long axis lies along y, the second along z, the third along x.
    frame = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0.0]])
    shape = ellipsoid((1, 2, 3), (30, 20, 10), frame)
    found = distances(shape, (11, 2, 3), (1, 32, 3), (1, 2, 23))
    np.testing.assert_allclose(found, 0, atol=1e-4)
    np.testing.assert_allclose(shape.low_mm, (-9, -28, -17))
    np.testing.assert_allclose(shape.high_mm, (11, 32, 23))


def test_a_cylinder_is_the_same_at_every_height():
    rod = cylinder(5, 0, 2, 2)
    found = distances(rod, (8, 0, 0), (8, 0, 900), (6, 0, -900))
    np.testing.assert_allclose(found, [1, 1, -1], atol=1e-3)
    assert rod.high_mm[2] == FAR_MM


def test_a_tube_tapers_and_has_round_ends():
    shape = tube(np.array([(0, 0, 0), (0, 0, 10)]), np.array([4, 2]))
    found = distances(shape, (5, 0, 0), (5, 0, 5), (5, 0, 10), (0, 0, 15))
    np.testing.assert_allclose(found, [1, 2, 3, 3], atol=1e-5)


def test_a_tube_is_far_from_a_block_that_it_does_not_reach():
    shape = tapering_tube(np.array([(0, 0, 0, 1), (0, 0, 10, 1)]))
    assert distances(shape, (100, 0, 0), (101, 0, 0)).tolist() == [FAR_MM, FAR_MM]


def test_a_smooth_curve_passes_through_its_knots():
    knots = [(0, 0, 0, 3), (1, 5, 2, 2), (4, 6, 9, 1)]
    curve = smooth_curve(knots, points_per_knot=4)
    assert curve.shape == (9, 4)
    np.testing.assert_allclose(curve[::4], knots, atol=1e-12)


def test_expand_moves_the_surface_and_the_box():
    grown = expand(BALL, 2)
    np.testing.assert_allclose(distances(grown, (12, 0, 0), (0, 0, 9)), [0, -3], atol=1e-5)
    assert grown.high_mm.tolist() == [12, 12, 12]
    assert expand(BALL, -2).low_mm.tolist() == [-8, -8, -8]


def test_union_intersection_and_difference_of_two_balls():
    # In the first alone, in both, in the second alone, in neither.
    points = (-5, 0, 0), (7, 0, 0), (20, 0, 0), (30, 0, 0)
    both = BALL, NEXT_BALL
    assert (distances(union(*both), *points) < 0).tolist() == [True, True, True, False]
    assert (distances(intersect(*both), *points) < 0).tolist() == [False, True, False, False]
    assert (distances(subtract(*both), *points) < 0).tolist() == [True, False, False, False]
    assert union(*both).high_mm.tolist() == [25, 10, 10]
    assert intersect(*both).high_mm.tolist() == [10, 10, 10]


def test_subtract_keeps_a_gap():
    # The other ball begins at x = 5, so 3 mm from it is x = 2.
    found = distances(subtract(BALL, NEXT_BALL, gap_mm=3), (1.5, 0, 0), (2.5, 0, 0))
    np.testing.assert_allclose(found, [-0.5, 0.5], atol=1e-5)


def test_blending_fills_the_junction_and_nothing_else():
    junction, far_side = (7.5, 6, 0), (-10, 0, 0)
    sharp, round_ = union(BALL, NEXT_BALL), union(BALL, NEXT_BALL, blend_mm=8)
    assert distances(round_, junction)[0] == pytest.approx(distances(sharp, junction)[0] - 2)
    assert distances(round_, far_side) == distances(sharp, far_side)


def test_mirror_makes_a_pair():
    pair = mirror(NEXT_BALL)
    np.testing.assert_allclose(distances(pair, (25, 0, 0), (-25, 0, 0)), 0, atol=1e-5)
    assert pair.low_mm.tolist() == [-25, -10, -10]


def test_half_spaces_and_depths_are_negative_inside():
    assert distances(above(-3), (0, 0, -5), (0, 0, 1)).tolist() == [2, -4]
    depth = deeper_than(2, lambda x, y, z: x)
    assert distances(depth, (1, 0, 0), (5, 0, 0)).tolist() == [1, -3]


def test_a_bone_is_marrow_in_cortex():
    cortex, marrow = bone_layers(BALL, marrow=300.0, cortex=900.0, cortex_mm=2)
    assert (cortex.intensity, marrow.intensity) == (900.0, 300.0)
    assert (distances(cortex.shape, (9, 0, 0)) < 0).all()
    assert (distances(marrow.shape, (9, 0, 0)) > 0).all()


def test_what_is_thin_is_drawn_thicker_on_a_coarse_grid():
    assert at_least_voxels(3.0, 0.9, voxel_mm=1.0) == 3.0
    assert at_least_voxels(3.0, 0.9, voxel_mm=10.0) == 9.0


def test_a_random_field_is_standardised_and_smooth():
    field = random_field(np.random.default_rng(0), wavelength_mm=8)
    grid = np.meshgrid(*[np.arange(72, dtype=np.float32)] * 3)
    values = field(*grid)  # one point for each lattice point
    assert abs(values.mean()) < 0.01
    assert values.std() == pytest.approx(1, abs=0.01)
    neighbours = np.corrcoef(values[:, :-1].ravel(), values[:, 1:].ravel())[0, 1]
    assert neighbours > 0.5


def test_random_sheets_are_about_as_far_as_they_say():
    sheets = random_sheets(np.random.default_rng(0), wavelength_mm=20)
    x = np.arange(0, 180, 0.5, dtype=np.float32)
    values = sheets(x, np.zeros_like(x), np.zeros_like(x))
    assert np.abs(values).max() <= 20
    # Along a line nothing changes faster than a distance, but for the approximation.
    assert np.percentile(np.abs(np.diff(values)) / 0.5, 95) < 2
    assert (np.sign(values[:-1]) != np.sign(values[1:])).sum() >= 5
