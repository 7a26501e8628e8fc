"""Volumes: every voxel keeps its value and its place, whatever the axes."""

import nibabel as nib
import numpy as np
import pytest

from mtseg.errors import InputError
from mtseg.scans.volume import (
    Volume,
    check_same_grid,
    from_ras,
    match_grid,
    memory_shortage,
    to_ras,
)
from tests.scans.grids import (
    ORIENTATIONS,
    SHAPE,
    affine_of,
    oblique_affine,
    on_grid,
    points_by_value,
    ranged,
)

PATHS = "scan.nii", "labels.nii"


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_all_48_orientations_become_ras_and_come_back(codes):
    source = on_grid(ranged(), codes, (1.0, 1.5, 2.0))
    in_ras = to_ras(source)
    assert nib.aff2axcodes(in_ras.affine) == ("R", "A", "S")
    np.testing.assert_allclose(points_by_value(in_ras), points_by_value(source))
    np.testing.assert_array_equal(from_ras(in_ras.array, source.affine), source.array)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (1.0, 1.2, 2.0)])
def test_an_oblique_scan_keeps_its_own_axes_and_comes_back(spacing_mm):
    source = Volume(ranged(), oblique_affine(spacing_mm))
    in_ras = to_ras(source)
    np.testing.assert_array_equal(in_ras.array, ranged()[::-1])
    np.testing.assert_allclose(points_by_value(in_ras), points_by_value(source))
    np.testing.assert_array_equal(from_ras(in_ras.array, source.affine), source.array)


def test_voxel_sizes_and_volumes():
    volume = Volume(ranged(), oblique_affine((0.5, 1.2, 2.0)))
    np.testing.assert_allclose(volume.spacing_mm, (0.5, 1.2, 2.0))
    assert volume.voxel_ml == pytest.approx(0.0012)
    sheared = np.diag([1.0, 1.0, 2.0, 1.0])
    sheared[1, 2] = 1.5  # slices are 2.5 mm apart along the gantry, 2 mm along their normal
    assert Volume(ranged(), sheared).spacing_mm == (1, 1, 2.5)
    assert Volume(ranged(), sheared).voxel_ml == pytest.approx(0.002)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_a_label_map_with_other_axes_is_turned_to_those_of_its_scan(codes):
    scan = on_grid(ranged(), codes, (1.0, 1.5, 2.0))
    for label_map in (to_ras(scan), on_lps(scan)):
        matched = match_grid(scan, label_map, *PATHS)
        np.testing.assert_array_equal(matched.array, scan.array)
        np.testing.assert_allclose(matched.affine, scan.affine, atol=1e-9)


def on_lps(volume):
    """The same volume with axes to the left, back and top, as DICOM has them."""
    in_ras = to_ras(volume)
    affine = in_ras.affine.copy()
    for axis in (0, 1):
        affine[:3, 3] += (in_ras.array.shape[axis] - 1) * affine[:3, axis]
        affine[:3, axis] *= -1
    return Volume(in_ras.array[::-1, ::-1], affine)


def test_a_label_map_with_other_axes_on_another_grid_is_refused():
    scan = on_grid(ranged(), "LPS")
    moved = to_ras(scan)
    moved.affine[0, 3] += 1
    with pytest.raises(InputError, match="1 mm apart"):
        match_grid(scan, moved, *PATHS)
    with pytest.raises(InputError, match="another grid"):
        match_grid(scan, on_grid(ranged((3, 4, 6)), "RAS"), *PATHS)


def test_grids_that_differ_show_both():
    scan = Volume(ranged(), np.eye(4))
    check_same_grid(scan, scan, *PATHS)
    moved = np.eye(4)
    moved[0, 3] = 0.5
    for other, word in (
        (Volume(ranged((3, 4, 6)), np.eye(4)), "(3, 4, 6)"),
        (Volume(ranged(), moved), "0.5"),
    ):
        with pytest.raises(InputError) as refusal:
            check_same_grid(scan, other, *PATHS)
        assert all(w in str(refusal.value) for w in (*PATHS, "(3, 4, 5)", word, "Resample"))


@pytest.mark.parametrize(("shift_mm", "is_same"), [(4e-4, True), (6e-4, False)])
def test_grids_may_differ_by_a_thousandth_of_a_voxel(shift_mm, is_same):
    scan = Volume(ranged(), np.diag([0.5, 1.0, 2.0, 1.0]))
    moved = scan.affine.copy()
    moved[2, 3] += shift_mm
    if is_same:
        check_same_grid(scan, Volume(ranged(), moved), *PATHS)
    else:
        with pytest.raises(InputError, match=r"0\.0006 mm apart"):
            check_same_grid(scan, Volume(ranged(), moved), *PATHS)


def test_a_volume_larger_than_the_memory_says_both_sizes(monkeypatch):
    monkeypatch.setattr("mtseg.scans.volume.hardware.total_bytes", lambda: 4_000_000_000)
    assert memory_shortage((1000, 1000, 1000)) == ""
    assert memory_shortage((1000, 1000, 1000), 8) == (
        "(1000, 1000, 1000) voxels, 8 GB, but this machine has 4 GB"
    )


def test_affines_of_the_tests_have_the_orientation_of_their_name():
    assert len(set(ORIENTATIONS)) == 48
    for codes in ORIENTATIONS:
        assert "".join(nib.aff2axcodes(affine_of(codes))) == codes
    assert len(np.unique(ranged())) == np.prod(SHAPE)
