"""Label maps on disk: read and written with their values, on the grid of their scan."""

import nibabel as nib
import numpy as np
import pytest

from mtseg.errors import InputError
from mtseg.scans.label_files import read_label_map, write_label_map
from mtseg.scans.preprocessing import prepare_scan
from mtseg.scans.reading import read_scan
from mtseg.scans.volume import Volume
from tests.scans.grids import ORIENTATIONS, affine_of, ranged, refuse, save
from tests.scans.test_nifti import with_voxel_sizes

LABELS = (ranged() % 9).astype(np.uint8)


def test_labels_are_whole_numbers_in_the_smallest_type(tmp_path):
    for array, dtype in (
        (ranged(), np.uint8),
        (ranged() * 100, np.int16),
        (-ranged(), np.int16),
        ((ranged() * 1000).astype(">i4"), np.int32),
    ):
        label_map = read_label_map(save(tmp_path / "a.nii.gz", array))
        assert label_map.array.dtype == dtype
        np.testing.assert_array_equal(label_map.array, array)
    refuse(read_label_map, save(tmp_path / "c.nii.gz", ranged() / 2), "whole")
    refuse(read_label_map, save(tmp_path / "e.nii.gz", ranged() * np.nan), "whole")
    refuse(read_label_map, save(tmp_path / "f.nii.gz", ranged() * 2.0**31), str(60 * 2**31))


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_labels_of_every_orientation_are_at_the_places_of_their_scan(tmp_path, codes):
    """Read by another library: the same array, the same affine."""
    affine = affine_of(codes, (1.0, 1.5, 2.0))
    scan = read_scan(save(tmp_path / "scan.nii", ranged(), affine))
    write_label_map(tmp_path / "labels.nii", ranged().astype(int), scan)
    written = nib.load(tmp_path / "labels.nii")
    np.testing.assert_array_equal(np.asarray(written.dataobj), ranged())
    np.testing.assert_array_equal(written.affine, affine)


def test_a_label_file_has_its_scans_grid_codes_and_units(tmp_path):
    sform, qform = affine_of("LPS", (1, 2, 3)), affine_of("LPS", (1, 2, 3))
    qform[:3, 3] += 1
    image = nib.Nifti1Image(ranged(), sform)
    image.set_sform(sform, 4)
    image.set_qform(qform, 1)
    image.header.set_xyzt_units("mm", "sec")
    path = tmp_path / "scan.nii.gz"
    nib.save(image, path)
    scan = read_scan(path)
    write_label_map(tmp_path / "labels.nii.gz", LABELS, scan)
    written = nib.load(tmp_path / "labels.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), LABELS)
    assert written.get_data_dtype() == np.uint8
    for name, code in (("sform", 4), ("qform", 1)):
        of_scan = getattr(nib.load(path), f"get_{name}")(coded=True)
        of_labels = getattr(written, f"get_{name}")(coded=True)
        np.testing.assert_allclose(of_labels[0], of_scan[0], atol=1e-6)
        assert (of_labels[1], of_scan[1]) == (code, code)
    np.testing.assert_array_equal(written.affine, scan.affine)
    assert written.header.get_xyzt_units() == ("mm", "sec")
    # The source of a prepared scan has all that a file needs.
    write_label_map(tmp_path / "again.nii.gz", LABELS, prepare_scan(scan).source)
    first, second = ((tmp_path / f"{n}.nii.gz").read_bytes() for n in ("labels", "again"))
    assert first == second


@pytest.mark.parametrize(("qform_code", "sform_code"), [(0, 0), (0, 2), (3, 0), (1, 4)])
def test_the_codes_of_the_scan_are_kept(tmp_path, qform_code, sform_code):
    affine = affine_of("PIL", (1, 2, 3))
    forms = {"qform": (affine, qform_code), "sform": (affine, sform_code)}
    scan = read_scan(save(tmp_path / "scan.nii", ranged(), affine, **forms))
    write_label_map(tmp_path / "labels.nii", LABELS, scan)
    written = nib.load(tmp_path / "labels.nii")
    codes = int(written.header["qform_code"]), int(written.header["sform_code"])
    assert codes == (qform_code, sform_code)
    np.testing.assert_array_equal(written.affine, scan.affine)


def test_an_unusual_header_that_can_be_read_can_be_written(tmp_path):
    """A sound sform, but a quaternion that is not valid and an unknown unit."""
    path = save(tmp_path / "scan.nii", ranged(), sform=(np.eye(4), 1), qform=(np.eye(4), 1))
    content = bytearray(path.read_bytes())
    content[256:260] = np.array(9.0, "<f4").tobytes()  # quatern_b
    content[123] = 255  # xyzt_units
    path.write_bytes(content)
    scan = read_scan(path)
    write_label_map(tmp_path / "labels.nii", LABELS, scan)
    written = read_label_map(tmp_path / "labels.nii")
    np.testing.assert_array_equal(written.array, LABELS)
    np.testing.assert_array_equal(written.affine, scan.affine)


@pytest.mark.parametrize("codes", [{}, {"qform": (np.diag([0.5, 0.5, 2.0, 1.0]), 1)}])
@pytest.mark.parametrize("pixdim_mm", [(0.0, 0.0, 0.0), (0.0, 0.5, 2.0)])
def test_labels_of_a_scan_whose_sform_alone_has_a_size_get_that_size(tmp_path, pixdim_mm, codes):
    path = with_voxel_sizes(
        tmp_path / "scan.nii", sform_mm=(0.5, 0.5, 2.0), pixdim_mm=pixdim_mm, **codes
    )
    write_label_map(tmp_path / "labels.nii", LABELS, read_scan(path))
    written = nib.load(tmp_path / "labels.nii")
    assert written.header.get_zooms() == (0.5, 0.5, 2.0)
    np.testing.assert_array_equal(written.affine, np.diag([0.5, 0.5, 2.0, 1.0]))
    assert written.header["pixdim"][0] == nib.load(path).header["pixdim"][0]
    assert read_label_map(tmp_path / "labels.nii").spacing_mm == (0.5, 0.5, 2.0)


def test_a_rounding_error_of_a_voxel_size_is_kept(tmp_path):
    """So that a program that compares voxel sizes finds those of the scan and its labels equal."""
    path = with_voxel_sizes(tmp_path / "scan.nii", sform_mm=(1, 1, 2), pixdim_mm=(1.005, 1, 2))
    write_label_map(tmp_path / "labels.nii", LABELS, read_scan(path))
    assert nib.load(tmp_path / "labels.nii").header.get_zooms() == nib.load(path).header.get_zooms()


@pytest.mark.parametrize(("label", "dtype"), [(255, "u1"), (256, "i2"), (-1, "i2"), (40000, "i4")])
def test_written_labels_keep_their_values(tmp_path, label, dtype):
    labels = np.array([0, label]).reshape(2, 1, 1)
    write_label_map(tmp_path / "a.nii", labels, Volume(np.zeros((2, 1, 1)), np.eye(4)))
    written = nib.load(tmp_path / "a.nii")
    assert written.get_data_dtype() == dtype
    np.testing.assert_array_equal(np.asarray(written.dataobj), labels)


def test_labels_of_another_shape_are_a_mistake_of_the_caller(tmp_path):
    with pytest.raises(ValueError, match="shape"):
        write_label_map(tmp_path / "a.nii", np.zeros((3, 4, 6), int), Volume(ranged(), np.eye(4)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["missing/labels.nii", "file/labels.nii", "folder.nii", "labels.img", "labels"]
)
def test_paths_that_cannot_be_written(tmp_path, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.nii").mkdir()

    def write(path):
        write_label_map(path, LABELS, Volume(ranged(), np.eye(4)))

    refuse(write, tmp_path / name)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder.nii"]


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(image, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nib, "save", fail)
    with pytest.raises(InputError, match="No space left"):
        write_label_map(tmp_path / "labels.nii.gz", LABELS, Volume(ranged(), np.eye(4)))
    assert not list(tmp_path.iterdir())
