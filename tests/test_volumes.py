"""Geometry: every voxel keeps its value and its place, and comes back to its own grid."""

import itertools

import nibabel as nib
import numpy as np
import pytest
from nibabel import orientations

from mtseg import volumes
from mtseg.errors import InputError
from mtseg.volumes import CUBIC, LINEAR, NEAREST, Volume

SHAPE = (3, 4, 5)

ORIENTATIONS = [
    "".join(codes)
    for order in itertools.permutations(("LR", "PA", "IS"))
    for codes in itertools.product(*order)
]


def ranged(shape=SHAPE):
    """Every value says where it came from, so every flip shows."""
    return np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)


def affine_of(codes, spacing=(1.0, 1.0, 1.0)):
    to_ras = orientations.axcodes2ornt(tuple(codes))
    affine = orientations.inv_ornt_aff(orientations.axcodes2ornt("RAS"), SHAPE)
    matrix = np.zeros((3, 3))
    for axis, (world, direction) in enumerate(to_ras):
        matrix[int(world), axis] = direction * spacing[axis]
    affine[:3, :3] = matrix
    affine[:3, 3] = (-10, 20, 30)
    return affine


def oblique_affine():
    turn = np.radians(20)
    rotation = np.array(
        [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([-1.0, 1.2, 2.0])
    affine[:3, 3] = (5, -7, 11)
    return affine


def value_at_places(volume):
    """World place of every value, to compare two volumes whatever their axes."""
    index = np.indices(volume.array.shape).reshape(3, -1)
    places = volume.affine[:3, :3] @ index + volume.affine[:3, 3:]
    order = np.argsort(volume.array.ravel())
    return places[:, order]


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_all_48_orientations_become_ras_and_come_back(codes):
    source = Volume(ranged(), affine_of(codes))
    canonical = volumes.canonicalise(source)
    assert nib.aff2axcodes(canonical.affine) == ("R", "A", "S")
    np.testing.assert_allclose(value_at_places(canonical), value_at_places(source))
    prepared = volumes.prepare_scan(source)
    np.testing.assert_array_equal(volumes.restore(canonical.array, prepared, NEAREST), source.array)
    assert prepared.source_foreground.shape == SHAPE


def test_an_oblique_scan_keeps_its_own_axes_and_comes_back():
    source = Volume(ranged(), oblique_affine())
    canonical = volumes.canonicalise(source)
    np.testing.assert_allclose(value_at_places(canonical), value_at_places(source))
    prepared = volumes.prepare_scan(source)
    assert volumes.restore(prepared.volume.array, prepared, LINEAR).shape == SHAPE


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SRA", "PIL"])
def test_labels_of_an_anisotropic_scan_come_back_exactly(codes):
    """Nearest to a finer grid and back is the identity."""
    source = Volume(ranged(), affine_of(codes, spacing=(1.0, 1.5, 2.0)))
    labels = Volume((ranged() % 7).astype(np.uint8), source.affine)
    prepared = volumes.prepare_scan(source, spacing_mm=0.5)
    there = volumes.prepare_label_map(labels, prepared)
    np.testing.assert_array_equal(volumes.restore(there, prepared, NEAREST), labels.array)


def test_same_spacing_is_left_as_it_is():
    volume = Volume(ranged(), np.diag([0.7, 0.7, 0.7, 1]))
    assert volumes.resample(volume, 0.7, CUBIC) is volume


def test_half_the_spacing_by_hand():
    """Two voxels 2 mm wide become four of 1 mm around the same centre."""
    volume = Volume(np.array([0.0, 4.0]).reshape(2, 1, 1), np.diag([2.0, 1.0, 1.0, 1.0]))
    linear = volumes.resample(volume, 1.0, LINEAR)
    np.testing.assert_allclose(linear.array.ravel(), [0, 1, 3, 4])
    nearest = volumes.resample(volume, 1.0, NEAREST)
    np.testing.assert_allclose(nearest.array.ravel(), [0, 0, 4, 4])
    np.testing.assert_allclose(linear.affine[:3, 3], [-0.5, 0, 0])
    np.testing.assert_allclose(linear.spacing_mm, 1)


def test_a_cubic_polynomial_survives_cubic_resampling():
    """Away from the border, where values are repeated, a cubic spline is exact for a line."""
    volume = Volume(np.tile(np.arange(40.0), (3, 3, 1)), np.diag([1.0, 1.0, 1.0, 1.0]))
    resampled = volumes.resample(volume, 0.8, CUBIC)
    k = np.arange(resampled.array.shape[2]) * 0.8 + resampled.affine[2, 3]
    np.testing.assert_allclose(resampled.array[1, 1, 15:-15], k[15:-15], atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 4), (6, 1, 2)])
def test_tiny_volumes(shape):
    source = Volume(ranged(shape), np.diag([1.0, 2.0, 3.0, 1.0]))
    prepared = volumes.prepare_scan(source)
    assert volumes.restore(prepared.volume.array, prepared, LINEAR).shape == shape


def test_ringing_adds_no_foreground_and_no_overshoot():
    array = np.zeros((12, 12, 12), np.float32)
    array[4:8, 4:8, 4:8] = 100
    array[5, 5, 5] = 10
    prepared = volumes.prepare_scan(Volume(array, np.eye(4)), spacing_mm=0.4)
    values = prepared.volume.array * np.percentile(array[array > 0], 99)
    mask = volumes.resample(Volume((array > 0).astype(np.uint8), np.eye(4)), 0.4, NEAREST).array
    np.testing.assert_array_equal(prepared.volume.array > 0, mask > 0)
    assert values[mask > 0].min() >= 10 - 1e-3
    assert values.max() <= 100 + 1e-3


def test_intensities_are_divided_by_the_99th_percentile_of_the_foreground():
    array = np.zeros((10, 10, 10), np.float32)
    array[:5] = np.arange(1, 501).reshape(5, 10, 10)
    prepared = volumes.prepare_scan(Volume(array, np.eye(4)))
    expected = array / np.percentile(np.arange(1, 501), 99)
    np.testing.assert_allclose(prepared.volume.array, expected, rtol=1e-6)
    assert prepared.volume.array.dtype == np.float32


def test_ct_is_shifted_so_that_air_is_zero():
    array = np.array([-2000, -1024, -1000, 0], np.float32).reshape(2, 2, 1)
    prepared = volumes.prepare_scan(Volume(array, np.eye(4)))
    restored = volumes.restore(prepared.volume.array, prepared, NEAREST)
    assert (restored.ravel() > 0).tolist() == [False, False, True, True]
    np.testing.assert_allclose(restored[1, 0, 0] / restored[1, 1, 0], 24 / 1024)


def test_what_is_ct_can_be_said():
    array = np.array([-600, 0, 5, 10], np.float32).reshape(2, 2, 1)
    as_mr = volumes.prepare_scan(Volume(array, np.eye(4)), is_ct=False)
    assert np.count_nonzero(as_mr.source_foreground) == 2
    as_ct = volumes.prepare_scan(Volume(array, np.eye(4)))
    assert np.count_nonzero(as_ct.source_foreground) == 4


def test_labels_outside_the_foreground_become_background():
    array = np.array([0, 5, 5, 0], np.float32).reshape(4, 1, 1)
    prepared = volumes.prepare_scan(Volume(array, np.eye(4)))
    labels = Volume(np.full((4, 1, 1), 3, np.uint8), np.eye(4))
    assert volumes.prepare_label_map(labels, prepared).ravel().tolist() == [0, 3, 3, 0]


# Files.


def save(path, array, affine=None, **codes):
    image = nib.Nifti1Image(array, np.eye(4) if affine is None else affine)
    for name, (matrix, code) in codes.items():
        getattr(image, f"set_{name}")(matrix, code)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("dtype", ["u1", "i2", "<i4", ">i2", "f4", ">f8"])
def test_scans_of_any_plain_type_are_read_as_float32(tmp_path, dtype):
    path = save(tmp_path / "scan.nii.gz", ranged().astype(dtype))
    scan = volumes.read_scan(path)
    assert scan.array.dtype == np.float32
    np.testing.assert_array_equal(scan.array, ranged())


def test_slope_and_intercept_are_applied(tmp_path):
    image = nib.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), np.eye(4))
    image.header.set_slope_inter(2.0, -3.0)
    nib.save(image, tmp_path / "scan.nii")
    raw = np.asarray(nib.load(tmp_path / "scan.nii").dataobj)
    np.testing.assert_allclose(volumes.read_scan(tmp_path / "scan.nii").array, raw)


def test_one_frame_is_squeezed_and_two_are_refused(tmp_path):
    one = save(tmp_path / "one.nii.gz", ranged()[..., None])
    assert volumes.read_scan(one).array.shape == SHAPE
    two = save(tmp_path / "two.nii.gz", np.repeat(ranged()[..., None], 2, axis=3))
    refuse(volumes.read_scan, two, "(3, 4, 5, 2)")


def refuse(read, path, *words):
    with pytest.raises(InputError) as refusal:
        read(path)
    message = str(refusal.value)
    assert "\n" not in message
    for word in (str(path), *words):
        assert word in message


def test_files_that_are_no_scan(tmp_path):
    refuse(volumes.read_scan, tmp_path / "missing.nii.gz", "No such file")
    refuse(volumes.read_scan, tmp_path, "directory")
    (tmp_path / "text.nii.gz").write_text("not a scan")
    refuse(volumes.read_scan, tmp_path / "text.nii.gz", "NIfTI")
    (tmp_path / "empty.nii").write_bytes(b"")
    refuse(volumes.read_scan, tmp_path / "empty.nii")
    (tmp_path / "scan.jpg").write_bytes(b"\xff\xd8 picture")
    refuse(volumes.read_scan, tmp_path / "scan.jpg", "NIfTI")


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_truncated_files(tmp_path, name):
    path = save(tmp_path / name, np.random.default_rng(0).random((20, 20, 20)))
    path.write_bytes(path.read_bytes()[:-5000])
    refuse(volumes.read_scan, path, "truncated")


def test_voxels_that_are_not_finite_are_counted(tmp_path):
    array = ranged()
    array[0, 0, :2] = [np.nan, np.inf]
    refuse(volumes.read_scan, save(tmp_path / "scan.nii.gz", array), "2 voxels")


def test_complex_and_colour_voxels(tmp_path):
    refuse(volumes.read_scan, save(tmp_path / "c.nii", np.zeros(SHAPE, np.complex64)), "complex64")
    colour = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    refuse(volumes.read_scan, save(tmp_path / "rgb.nii", colour), "plain numbers")


def test_a_header_that_claims_more_than_the_machine_has(tmp_path):
    path = save(tmp_path / "scan.nii", np.zeros((2, 2, 2), np.uint8))
    content = bytearray(path.read_bytes())
    content[42:48] = np.array([32767] * 3, "<i2").tobytes()
    path.write_bytes(content)
    refuse(volumes.read_scan, path, "(32767, 32767, 32767)", "GB")


def test_a_singular_affine(tmp_path):
    affine = np.diag([1.0, 1.0, 0.0, 1.0])
    path = tmp_path / "scan.nii"
    image = nib.Nifti1Image(ranged(), None)
    image.header.set_sform(affine, 1)
    nib.save(image, path)
    refuse(volumes.read_scan, path, "affine")


def test_a_scan_without_foreground():
    with pytest.raises(InputError, match="every voxel is 0"):
        volumes.prepare_scan(Volume(np.zeros(SHAPE, np.float32), np.eye(4)))


def test_labels_are_whole_numbers_in_the_smallest_type(tmp_path):
    small = volumes.read_label_map(save(tmp_path / "a.nii.gz", ranged()))
    assert small.array.dtype == np.uint8
    large = volumes.read_label_map(save(tmp_path / "b.nii.gz", ranged() * 100))
    assert large.array.dtype == np.int16
    refuse(volumes.read_label_map, save(tmp_path / "c.nii.gz", ranged() / 2), "whole")


def test_grids_that_differ_show_both():
    scan = Volume(ranged(), np.eye(4))
    volumes.check_same_grid(scan, scan, "scan.nii", "labels.nii")
    moved = np.eye(4)
    moved[0, 3] = 0.5
    for other, word in (
        (Volume(ranged((3, 4, 6)), np.eye(4)), "(3, 4, 6)"),
        (Volume(ranged(), moved), "0.5"),
    ):
        with pytest.raises(InputError) as refusal:
            volumes.check_same_grid(scan, other, "scan.nii", "labels.nii")
        assert all(w in str(refusal.value) for w in ("scan.nii", "labels.nii", "(3, 4, 5)", word))


def test_a_label_file_has_its_scans_grid_codes_and_units(tmp_path):
    sform, qform = affine_of("LPS", (1, 2, 3)), affine_of("LPS", (1, 2, 3))
    qform[:3, 3] += 1
    path = save(tmp_path / "scan.nii.gz", ranged(), sform=(sform, 4), qform=(qform, 1))
    scan = volumes.read_scan(path)
    labels = (ranged() % 9).astype(np.uint8)
    volumes.write_label_map(tmp_path / "labels.nii.gz", labels, scan)
    written = nib.load(tmp_path / "labels.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), labels)
    assert written.get_data_dtype() == np.uint8
    for name, code in (("sform", 4), ("qform", 1)):
        here = getattr(nib.load(path), f"get_{name}")(coded=True)
        there = getattr(written, f"get_{name}")(coded=True)
        np.testing.assert_allclose(there[0], here[0], atol=1e-6)
        assert (there[1], here[1]) == (code, code)
    np.testing.assert_allclose(written.affine, scan.affine, atol=1e-6)


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(image, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nib, "save", fail)
    with pytest.raises(InputError, match="No space left"):
        volumes.write_label_map(
            tmp_path / "labels.nii.gz", np.zeros(SHAPE, np.uint8), Volume(ranged(), np.eye(4))
        )
    assert not list(tmp_path.iterdir())


def test_real_scans_come_back_to_their_own_grid(real_data):
    scan = volumes.read_scan(real_data / "breast_mri" / "duke153_t1_tse.nii.gz")
    prepared = volumes.prepare_scan(scan, spacing_mm=2.0)
    assert nib.aff2axcodes(prepared.volume.affine) == ("R", "A", "S")
    np.testing.assert_allclose(prepared.volume.spacing_mm, 2)
    restored = volumes.restore(prepared.volume.array, prepared, LINEAR)
    assert restored.shape == scan.array.shape
    # Resampling blurs, but every structure is back in its place.
    inside = prepared.source_foreground
    assert np.corrcoef(restored[inside], scan.array[inside])[0, 1] > 0.97
