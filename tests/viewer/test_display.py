"""The copies for the browser: the same places in the world, in types that it can show."""

import nibabel as nib
import numpy as np
import pytest

from mtseg.scans.volume import Volume
from mtseg.viewer.display import coarse_copy, write_display_copy, write_display_labels

AFFINE = np.array([[0, -2.0, 0, 7], [3.0, 0, 0, -5], [0, 0, 1.5, 11], [0, 0, 0, 1]])


def write(path, array):
    nib.save(nib.Nifti1Image(array, AFFINE), path)
    return path


@pytest.mark.parametrize(
    ("given", "shown"),
    [(np.uint8, np.uint8), (np.int16, np.int16), (np.int32, np.int16), (np.float64, np.float32)],
)
def test_a_copy_has_every_value_at_its_place(tmp_path, given, shown):
    array = np.arange(3 * 4 * 5).reshape(3, 4, 5).astype(given)
    write_display_copy(tmp_path / "copy.nii", write(tmp_path / "scan.nii.gz", array))
    copy = nib.load(tmp_path / "copy.nii")
    assert copy.get_data_dtype() == shown
    np.testing.assert_array_equal(copy.get_fdata(), array)
    np.testing.assert_allclose(copy.affine, AFFINE)


def test_integers_of_more_than_16_bits_keep_their_values(tmp_path):
    array = np.full((2, 2, 2), 100_000, np.int32)
    write_display_copy(tmp_path / "copy.nii", write(tmp_path / "scan.nii", array))
    np.testing.assert_array_equal(nib.load(tmp_path / "copy.nii").get_fdata(), array)


def test_black_and_white_leave_air_and_single_bright_voxels_out(tmp_path):
    array = np.zeros((20, 20, 20), np.int16)
    array[5:15, 5:15, 5:15] = 100 + np.arange(1000).reshape(10, 10, 10) % 101
    array[7, 7, 7] = 30_000
    shown = write_display_copy(tmp_path / "copy.nii", write(tmp_path / "scan.nii", array))
    assert 100 <= shown["black"] <= 105
    assert 195 <= shown["white"] <= 201


def test_a_scan_of_one_value_can_be_shown(tmp_path):
    scan = write(tmp_path / "scan.nii", np.zeros((3, 3, 3), np.int16))
    shown = write_display_copy(tmp_path / "copy.nii", scan)
    assert shown["black"] < shown["white"]


def test_a_coarse_copy_has_every_so_many_voxels_at_their_places(tmp_path):
    array = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    shown = write_display_copy(tmp_path / "scan.nii", write(tmp_path / "in.nii.gz", array))
    write_display_labels(tmp_path / "labels.nii", Volume(array, AFFINE))
    assert shown["shape"] == [3, 4, 5]
    for name in ("scan.nii", "labels.nii"):
        assert coarse_copy(tmp_path / name, 1) == tmp_path / name
        copy = nib.load(coarse_copy(tmp_path / name, 3))
        np.testing.assert_array_equal(copy.get_fdata(), array[::3, ::3, ::3])
        # The first voxel is where it was; the second is where the fourth was.
        np.testing.assert_allclose(copy.affine @ [0, 1, 0, 1], AFFINE @ [0, 3, 0, 1])


@pytest.mark.parametrize("step", [0, -1, 17])
def test_other_steps_are_refused(tmp_path, step):
    with pytest.raises(ValueError, match=r"^$"):
        coarse_copy(tmp_path / "scan.nii", step)


def test_a_coarse_copy_is_that_of_the_reference_that_is_there_now(tmp_path):
    for value in (1, 2):
        write_display_labels(tmp_path / "reference.nii", Volume(np.full((4, 4, 4), value), AFFINE))
        shown = nib.load(coarse_copy(tmp_path / "reference.nii", 2)).get_fdata()
        np.testing.assert_array_equal(shown, np.full((2, 2, 2), value))
