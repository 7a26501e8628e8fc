"""Geometry: every voxel keeps its value and its place, and comes back to its own grid."""

import itertools

import nibabel as nib
import numpy as np
import pytest
from nibabel import orientations

from mtseg.errors import InputError
from mtseg.inference.restoration import Restoration
from mtseg.scans import label_files, preprocessing, reading, resampling, volume
from mtseg.scans.resampling import CUBIC, LINEAR, NEAREST
from mtseg.scans.volume import Volume

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


def oblique_affine(spacing=(1.0, 1.2, 2.0), turn=np.pi / 9):
    rotation = np.array(
        [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag(spacing) @ np.diag([-1.0, 1.0, 1.0])
    affine[:3, 3] = (5, -7, 11)
    return affine


def value_at_places(volume):
    """World place of every value, to compare two volumes whatever their axes."""
    index = np.indices(volume.array.shape).reshape(3, -1)
    places = volume.affine[:3, :3] @ index + volume.affine[:3, 3:]
    order = np.argsort(volume.array.ravel())
    return places[:, order]


def brought_back(array, prepared):
    """The whole of an array (I, J, K) on the scan's own grid."""
    whole = tuple(slice(0, n) for n in array.shape)
    restoration = Restoration(prepared)
    restored = restoration.interpolate(array.astype(np.float32), whole, restoration.targets(whole))
    return volume.from_ras(restored, prepared.source.affine)


def labels_back(labels, prepared):
    """Labels on the scan's own grid: of each voxel the one that is nearest most."""
    values = np.unique(labels)
    return values[np.argmax([brought_back(labels == value, prepared) for value in values], axis=0)]


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_all_48_orientations_become_ras_and_come_back(codes):
    source = Volume(ranged(), affine_of(codes))
    canonical = volume.to_ras(source)
    assert nib.aff2axcodes(canonical.affine) == ("R", "A", "S")
    np.testing.assert_allclose(value_at_places(canonical), value_at_places(source))
    back = volume.from_ras(canonical.array, source.affine)
    np.testing.assert_array_equal(back, source.array)
    prepared = preprocessing.prepare_scan(source)
    np.testing.assert_array_equal(brought_back(canonical.array, prepared), source.array)
    assert prepared.source_foreground.shape == SHAPE


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.2, 2.0)])
def test_an_oblique_scan_keeps_its_own_axes_and_comes_back(spacing):
    source = Volume(ranged(), oblique_affine(spacing))
    canonical = volume.to_ras(source)
    np.testing.assert_allclose(value_at_places(canonical), value_at_places(source))
    back = volume.from_ras(canonical.array, source.affine)
    np.testing.assert_array_equal(back, source.array)
    prepared = preprocessing.prepare_scan(source)
    directions = prepared.volume.affine[:3, :3] / prepared.volume.spacing_mm
    np.testing.assert_allclose(
        directions, canonical.affine[:3, :3] / canonical.spacing_mm, atol=1e-12
    )
    labels = np.arange(60, dtype=np.uint8).reshape(SHAPE)
    there = preprocessing.prepare_label_map(Volume(labels, source.affine), prepared)
    np.testing.assert_array_equal(labels_back(there, prepared), labels)


def test_a_scan_prepared_at_its_own_spacing_is_not_interpolated():
    """Spacings within a thousandth of the asked one, each on its own side of it."""
    source = Volume(ranged(), np.diag([1.0009, 0.9995, 1.0, 1.0]))
    prepared = preprocessing.prepare_scan(source, 1.0)
    expected = source.array / np.percentile(source.array, 99).astype(np.float32)
    np.testing.assert_array_equal(prepared.volume.array, expected)
    np.testing.assert_array_equal(brought_back(source.array, prepared), source.array)


def test_label_map_and_scan_share_a_grid_where_voxel_counts_are_halves():
    """10.5 voxels are 10 or 11: a rounding error in a spacing must not decide differently."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        affine = oblique_affine(rng.choice([0.3, 0.45, 0.5, 0.7, 1.0, 1.25, 1.5], 3), rng.random())
        shape = tuple(rng.integers(1, 8, 3))
        array = rng.integers(0, 2, shape).astype(np.float32)
        array.flat[0] = 1
        prepared = preprocessing.prepare_scan(
            Volume(array, affine), float(rng.choice([0.5, 1.0, 2.0]))
        )
        labels = Volume(array.astype(np.uint8), affine + rng.normal(0, 1e-9, (4, 4)))
        there = preprocessing.prepare_label_map(labels, prepared)
        # Where a nearest neighbour is a tie, mask and labels take the same one.
        np.testing.assert_array_equal(there > 0, prepared.volume.array > 0)


def test_the_fields_of_view_share_their_centre():
    volume = Volume(np.zeros((7, 10, 5), np.float32), oblique_affine((1.0, 1.2, 2.0)))
    resampled = resampling.resample(volume, 0.9, LINEAR)
    assert resampled.array.shape == (8, 13, 11)

    def centre(v):
        return v.affine[:3] @ [*((np.array(v.array.shape) - 1) / 2), 1]

    np.testing.assert_allclose(centre(resampled), centre(volume), atol=1e-12)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SRA", "PIL"])
def test_labels_of_an_anisotropic_scan_come_back_exactly(codes):
    """Nearest to a finer grid and back is the identity."""
    source = Volume(ranged(), affine_of(codes, spacing=(1.0, 1.5, 2.0)))
    labels = Volume((ranged() % 7).astype(np.uint8), source.affine)
    prepared = preprocessing.prepare_scan(source, spacing_mm=0.5)
    there = preprocessing.prepare_label_map(labels, prepared)
    np.testing.assert_array_equal(labels_back(there, prepared), labels.array)


def test_same_spacing_is_left_as_it_is():
    volume = Volume(ranged(), np.diag([0.7, 0.7, 0.7, 1]))
    assert resampling.resample(volume, 0.7, CUBIC) is volume


def test_half_the_spacing_by_hand():
    """Two voxels 2 mm wide become four of 1 mm around the same centre."""
    volume = Volume(np.array([0.0, 4.0]).reshape(2, 1, 1), np.diag([2.0, 1.0, 1.0, 1.0]))
    linear = resampling.resample(volume, 1.0, LINEAR)
    np.testing.assert_allclose(linear.array.ravel(), [0, 1, 3, 4])
    nearest = resampling.resample(volume, 1.0, NEAREST)
    np.testing.assert_allclose(nearest.array.ravel(), [0, 0, 4, 4])
    np.testing.assert_allclose(linear.affine[:3, 3], [-0.5, 0, 0])
    np.testing.assert_allclose(linear.spacing_mm, 1)


def test_a_ramp_survives_cubic_resampling():
    """Away from the border, where values are repeated, a cubic spline is exact for a line."""
    volume = Volume(np.tile(np.arange(40.0), (3, 3, 1)), np.diag([1.0, 1.0, 1.0, 1.0]))
    resampled = resampling.resample(volume, 0.8, CUBIC)
    k = np.arange(resampled.array.shape[2]) * 0.8 + resampled.affine[2, 3]
    np.testing.assert_allclose(resampled.array[1, 1, 15:-15], k[15:-15], atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 4), (6, 1, 2)])
def test_tiny_volumes(shape):
    source = Volume(ranged(shape), np.diag([1.0, 2.0, 3.0, 1.0]))
    prepared = preprocessing.prepare_scan(source)
    assert brought_back(prepared.volume.array, prepared).shape == shape


def test_ringing_adds_no_foreground_and_no_overshoot():
    array = np.zeros((12, 12, 12), np.float32)
    array[4:8, 4:8, 4:8] = 100
    array[5, 5, 5] = 10
    prepared = preprocessing.prepare_scan(Volume(array, np.eye(4)), spacing_mm=0.4)
    values = prepared.volume.array * np.percentile(array[array > 0], 99)
    mask = resampling.resample(Volume((array > 0).astype(np.uint8), np.eye(4)), 0.4, NEAREST).array
    np.testing.assert_array_equal(prepared.volume.array > 0, mask > 0)
    assert values[mask > 0].min() >= 10 - 1e-3
    assert values.max() <= 100 + 1e-3


def test_nearest_invents_no_label():
    labels = np.random.default_rng(0).choice(np.array([0, 3, 200], np.uint8), (9, 8, 7))
    volume = Volume(labels, np.diag([1.0, 1.3, 2.1, 1.0]))
    resampled = resampling.resample(volume, 0.6, NEAREST).array
    assert resampled.dtype == np.uint8
    assert set(np.unique(resampled)) == {0, 3, 200}


def test_a_foreground_lost_between_the_voxels_of_a_coarse_grid():
    array = np.zeros((5, 5, 5), np.float32)
    array[0, 0, 0] = 7
    prepared = preprocessing.prepare_scan(Volume(array, np.eye(4)), spacing_mm=5.0)
    assert prepared.volume.array.tolist() == [[[0]]]
    assert np.count_nonzero(prepared.source_foreground) == 1


def test_preparing_leaves_the_scan_as_it_was():
    array = ranged()
    scan = Volume(array.copy(), np.eye(4))
    preprocessing.prepare_scan(scan)
    np.testing.assert_array_equal(scan.array, array)


@pytest.mark.parametrize("spacing_mm", [0.0, -1.0, np.nan, np.inf, 1e-320, 1e-4])
def test_voxel_sizes_that_cannot_be(spacing_mm):
    with pytest.raises(InputError, match="voxel size"):
        preprocessing.prepare_scan(Volume(ranged(), np.eye(4)), spacing_mm)


def test_arrays_of_another_grid_are_a_mistake_of_the_caller(tmp_path):
    source = Volume(ranged(), np.eye(4))
    prepared = preprocessing.prepare_scan(source, 0.5)
    for call in (
        lambda: preprocessing.prepare_label_map(Volume(ranged((3, 4, 6)), np.eye(4)), prepared),
        lambda: label_files.write_label_map(tmp_path / "a.nii", np.zeros((3, 4, 6), int), source),
    ):
        with pytest.raises(ValueError, match="shape"):
            call()
    assert not list(tmp_path.iterdir())


def test_intensities_are_divided_by_the_99th_percentile_of_the_foreground():
    array = np.zeros((10, 10, 10), np.float32)
    array[:5] = np.arange(1, 501).reshape(5, 10, 10)
    prepared = preprocessing.prepare_scan(Volume(array, np.eye(4)))
    expected = array / np.percentile(np.arange(1, 501), 99)
    np.testing.assert_allclose(prepared.volume.array, expected, rtol=1e-6)
    assert prepared.volume.array.dtype == np.float32


def test_ct_is_shifted_so_that_air_is_zero():
    array = np.array([-2000, -1024, -1000, 0], np.float32).reshape(2, 2, 1)
    prepared = preprocessing.prepare_scan(Volume(array, np.eye(4)))
    restored = brought_back(prepared.volume.array, prepared)
    assert (restored.ravel() > 0).tolist() == [False, False, True, True]
    np.testing.assert_allclose(restored[1, 0, 0] / restored[1, 1, 0], 24 / 1024)


def test_what_is_ct_can_be_said():
    array = np.zeros((10, 10, 10), np.float32)
    array[0, 0, :6] = -600  # more than one voxel in 200 decides
    array[5, 5, 5:7] = 5, 10
    as_mr = preprocessing.prepare_scan(Volume(array, np.eye(4)), is_ct=False)
    assert np.count_nonzero(as_mr.source_foreground) == 2
    as_ct = preprocessing.prepare_scan(Volume(array, np.eye(4)))
    assert np.count_nonzero(as_ct.source_foreground) == 1000
    assert (as_mr.is_ct, as_ct.is_ct) == (False, True)
    told = preprocessing.prepare_scan(Volume(array + 200, np.eye(4)), is_ct=True)
    assert np.count_nonzero(told.source_foreground) == 1000


def test_labels_outside_the_foreground_become_background():
    array = np.array([0, 5, 5, 0], np.float32).reshape(4, 1, 1)
    prepared = preprocessing.prepare_scan(Volume(array, np.eye(4)))
    labels = Volume(np.full((4, 1, 1), 3, np.uint8), np.eye(4))
    assert preprocessing.prepare_label_map(labels, prepared).ravel().tolist() == [0, 3, 3, 0]


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
    scan = reading.read_scan(path)
    assert scan.array.dtype == np.float32
    np.testing.assert_array_equal(scan.array, ranged())


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_slope_and_intercept_are_applied(tmp_path, name):
    image = nib.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), np.eye(4))
    image.header.set_slope_inter(2.0, -3.0)
    nib.save(image, tmp_path / name)
    stored = nib.load(tmp_path / name)
    np.testing.assert_array_equal(stored.dataobj.get_unscaled().ravel(), np.arange(8))
    array = reading.read_scan(tmp_path / name).array
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array.ravel(), 2 * np.arange(8) - 3)
    np.testing.assert_array_equal(
        label_files.read_label_map(tmp_path / name).array.ravel(), 2 * np.arange(8) - 3
    )


def test_a_scan_does_not_change_with_its_file(tmp_path):
    path = save(tmp_path / "scan.nii", ranged())
    scan = reading.read_scan(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    np.testing.assert_array_equal(scan.array, ranged())


def test_one_frame_is_squeezed_and_two_are_refused(tmp_path):
    one = save(tmp_path / "one.nii.gz", ranged()[..., None])
    assert reading.read_scan(one).array.shape == SHAPE
    two = save(tmp_path / "two.nii.gz", np.repeat(ranged()[..., None], 2, axis=3))
    refuse(reading.read_scan, two, "(3, 4, 5, 2)")
    five = save(tmp_path / "five.nii.gz", ranged()[..., None, None].repeat(2, axis=4))
    refuse(reading.read_scan, five, "(3, 4, 5, 1, 2)")
    flat = save(tmp_path / "flat.nii.gz", ranged()[..., 0])
    refuse(reading.read_scan, flat, "(3, 4)")


def refuse(read, path, *words):
    with pytest.raises(InputError) as refusal:
        read(path)
    message = str(refusal.value)
    assert "\n" not in message
    for word in (str(path), *words):
        assert word in message


def test_a_scan_without_foreground():
    with pytest.raises(InputError, match="every voxel is background"):
        preprocessing.prepare_scan(Volume(np.zeros(SHAPE, np.float32), np.eye(4)))


def test_grids_that_differ_show_both():
    scan = Volume(ranged(), np.eye(4))
    volume.check_same_grid(scan, scan, "scan.nii", "labels.nii")
    moved = np.eye(4)
    moved[0, 3] = 0.5
    for other, word in (
        (Volume(ranged((3, 4, 6)), np.eye(4)), "(3, 4, 6)"),
        (Volume(ranged(), moved), "0.5"),
    ):
        with pytest.raises(InputError) as refusal:
            volume.check_same_grid(scan, other, "scan.nii", "labels.nii")
        assert all(w in str(refusal.value) for w in ("scan.nii", "labels.nii", "(3, 4, 5)", word))


def test_grids_may_differ_by_a_thousandth_of_a_voxel():
    scan = Volume(ranged(), np.diag([0.5, 1.0, 2.0, 1.0]))
    for shift, is_same in ((4e-4, True), (6e-4, False)):
        moved = scan.affine.copy()
        moved[2, 3] += shift
        other = Volume(ranged(), moved)
        if is_same:
            volume.check_same_grid(scan, other, "scan.nii", "labels.nii")
        else:
            with pytest.raises(InputError, match=r"0\.0006 mm apart"):
                volume.check_same_grid(scan, other, "scan.nii", "labels.nii")


def test_a_label_file_has_its_scans_grid_codes_and_units(tmp_path):
    sform, qform = affine_of("LPS", (1, 2, 3)), affine_of("LPS", (1, 2, 3))
    qform[:3, 3] += 1
    image = nib.Nifti1Image(ranged(), sform)
    image.set_sform(sform, 4)
    image.set_qform(qform, 1)
    image.header.set_xyzt_units("mm", "sec")
    path = tmp_path / "scan.nii.gz"
    nib.save(image, path)
    scan = reading.read_scan(path)
    labels = (ranged() % 9).astype(np.uint8)
    label_files.write_label_map(tmp_path / "labels.nii.gz", labels, scan)
    written = nib.load(tmp_path / "labels.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), labels)
    assert written.get_data_dtype() == np.uint8
    for name, code in (("sform", 4), ("qform", 1)):
        here = getattr(nib.load(path), f"get_{name}")(coded=True)
        there = getattr(written, f"get_{name}")(coded=True)
        np.testing.assert_allclose(there[0], here[0], atol=1e-6)
        assert (there[1], here[1]) == (code, code)
    np.testing.assert_array_equal(written.affine, scan.affine)
    assert written.header.get_xyzt_units() == ("mm", "sec")
    # What the scan was prepared to holds all that a file needs of it.
    prepared = preprocessing.prepare_scan(scan)
    label_files.write_label_map(tmp_path / "again.nii.gz", labels, prepared.source)
    same = [(tmp_path / name).read_bytes() for name in ("labels.nii.gz", "again.nii.gz")]
    assert same[0] == same[1]


@pytest.mark.parametrize(("qform_code", "sform_code"), [(0, 0), (0, 2), (3, 0), (1, 4)])
def test_codes_of_every_kind_survive(tmp_path, qform_code, sform_code):
    affine = affine_of("PIL", (1, 2, 3))
    forms = {"qform": (affine, qform_code), "sform": (affine, sform_code)}
    path = save(tmp_path / "scan.nii", ranged(), affine, **forms)
    scan = reading.read_scan(path)
    label_files.write_label_map(tmp_path / "labels.nii", ranged().astype(int), scan)
    for name in ("labels.nii",):
        written = nib.load(tmp_path / name)
        codes = int(written.header["qform_code"]), int(written.header["sform_code"])
        assert codes == (qform_code, sform_code)
        np.testing.assert_array_equal(written.affine, scan.affine)


def test_an_odd_header_that_could_be_read_can_be_written(tmp_path):
    """Beside a sound sform: a quaternion that is none, and units that are not defined."""
    path = save(tmp_path / "scan.nii", ranged(), sform=(np.eye(4), 1), qform=(np.eye(4), 1))
    content = bytearray(path.read_bytes())
    content[256:260] = np.array(9.0, "<f4").tobytes()  # quatern_b
    content[123] = 255  # xyzt_units
    path.write_bytes(content)
    scan = reading.read_scan(path)
    label_files.write_label_map(tmp_path / "labels.nii", ranged().astype(int), scan)
    written = label_files.read_label_map(tmp_path / "labels.nii")
    np.testing.assert_array_equal(written.array, ranged())
    np.testing.assert_array_equal(written.affine, scan.affine)


@pytest.mark.parametrize(("label", "dtype"), [(255, "u1"), (256, "i2"), (-1, "i2"), (40000, "i4")])
def test_written_labels_keep_their_values(tmp_path, label, dtype):
    labels = np.array([0, label]).reshape(2, 1, 1)
    label_files.write_label_map(tmp_path / "a.nii", labels, Volume(np.zeros((2, 1, 1)), np.eye(4)))
    written = nib.load(tmp_path / "a.nii")
    assert written.get_data_dtype() == dtype
    np.testing.assert_array_equal(np.asarray(written.dataobj), labels)


@pytest.mark.parametrize(
    "name", ["missing/labels.nii", "file/labels.nii", "folder.nii", "labels.img", "labels"]
)
def test_paths_that_cannot_be_written(tmp_path, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.nii").mkdir()

    def write(path):
        label_files.write_label_map(path, np.zeros(SHAPE, int), Volume(ranged(), np.eye(4)))

    refuse(write, tmp_path / name)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder.nii"]


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(image, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nib, "save", fail)
    with pytest.raises(InputError, match="No space left"):
        label_files.write_label_map(
            tmp_path / "labels.nii.gz", np.zeros(SHAPE, np.uint8), Volume(ranged(), np.eye(4))
        )
    assert not list(tmp_path.iterdir())


def test_real_scans_come_back_to_their_own_grid(real_data):
    scan = reading.read_scan(real_data / "breast_mri" / "duke153_t1_tse.nii.gz")
    prepared = preprocessing.prepare_scan(scan, spacing_mm=2.0)
    assert nib.aff2axcodes(prepared.volume.affine) == ("R", "A", "S")
    np.testing.assert_allclose(prepared.volume.spacing_mm, 2)
    restored = brought_back(prepared.volume.array, prepared)
    assert restored.shape == scan.array.shape
    # Resampling blurs, but every structure is back in its place.
    inside = prepared.source_foreground
    assert np.corrcoef(restored[inside], scan.array[inside])[0, 1] > 0.97
