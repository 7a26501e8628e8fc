"""NIfTI: types, scaling, frames, units, and headers that contradict themselves."""

import nibabel as nib
import numpy as np
import pytest

from mtseg.scans.label_files import read_label_map, write_label_map
from mtseg.scans.reading import open_scan, read_scan
from tests.scans.grids import SHAPE, affine_of, ranged, refuse, save


@pytest.mark.parametrize("dtype", ["u1", "i2", "<i4", ">i2", "f4", ">f8"])
def test_scans_of_any_plain_type_are_read_as_float32(tmp_path, dtype):
    scan = read_scan(save(tmp_path / "scan.nii.gz", ranged().astype(dtype)))
    assert scan.array.dtype == np.float32
    np.testing.assert_array_equal(scan.array, ranged())


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_slope_and_intercept_are_applied(tmp_path, name):
    image = nib.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), np.eye(4))
    image.header.set_slope_inter(2.0, -3.0)
    nib.save(image, tmp_path / name)
    stored = nib.load(tmp_path / name)
    np.testing.assert_array_equal(stored.dataobj.get_unscaled().ravel(), np.arange(8))
    scan, label_map = read_scan(tmp_path / name), read_label_map(tmp_path / name)
    assert scan.array.dtype == np.float32
    np.testing.assert_array_equal(scan.array.ravel(), 2 * np.arange(8) - 3)
    np.testing.assert_array_equal(label_map.array.ravel(), 2 * np.arange(8) - 3)


def test_a_scan_that_was_read_does_not_change_with_its_file(tmp_path):
    path = save(tmp_path / "scan.nii", ranged())
    scan = read_scan(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    np.testing.assert_array_equal(scan.array, ranged())


@pytest.mark.parametrize("num_axes", [3, 4, 5])
def test_one_frame_is_read_as_a_volume(tmp_path, num_axes):
    array = ranged().reshape(*SHAPE, *[1] * (num_axes - 3))
    path = save(tmp_path / "scan.nii.gz", array, affine_of("LPS"))
    assert open_scan(path).shape == SHAPE
    np.testing.assert_array_equal(read_scan(path).array, ranged())
    label_map = read_label_map(path)
    write_label_map(tmp_path / "labels.nii.gz", label_map.array, read_scan(path))
    assert nib.load(tmp_path / "labels.nii.gz").shape == SHAPE


@pytest.mark.parametrize("shape", [(3, 4, 5, 2), (3, 4, 5, 1, 2), (3, 4)])
def test_several_frames_or_a_plane_are_refused(tmp_path, shape):
    refuse(read_scan, save(tmp_path / "scan.nii.gz", ranged(shape)), str(shape))


@pytest.mark.parametrize(("unit", "unit_mm"), [("meter", 1000), ("micron", 1e-3), ("mm", 1)])
def test_other_units_are_converted_to_mm(tmp_path, unit, unit_mm):
    affine_mm = affine_of("LPS", (1.0, 1.5, 2.0))
    affine = np.diag([1 / unit_mm] * 3 + [1]) @ affine_mm
    image = nib.Nifti1Image(ranged(), affine)
    image.set_sform(affine, 1)
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "scan.nii")
    scan = read_scan(tmp_path / "scan.nii")
    np.testing.assert_allclose(scan.affine, affine_mm, rtol=1e-6)
    write_label_map(tmp_path / "labels.nii", ranged().astype(int), scan)
    label_map = read_label_map(tmp_path / "labels.nii")
    np.testing.assert_allclose(label_map.affine, affine_mm, rtol=1e-6)


def with_voxel_sizes(path, *, sform_mm, pixdim_mm, sform_code=1, **codes):
    """Writes a scan whose sform and pixdim may differ; `codes` are those of `save`."""
    affine = np.diag([*sform_mm, 1.0])
    save(path, ranged(), affine, sform=(affine, sform_code), **codes)
    content = bytearray(path.read_bytes())
    content[80:92] = np.array(pixdim_mm, "<f4").tobytes()
    path.write_bytes(content)
    return path


def test_a_header_with_two_different_voxel_sizes_is_refused_with_both(tmp_path):
    path = with_voxel_sizes(
        tmp_path / "scan.nii", sform_mm=(1.0, 1.0, 1.0), pixdim_mm=(1.5, 1.5, 10)
    )
    refuse(read_scan, path, "1 x 1 x 1 mm in its sform", "1.5 x 1.5 x 10 mm in its pixdim")


@pytest.mark.parametrize(
    ("pixdim_mm", "sform_code", "expected_mm"),
    [
        ((1.005, 1.0, 2.0), 1, (1.0, 1.0, 2.0)),  # a rounding error
        ((0.0, 0.0, 0.0), 1, (1.0, 1.0, 2.0)),  # only the sform has a size
        ((3.0, 3.0, 3.0), 0, (3.0, 3.0, 3.0)),  # only pixdim counts
    ],
)
def test_a_header_with_one_voxel_size_is_read(tmp_path, pixdim_mm, sform_code, expected_mm):
    path = with_voxel_sizes(
        tmp_path / "scan.nii",
        sform_mm=(1.0, 1.0, 2.0),
        pixdim_mm=pixdim_mm,
        sform_code=sform_code,
    )
    np.testing.assert_allclose(read_scan(path).spacing_mm, expected_mm)
