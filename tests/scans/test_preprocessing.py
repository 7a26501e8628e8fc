"""Prepared scans: the network's grid and intensities, and the way back to the scan's own grid."""

import nibabel as nib
import numpy as np
import pytest

from mtseg.errors import InputError
from mtseg.inference.restoration import Restoration
from mtseg.scans.preprocessing import preparation_bytes, prepare_label_map, prepare_scan
from mtseg.scans.reading import read_scan
from mtseg.scans.resampling import NEAREST, resample
from mtseg.scans.volume import Volume, from_ras, to_ras
from tests.scans.grids import ORIENTATIONS, SHAPE, oblique_affine, on_grid, ranged


def restored(array, prepared):
    """An array (I, J, K) of the prepared grid on the grid of the scan itself."""
    whole = tuple(slice(0, n) for n in array.shape)
    restoration = Restoration(prepared)
    on_scan = restoration.interpolate(array.astype(np.float32), whole, restoration.targets(whole))
    return from_ras(on_scan, prepared.source.affine)


def restored_labels(labels, prepared):
    """Labels on the grid of the scan itself: for each voxel, the one with the largest share."""
    values = np.unique(labels)
    return values[np.argmax([restored(labels == value, prepared) for value in values], axis=0)]


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_all_48_orientations_are_prepared_in_ras_and_come_back(codes):
    source = on_grid(ranged(), codes)
    prepared = prepare_scan(source)
    in_ras = to_ras(source)
    np.testing.assert_allclose(
        prepared.volume.array, in_ras.array / np.percentile(in_ras.array, 99), rtol=1e-6
    )
    np.testing.assert_array_equal(prepared.volume.affine, in_ras.affine)
    np.testing.assert_array_equal(restored(in_ras.array, prepared), source.array)
    assert prepared.source.array.shape == SHAPE


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (1.0, 1.2, 2.0)])
def test_an_oblique_scan_keeps_its_own_axes_and_its_labels_come_back(spacing_mm):
    source = Volume(ranged(), oblique_affine(spacing_mm))
    in_ras = to_ras(source)
    prepared = prepare_scan(source)
    directions = prepared.volume.affine[:3, :3] / prepared.volume.spacing_mm
    np.testing.assert_allclose(directions, in_ras.affine[:3, :3] / in_ras.spacing_mm, atol=1e-12)
    labels = np.arange(60, dtype=np.uint8).reshape(SHAPE)
    resampled = prepare_label_map(Volume(labels, source.affine), prepared)
    np.testing.assert_array_equal(restored_labels(resampled, prepared), labels)


def test_a_scan_prepared_at_its_own_voxel_size_is_not_interpolated():
    """Voxel sizes within a thousandth of the wanted one, one larger and one smaller."""
    source = Volume(ranged(), np.diag([1.0009, 0.9995, 1.0, 1.0]))
    prepared = prepare_scan(source, 1.0)
    expected = source.array / np.percentile(source.array, 99).astype(np.float32)
    np.testing.assert_array_equal(prepared.volume.array, expected)
    np.testing.assert_array_equal(restored(source.array, prepared), source.array)


def test_label_map_and_scan_have_the_same_grid_where_voxel_counts_are_halves():
    """10.5 voxels are 10 or 11: a rounding error in a voxel size must not decide differently."""
    rng = np.random.default_rng(0)
    sizes_mm = [0.3, 0.45, 0.5, 0.7, 1.0, 1.25, 1.5]
    for _ in range(100):
        affine = oblique_affine(rng.choice(sizes_mm, 3), rng.random())
        array = rng.integers(0, 2, tuple(rng.integers(1, 8, 3))).astype(np.float32)
        array.flat[0] = 1
        prepared = prepare_scan(Volume(array, affine), float(rng.choice([0.5, 1.0, 2.0])))
        labels = Volume(array.astype(np.uint8), affine + rng.normal(0, 1e-9, (4, 4)))
        # For a tie between two nearest voxels, mask and labels take the same one.
        np.testing.assert_array_equal(
            prepare_label_map(labels, prepared) > 0, prepared.volume.array > 0
        )


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_labels_of_an_anisotropic_scan_come_back_exactly(codes):
    """Nearest neighbours to a finer grid and back change nothing."""
    source = on_grid(ranged(), codes, (1.0, 1.5, 2.0))
    labels = Volume((ranged() % 7).astype(np.uint8), source.affine)
    prepared = prepare_scan(source, spacing_mm=0.5)
    resampled = prepare_label_map(labels, prepared)
    np.testing.assert_array_equal(restored_labels(resampled, prepared), labels.array)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 4), (6, 1, 2)])
def test_tiny_volumes(shape):
    source = Volume(ranged(shape), np.diag([1.0, 2.0, 3.0, 1.0]))
    prepared = prepare_scan(source)
    assert restored(prepared.volume.array, prepared).shape == shape


def test_the_spline_adds_no_foreground_and_no_overshoot():
    array = np.zeros((12, 12, 12), np.float32)
    array[4:8, 4:8, 4:8] = 100
    array[5, 5, 5] = 10
    prepared = prepare_scan(Volume(array, np.eye(4)), spacing_mm=0.4)
    values = prepared.volume.array * np.percentile(array[array > 0], 99)
    mask = resample(Volume((array > 0).astype(np.uint8), np.eye(4)), 0.4, NEAREST).array
    np.testing.assert_array_equal(prepared.volume.array > 0, mask > 0)
    assert values[mask > 0].min() >= 10 - 1e-3
    assert values.max() <= 100 + 1e-3


def test_a_foreground_lost_between_the_voxels_of_a_coarse_grid():
    array = np.zeros((5, 5, 5), np.float32)
    array[0, 0, 0] = 7
    prepared = prepare_scan(Volume(array, np.eye(4)), spacing_mm=5.0)
    assert prepared.volume.array.tolist() == [[[0]]]
    assert np.count_nonzero(prepared.source.array) == 1


def test_preparing_leaves_the_scan_unchanged():
    array = ranged()
    scan = Volume(array.copy(), np.eye(4))
    prepare_scan(scan)
    np.testing.assert_array_equal(scan.array, array)


def test_a_voxel_size_that_is_not_positive_is_refused():
    with pytest.raises(InputError, match="voxel size"):
        prepare_scan(Volume(ranged(), np.eye(4)), 0.0)


def test_a_label_map_of_another_shape_is_a_mistake_of_the_caller():
    prepared = prepare_scan(Volume(ranged(), np.eye(4)), 0.5)
    with pytest.raises(ValueError, match="shape"):
        prepare_label_map(Volume(ranged((3, 4, 6)), np.eye(4)), prepared)


def test_intensities_are_divided_by_the_99th_percentile_of_the_foreground():
    array = np.zeros((10, 10, 10), np.float32)
    array[:5] = np.arange(1, 501).reshape(5, 10, 10)
    prepared = prepare_scan(Volume(array, np.eye(4)))
    expected = array / np.percentile(np.arange(1, 501), 99)
    np.testing.assert_allclose(prepared.volume.array, expected, rtol=1e-6)
    assert prepared.volume.array.dtype == np.float32


def test_ct_is_shifted_so_that_air_is_zero():
    array = np.array([-2000, -1024, -1000, 0], np.float32).reshape(2, 2, 1)
    prepared = prepare_scan(Volume(array, np.eye(4)))
    values = restored(prepared.volume.array, prepared)
    assert (values.ravel() > 0).tolist() == [False, False, True, True]
    np.testing.assert_allclose(values[1, 0, 0] / values[1, 1, 0], 24 / 1024)


def test_the_caller_can_say_what_is_ct():
    array = np.zeros((10, 10, 10), np.float32)
    array[0, 0, :6] = -600  # more than one voxel in 200 decides
    array[5, 5, 5:7] = 5, 10
    as_mr = prepare_scan(Volume(array, np.eye(4)), is_ct=False)
    assert np.count_nonzero(as_mr.source.array) == 2
    as_ct = prepare_scan(Volume(array, np.eye(4)))
    assert np.count_nonzero(as_ct.source.array) == 1000
    assert (as_mr.is_ct, as_ct.is_ct) == (False, True)
    told = prepare_scan(Volume(array + 200, np.eye(4)), is_ct=True)
    assert np.count_nonzero(told.source.array) == 1000


def test_labels_outside_the_foreground_become_background():
    array = np.array([0, 5, 5, 0], np.float32).reshape(4, 1, 1)
    prepared = prepare_scan(Volume(array, np.eye(4)))
    labels = Volume(np.full((4, 1, 1), 3, np.uint8), np.eye(4))
    assert prepare_label_map(labels, prepared).ravel().tolist() == [0, 3, 3, 0]


def test_a_scan_without_foreground():
    with pytest.raises(InputError, match="every voxel is background"):
        prepare_scan(Volume(np.zeros(SHAPE, np.float32), np.eye(4)))


def test_the_estimated_memory_grows_with_the_scan_and_the_resolution():
    """Bytes per voxel, from the header alone."""
    shape, spacing_mm = (20, 30, 40), (1.0, 1.0, 1.0)
    assert preparation_bytes(shape, spacing_mm, 1.0) == 16 * 24_000
    assert preparation_bytes(shape, spacing_mm, 0.5) == 5 * 24_000 + 10 * 8 * 24_000


def test_real_scans_come_back_to_their_own_grid(real_data):
    scan = read_scan(real_data / "breast_mri" / "duke153_t1_tse.nii.gz")
    prepared = prepare_scan(scan, spacing_mm=2.0)
    assert nib.aff2axcodes(prepared.volume.affine) == ("R", "A", "S")
    np.testing.assert_allclose(prepared.volume.spacing_mm, 2)
    values = restored(prepared.volume.array, prepared)
    assert values.shape == scan.array.shape
    # Resampling blurs, but every structure is back in its place.
    inside = prepared.source.array
    assert np.corrcoef(values[inside], scan.array[inside])[0, 1] > 0.97
