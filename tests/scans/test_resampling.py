"""Resampling: by hand on small volumes, and in every orientation."""

import numpy as np
import pytest

from mtseg.errors import InputError
from mtseg.scans.resampling import CUBIC, LINEAR, NEAREST, LinearAxis, interpolate, resample
from mtseg.scans.volume import Volume, to_ras
from tests.scans.grids import ORIENTATIONS, oblique_affine, on_grid, ranged


def test_half_the_voxel_size_by_hand():
    """Two voxels 2 mm wide become four of 1 mm around the same centre."""
    volume = Volume(np.array([0.0, 4.0]).reshape(2, 1, 1), np.diag([2.0, 1.0, 1.0, 1.0]))
    linear = resample(volume, 1.0, LINEAR)
    np.testing.assert_allclose(linear.array.ravel(), [0, 1, 3, 4])
    nearest = resample(volume, 1.0, NEAREST)
    np.testing.assert_allclose(nearest.array.ravel(), [0, 0, 4, 4])
    np.testing.assert_allclose(linear.affine[:3, 3], [-0.5, 0, 0])
    np.testing.assert_allclose(linear.spacing_mm, 1)


def test_the_same_voxel_size_returns_the_volume_itself():
    volume = Volume(ranged(), np.diag([0.7, 0.7, 0.7, 1]))
    assert resample(volume, 0.7, CUBIC) is volume


def test_the_fields_of_view_have_the_same_centre():
    volume = Volume(np.zeros((7, 10, 5), np.float32), oblique_affine((1.0, 1.2, 2.0)))
    resampled = resample(volume, 0.9, LINEAR)
    assert resampled.array.shape == (8, 13, 11)

    def centre_mm(v):
        return v.affine[:3] @ [*((np.array(v.array.shape) - 1) / 2), 1]

    np.testing.assert_allclose(centre_mm(resampled), centre_mm(volume), atol=1e-12)


@pytest.mark.parametrize("order", [CUBIC, LINEAR, NEAREST])
@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_all_48_orientations_are_resampled_to_the_same_volume(codes, order):
    in_ras = on_grid(ranged((4, 5, 7)), "RAS", (1.0, 1.5, 2.0))  # no ties
    turned = to_orientation(in_ras, codes)
    found, expected = to_ras(resample(turned, 0.7, order)), resample(in_ras, 0.7, order)
    np.testing.assert_allclose(found.array, expected.array, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-9)


def to_orientation(volume, codes):
    """The same volume with other axes."""
    axes = ["RL", "AP", "SI"]
    order = [next(a for a in range(3) if code in axes[a]) for code in codes]
    flips = tuple(slice(None, None, 1 if code in "RAS" else -1) for code in codes)
    affine = volume.affine[:, [*order, 3]].copy()
    for axis, code in enumerate(codes):
        if code not in "RAS":
            affine[:3, 3] += (volume.array.shape[order[axis]] - 1) * affine[:3, axis]
            affine[:3, axis] *= -1
    return Volume(volume.array.transpose(order)[flips], affine)


def test_a_ramp_survives_cubic_resampling():
    """Away from the border, where values are repeated, a cubic spline is exact for a line."""
    volume = Volume(np.tile(np.arange(40.0), (3, 3, 1)), np.eye(4))
    resampled = resample(volume, 0.8, CUBIC)
    k = np.arange(resampled.array.shape[2]) * 0.8 + resampled.affine[2, 3]
    np.testing.assert_allclose(resampled.array[1, 1, 15:-15], k[15:-15], atol=1e-3)


@pytest.mark.parametrize("factor", [1.5, 2.0, 2.7, 3.0])
def test_larger_voxels_have_the_noise_of_the_mean_of_what_they_cover(factor):
    noise = np.random.default_rng(0).normal(100, 8, (48, 48, 48)).astype(np.float32)
    coarse = resample(Volume(noise, np.eye(4)), factor, CUBIC).array
    assert coarse.mean() == pytest.approx(100, abs=0.3)
    # The mean over a voxel has 1 / sqrt(factor ** 3) of it, and the spline between two means less.
    assert coarse.std() < 8 / factor**1.2


def test_larger_voxels_are_means_by_hand():
    """Of 0.5 mm voxels, one of 1 mm covers two, or one and a half of each neighbour."""
    volume = Volume(np.zeros((12, 1, 1)), np.diag([0.5, 1.0, 1.0, 1.0]))
    volume.array[6:] = 8.0  # an edge between two voxels of 1 mm
    coarse = resample(volume, 1.0, CUBIC).array.ravel()
    np.testing.assert_allclose(coarse, [0, 0, 0, 8, 8, 8], atol=1.1)
    # A stripe of one fine voxel is half as bright in the larger voxel, wherever it lies in it.
    stripes = []
    for place in (4, 5):
        volume = Volume(np.zeros((12, 1, 1)), np.diag([0.5, 1.0, 1.0, 1.0]))
        volume.array[place] = 8.0
        stripes.append(resample(volume, 1.0, CUBIC).array.ravel()[2])
    assert stripes[0] == pytest.approx(stripes[1], abs=1e-6)
    assert stripes[0] == pytest.approx(4, abs=1)


def test_nearest_neighbours_invent_no_label():
    labels = np.random.default_rng(0).choice(np.array([0, 3, 200], np.uint8), (9, 8, 7))
    volume = Volume(labels, np.diag([1.0, 1.3, 2.1, 1.0]))
    resampled = resample(volume, 0.6, NEAREST).array
    assert resampled.dtype == np.uint8
    assert set(np.unique(resampled)) == {0, 3, 200}


def test_voxels_that_are_those_of_the_source_are_not_copied():
    source = np.arange(12, dtype=np.float32).reshape(4, 3)
    part = LinearAxis.between(4, 4, 1.0).apply(source, 0, 0, slice(1, 3))
    np.testing.assert_array_equal(part, source[1:3])
    assert np.shares_memory(part, source)


@pytest.mark.parametrize(("source_size", "size", "step"), [(5, 9, 0.5), (9, 4, 2.3), (1, 3, 0.4)])
def test_linear_interpolation_in_blocks_equals_that_of_the_whole(source_size, size, step):
    source = np.random.default_rng(0).random((source_size, 2)).astype(np.float32)
    axis = LinearAxis.between(source_size, size, step)
    whole = axis.apply(source, 0, 0, slice(0, size))
    steps = np.array([step, 1.0])
    np.testing.assert_allclose(whole, interpolate(source, (size, 2), steps, LINEAR), rtol=1e-5)
    parts = []
    for start in range(0, source_size, 2):
        targets = axis.targets(slice(start, start + 2))
        parts.append(axis.apply(source[start : start + 3], 0, start, targets))
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert not axis.is_identity
    assert LinearAxis.between(4, 4, 1.0).is_identity


@pytest.mark.parametrize("spacing_mm", [0.0, -1.0, np.nan, np.inf, 1e-320, 1e-4])
def test_impossible_voxel_sizes_are_refused(spacing_mm):
    with pytest.raises(InputError, match="voxel size"):
        resample(Volume(ranged(), np.eye(4)), spacing_mm, CUBIC)
