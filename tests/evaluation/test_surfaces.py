"""Surface distances: by hand, and against another library."""

import numpy as np
import pytest
from medpy.metric.binary import hd95

from mtseg.evaluation.surfaces import surface_figures


def box(start, stop, shape=(12, 12, 12)):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return mask


def test_the_same_mask_has_distance_0_and_agrees_everywhere():
    mask = box((3, 3, 3), (8, 9, 7))
    assert surface_figures(mask, mask, (1, 1, 1)) == (0, 1)


def test_single_voxels_two_voxels_apart_are_two_voxel_sizes_apart():
    first, second = box((3, 3, 3), (4, 4, 4)), box((5, 3, 3), (6, 4, 4))
    hd95_mm, surface_dice = surface_figures(first, second, (1.5, 1, 1))
    assert hd95_mm == pytest.approx(3.0)
    assert surface_dice == 0


def test_a_shift_within_the_tolerance_agrees_everywhere():
    first, second = box((3, 3, 3), (8, 8, 8)), box((4, 3, 3), (9, 8, 8))
    hd95_mm, surface_dice = surface_figures(first, second, (1, 1, 1))
    assert hd95_mm == pytest.approx(1.0)
    assert surface_dice == 1
    hd95_mm, surface_dice = surface_figures(first, second, (1.1, 1, 1))
    assert hd95_mm == pytest.approx(1.1)
    assert 0 < surface_dice < 1


def test_a_mask_at_the_border_has_a_surface_there():
    mask = box((0, 0, 0), (12, 12, 6))
    assert surface_figures(mask, mask, (1, 1, 1)) == (0, 1)


def test_an_empty_prediction_has_no_distance_and_no_agreement():
    assert surface_figures(box((3, 3, 3), (5, 5, 5)), np.zeros((12,) * 3, bool), (1, 1, 1)) == (
        None,
        0.0,
    )


@pytest.mark.parametrize("predicted", [np.zeros((4, 4, 4), bool), np.ones((4, 4, 4), bool)])
def test_an_empty_reference_is_undefined(predicted):
    assert surface_figures(np.zeros((4, 4, 4), bool), predicted, (1, 1, 1)) == (None, None)


@pytest.mark.parametrize("seed", range(4))
def test_distances_are_medpys_to_within_a_voxel(seed):
    """MedPy counts surface voxels, not areas of surface, so the percentile may move a little."""
    rng = np.random.default_rng(seed)
    i, j, k = np.indices((24, 24, 24))
    reference = (i - 12) ** 2 + (j - 11) ** 2 + (k - 12) ** 2 < 64
    shift, radius = rng.uniform(-3, 3, 3), rng.uniform(6, 10)
    a, b, c = (axis - 12 - s for axis, s in zip((i, j, k), shift, strict=True))
    predicted = a**2 + b**2 + c**2 < radius**2
    spacing_mm = tuple(rng.uniform(0.5, 2, 3))
    hd95_mm, _ = surface_figures(reference, predicted, spacing_mm)
    assert hd95_mm == pytest.approx(hd95(predicted, reference, spacing_mm), abs=max(spacing_mm))


def test_a_stray_voxel_hardly_counts():
    """Six faces of more than a thousand lie far away: they are among the farthest 5 %."""
    reference = box((2, 2, 2), (16, 16, 16), (40, 20, 20))
    predicted = reference.copy()
    predicted[36, 8, 8] = True
    hd95_mm, surface_dice = surface_figures(reference, predicted, (1, 1, 1))
    assert hd95_mm == 0
    assert 0.98 < surface_dice < 1
