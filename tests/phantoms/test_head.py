"""Heads painted around brains: the brain stays, and around it is what a scan of a head shows."""

import numpy as np
import pytest

from mtseg.errors import InputError
from mtseg.phantoms.head import paint_head
from mtseg.scans.volume import Volume

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
    return Volume(image, affine), labels


@pytest.fixture(scope="module")
def head(brain):
    return paint_head(*brain, seed=0)


def places_mm(volume, chosen):
    return volume.affine[:3, :3] @ np.argwhere(chosen).T + volume.affine[:3, 3:]


def test_the_brain_stays_where_and_as_it_is(brain, head):
    (image, labels), (painted, painted_labels) = brain, head
    for value in (1, 2):
        here, there = labels == value, painted_labels == value
        np.testing.assert_allclose(places_mm(image, here), places_mm(painted, there))
        np.testing.assert_array_equal(image.array[here], painted.array[there])
    assert np.count_nonzero(painted_labels) == np.count_nonzero(labels)


def test_outwards_come_dark_bone_bright_fat_and_air(head):
    painted, labels = head
    i, j, _ = (int(c) for c in np.argwhere(labels > 0).mean(axis=0))
    top = np.flatnonzero(labels[i, j])[-1]
    upwards = painted.array[i, j, top + 1 :].astype(int)
    brightest = int(upwards.argmax())
    assert upwards[:brightest].min() < 300  # fluid and bone
    assert upwards[brightest] > 800
    assert upwards[-1] < 200
    assert painted.array[i, j, : np.flatnonzero(labels[i, j])[0] - 8].max() > 200  # the neck


def test_a_seed_is_a_head(brain, head):
    again, other = paint_head(*brain, seed=0), paint_head(*brain, seed=1)
    np.testing.assert_array_equal(again[0].array, head[0].array)
    assert other[0].array.shape != head[0].array.shape or (other[0].array != head[0].array).any()


def test_intensities_are_in_the_unit_of_the_brain(brain, head):
    image, labels = brain
    tenfold, _ = paint_head(Volume(image.array * 10, image.affine), labels, seed=0)
    ratio = tenfold.array.astype(int).sum() / head[0].array.astype(int).sum()
    assert ratio == pytest.approx(10, rel=0.01)


def test_an_empty_scan_is_refused():
    empty = np.zeros((4, 5, 6), np.float32)
    with pytest.raises(InputError, match="Give a skull-stripped brain"):
        paint_head(Volume(empty, np.eye(4)), empty.astype(np.uint8), seed=0)
