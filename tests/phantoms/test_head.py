"""Heads painted around brains: the brain stays, and around it is what a scan of a head shows."""

import numpy as np
import pytest

from mtseg.errors import InputError
from mtseg.phantoms.head import paint_head

SPACING_MM = 2.5


@pytest.fixture(scope="module")
def brain():
    """An ellipsoid of the size of a brain, white inside and grey outside, and its labels."""
    places = [(np.arange(n) - (n - 1) / 2) * SPACING_MM for n in (59, 73, 57)]
    x, y, z = (
        p / r for p, r in zip(np.meshgrid(*places, indexing="ij"), (66, 86, 60), strict=True)
    )
    radius = np.sqrt(x * x + y * y + z * z)
    labels = (radius < 1).astype(np.uint8) + (radius < 0.7)
    image = np.array([0, 600, 900], np.float32)[labels]
    affine = np.diag([SPACING_MM] * 3 + [1])
    affine[:3, 3] = -70, -90, -50
    return image, labels, affine


@pytest.fixture(scope="module")
def head(brain):
    return paint_head(*brain, seed=0)


def places_mm(affine, chosen):
    return affine[:3, :3] @ np.argwhere(chosen).T + affine[:3, 3:]


def test_the_brain_stays_where_and_as_it_is(brain, head):
    (image, labels, affine), (painted, painted_labels, larger) = brain, head
    for value in (1, 2):
        here, there = labels == value, painted_labels == value
        np.testing.assert_allclose(places_mm(affine, here), places_mm(larger, there))
        np.testing.assert_array_equal(image[here], painted[there])
    assert np.count_nonzero(painted_labels) == np.count_nonzero(labels)


def test_outwards_come_dark_bone_bright_fat_and_air(head):
    painted, labels, _ = head
    i, j, _ = (int(c) for c in np.argwhere(labels > 0).mean(axis=0))
    top = np.flatnonzero(labels[i, j])[-1]
    upwards = painted[i, j, top + 1 :]
    brightest = int(upwards.argmax())
    assert upwards[:brightest].min() < 300  # fluid and bone
    assert upwards[brightest] > 800
    assert upwards[-1] < 200
    assert painted[i, j, : np.flatnonzero(labels[i, j])[0] - 8].max() > 200  # the neck


def test_a_seed_is_a_head(brain, head):
    again, other = paint_head(*brain, seed=0), paint_head(*brain, seed=1)
    np.testing.assert_array_equal(again[0], head[0])
    assert other[0].shape != head[0].shape or (other[0] != head[0]).any()


def test_intensities_are_in_the_unit_of_the_brain(brain, head):
    image, labels, affine = brain
    small, *_ = paint_head(image / 900, labels, affine, seed=0)
    np.testing.assert_allclose(900 * small, head[0], rtol=1e-3, atol=0.1)


def test_a_speck_beside_the_brain_does_not_count(brain, head):
    image, labels, affine = brain
    beside, marked = np.pad(image, 9), np.pad(labels, 9)
    beside[0, 0, 0] = marked[0, 0, 0] = 1
    moved = affine.copy()
    moved[:3, 3] -= 9 * SPACING_MM
    for found, expected in zip(paint_head(beside, marked, moved, seed=0), head, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-3)


def voxels(*values):
    return np.array(values, np.float32).reshape(1, 1, -1)


@pytest.mark.promise("refused input")
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (voxels(0, 0), "no voxel that differs from 0"),
        (voxels(0, 5), "times as large as an adult's"),
        (voxels(-3, 5), "below 0 or not finite"),
        (voxels(np.nan, 5), "below 0 or not finite"),
    ],
)
def test_what_is_not_a_brain_is_refused(image, message):
    with pytest.raises(InputError, match=message):
        paint_head(image, np.zeros(image.shape, np.uint8), np.eye(4), seed=0)
