"""Intensities: scans in the scales of other programs become the same scan, with a note."""

import numpy as np
import pytest

from mtseg.phantoms.scanner import make_phantom
from mtseg.scans.intensities import AIR_HU, is_ct, shift_to_positive
from mtseg.scans.preprocessing import LARGEST_INTENSITY, SMALLEST_INTENSITY, prepare_scan
from mtseg.scans.volume import Volume


@pytest.fixture(scope="module")
def brain():
    """A synthetic brain MR as a scanner writes it: 0 outside, positive inside."""
    return np.asarray(make_phantom("brain", 5, 48).image, np.float32)


@pytest.fixture(scope="module")
def heart():
    """A synthetic CT angiography in Hounsfield units."""
    return np.asarray(make_phantom("cta", 5, 48).image, np.float32)


def read(array, told=None):
    array = np.array(array, np.float32)
    found = shift_to_positive(array, told)
    return array, found


def normalised(array, mask):
    return np.where(mask, array / np.percentile(array[mask], 99), 0)


def test_a_scan_as_scanners_write_it_is_unchanged(brain):
    array, found = read(brain)
    np.testing.assert_array_equal(array, brain)
    np.testing.assert_array_equal(found.mask, brain > 0)
    assert (found.is_ct, found.note) == (False, "")


def test_ct_is_shifted_so_that_air_is_0(heart):
    array, found = read(heart)
    np.testing.assert_array_equal(array, np.maximum(heart - AIR_HU, 0))
    assert (found.is_ct, found.note) == (True, "")


def z_score(array):
    return (array - array.mean()) / array.std()


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (z_score, "its background is -"),
        (lambda a: 2 * a / a.max() - 1, "its background is -1, not 0"),
        (lambda a: a + 50, "its background is 50, not 0"),
        (lambda a: a / a.max(), ""),
        (lambda a: a - 300, "its background is -300, not 0"),
    ],
    ids=["z-scored", "-1 to 1", "offset", "0 to 1", "negative offset"],
)
def test_other_scales_of_an_mr_are_the_same_scan(brain, change, note):
    array, found = read(change(brain))
    np.testing.assert_array_equal(found.mask, brain > 0)
    np.testing.assert_allclose(
        normalised(array, found.mask), normalised(brain, brain > 0), atol=1e-5
    )
    assert found.note.startswith(note) if note else found.note == ""


def test_a_scan_z_scored_inside_a_mask_keeps_its_foreground(brain):
    mask = brain > 0
    scored = np.where(mask, (brain - brain[mask].mean()) / brain[mask].std(), 0)
    array, found = read(scored)
    np.testing.assert_array_equal(found.mask, scored != 0)
    assert "background 0 is not its lowest value" in found.note
    assert (array[found.mask] > 0).all()
    # The order of intensities is kept.
    order = np.argsort(brain[found.mask], kind="stable")
    assert (np.diff(array[found.mask][order]) >= -1e-6).all()


def test_one_voxel_of_a_spline_does_not_make_an_mr_a_ct(brain):
    ringing = brain.copy()
    ringing[0, 0, 0] = -600
    array, found = read(ringing)
    np.testing.assert_array_equal(array, brain)
    assert not found.is_ct


@pytest.mark.parametrize("lowest", [-400, -200])
def test_a_ct_whose_air_was_clipped_is_still_a_ct(heart, lowest):
    whole, _ = read(heart)
    array, found = read(np.maximum(heart, lowest))
    assert found.is_ct
    assert f"clipped at {lowest} HU" in found.note
    inside = heart > lowest
    np.testing.assert_array_equal(array[inside], whole[inside])
    np.testing.assert_array_equal(array[~inside], 0)


def test_a_ct_cropped_to_the_body_is_a_ct_and_says_so():
    rng = np.random.default_rng(0)
    tissue = rng.choice([-90, 40, 55, 400], (12, 13, 14), p=[0.3, 0.35, 0.3, 0.05])
    scan = (tissue + rng.integers(-20, 20, tissue.shape)).astype(np.float32)
    array, found = read(scan)
    assert found.is_ct
    assert "--modality mr" in found.note
    np.testing.assert_array_equal(array, scan - AIR_HU)
    _, found = read(scan, told=False)
    assert not found.is_ct


@pytest.mark.parametrize("padding", [-2000, 63536])
def test_padding_is_background(brain, padding):
    padded = brain.copy()
    padded[:4] = padding
    expected = brain.copy()
    expected[:4] = 0
    array, found = read(padded)
    np.testing.assert_array_equal(array, expected)
    assert f"padding value {padding}" in found.note


def test_what_the_caller_says_decides(brain, heart):
    assert read(brain - 1000, told=True)[1].is_ct
    assert not read(heart, told=False)[1].is_ct


def test_a_ct_of_another_scale_is_noted(heart):
    scaled = (heart - heart.min()) / np.ptp(heart)
    assert "too few for Hounsfield units" in read(scaled, told=True)[1].note
    assert "Hounsfield" not in read(heart, told=True)[1].note
    assert "Hounsfield" not in read(np.maximum(heart, -100), told=True)[1].note


def test_a_share_of_voxels_decides_not_one():
    scan = np.zeros(1000, np.float32)
    scan[:5] = -600
    assert not is_ct(scan)
    scan[:6] = -600
    assert is_ct(scan)


def test_prepared_intensities_are_within_float16():
    scan = np.full((6, 7, 8), 1000, np.float32)
    scan[0, 0, 0], scan[1, 1, 1] = 1e-6, 1e12
    prepared = prepare_scan(Volume(scan, np.eye(4)))
    stored = prepared.volume.array.astype(np.float16)
    assert np.isfinite(stored).all()
    np.testing.assert_array_equal(stored > 0, scan > 0)
    assert stored.max() <= LARGEST_INTENSITY
    assert stored[0, 0, 0] >= SMALLEST_INTENSITY * 0.99
