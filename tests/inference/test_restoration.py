"""The way back to a scan's own grid: interpolation that keeps curves, however it is divided."""

import itertools
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from mtseg.errors import InputError
from mtseg.inference.restoration import Restoration
from mtseg.inference.tiling import ABOVE, BELOW, plan_tiles
from mtseg.prediction.probabilities import ProbabilityFile
from mtseg.scans.preprocessing import prepare_scan
from mtseg.scans.reading import read_scan
from mtseg.scans.resampling import LinearAxis
from mtseg.scans.volume import Volume, to_ras


def make_prepared(spacing=(1.0, 1.3, 2.1), new_mm=0.8, shape=(9, 8, 7)):
    array = np.random.default_rng(0).uniform(1, 2, shape).astype(np.float32)
    return prepare_scan(Volume(array, np.diag([-spacing[0], spacing[1], spacing[2], 1.0])), new_mm)


@pytest.mark.parametrize(("spacing", "new_mm"), [((1.0, 1.3, 2.1), 0.8), ((0.5, 0.5, 0.7), 1.0)])
def test_it_is_scipys_linear_interpolation(spacing, new_mm):
    prepared = make_prepared(spacing, new_mm)
    values = np.random.default_rng(1).random(prepared.volume.array.shape, dtype=np.float32)
    whole = tuple(slice(0, n) for n in values.shape)
    restoration = Restoration(prepared)
    targets = restoration.targets(whole)
    assert targets == tuple(slice(0, n) for n in prepared.source.array.shape)
    restored = restoration.interpolate(values, whole, targets)
    step = np.divide(spacing, new_mm)
    first = (np.array(values.shape) - 1) / 2 - (np.array(restored.shape) - 1) / 2 * step
    expected = ndimage.affine_transform(
        values, step, offset=first, output_shape=restored.shape, order=1, mode="nearest"
    )
    np.testing.assert_allclose(restored, expected, atol=1e-5)


@pytest.mark.parametrize("new_mm", [0.3, 0.8, 1.0, 1.7])
def test_blocks_join_to_the_whole_to_the_bit(new_mm):
    prepared = make_prepared(new_mm=new_mm, shape=(12, 11, 9))
    values = np.random.default_rng(1).random(prepared.volume.array.shape, dtype=np.float32)
    restoration = Restoration(prepared)
    whole = tuple(slice(0, n) for n in values.shape)
    expected = restoration.interpolate(values, whole, restoration.targets(whole))
    joined = np.full(expected.shape, np.nan, np.float32)
    parts = [[slice(0, n // 3), slice(n // 3, n // 2), slice(n // 2, n)] for n in values.shape]
    for core in itertools.product(*parts):
        computed = tuple(
            slice(c.start, min(c.stop + 1, n)) for c, n in zip(core, values.shape, strict=True)
        )
        targets = restoration.targets(core)
        assert np.isnan(joined[targets]).all()
        joined[targets] = restoration.interpolate(values[computed], computed, targets)
    np.testing.assert_array_equal(joined, expected)


def restore_tile(prepared, probabilities, core=None):
    """The slabs in which probabilities (num_classes, I, J, K) come on the scan's grid."""
    sizes = prepared.volume.array.shape
    core = core or tuple(slice(0, n) for n in sizes)
    computed = tuple(
        slice(max(c.start - BELOW, 0), min(c.stop + ABOVE, n))
        for c, n in zip(core, sizes, strict=True)
    )
    restoration = Restoration(prepared)
    targets = restoration.targets(core)
    mask = prepared.volume.array[computed] > 0
    rows = np.moveaxis(probabilities[(slice(None), *computed)], 0, -1)[mask]
    return list(restoration.restore(rows, mask, computed, targets))


def random_probabilities(prepared, num_classes=3):
    logits = np.random.default_rng(2).normal(0, 5, (num_classes, *prepared.volume.array.shape))
    powers = np.exp(logits)
    return (powers / powers.sum(axis=0)).astype(np.float32)


@pytest.mark.parametrize(("mm", "steepness"), [(0.25, 6), (0.125, 10)])
def test_a_surface_between_two_voxels_stays_where_it_is(mm, steepness):
    """A finer scan that was computed at 1 mm, of a thing that begins at 5.2 mm."""
    array = np.ones((round(10 / mm), 4, 4), np.float32)
    prepared = prepare_scan(Volume(array, np.diag([mm, 1, 1, 1])), 1.0)
    place_mm = prepared.volume.affine[0, 3] + np.arange(10)  # 0.375, 1.375, ...
    inside = 1 / (1 + np.exp(-steepness * (place_mm - 5.2)))
    probability = np.broadcast_to(inside[:, None, None], (10, 4, 4))
    ((_, restored),) = restore_tile(prepared, np.stack([1 - probability, probability]))
    found_mm = mm * np.flatnonzero(restored[1, :, 2, 2] >= 0.5)
    # Halfway between the voxels, at 4.375 and 5.375 mm, would be 4.875 mm.
    assert found_mm[0] == 5.25


def test_a_curve_is_kept_between_the_voxels():
    """A scan of 0.5 mm that was computed at 1 mm: log-odds that are a parabola along each axis."""
    prepared = prepare_scan(Volume(np.ones((16, 16, 16), np.float32), np.diag([0.5] * 3 + [1])), 1)

    def inside(n, mm):  # half is reached 2.5 mm from the middle
        place = (np.arange(n) - (n - 1) / 2) * mm
        square = place[:, None, None] ** 2 + place[:, None] ** 2 + place**2
        return 1 / (1 + np.exp((square - 2.5**2) / 4)).astype(np.float32)

    coarse, fine = inside(8, 1.0), inside(16, 0.5)
    ((_, restored),) = restore_tile(prepared, np.stack([1 - coarse, coarse]))
    middle = slice(3, 13)  # at the border there is no second difference
    found, expected = restored[1, middle, middle, middle], fine[middle, middle, middle]
    np.testing.assert_allclose(found, expected, atol=0.01)
    # Straight lines between the voxels would run inside of the ball and lose an eighth of it.
    assert (found >= 0.5).sum() == (expected >= 0.5).sum()


def test_a_voxel_of_twice_the_size_is_the_mean_of_those_in_it():
    """A scan of 2 mm that was computed at 1 mm: 8 voxels in each of its own, taken alike."""
    prepared = prepare_scan(Volume(np.ones((6, 6, 6), np.float32), np.diag([2.0] * 3 + [1])), 1)
    probabilities = random_probabilities(prepared, 2)
    ((_, restored),) = restore_tile(prepared, probabilities)
    logarithms = np.log(probabilities + 0.01).reshape(2, 6, 2, 6, 2, 6, 2).mean(axis=(2, 4, 6))
    is_second = logarithms[1] > logarithms[0]
    np.testing.assert_array_equal(restored[1] > restored[0], is_second)


def test_a_structure_reaches_as_far_as_the_foreground():
    """A scan of 0.5 mm that was computed at 1 mm: a structure that fills all of the foreground."""
    array = np.zeros((20, 4, 4), np.float32)
    array[6:15] = 1
    prepared = prepare_scan(Volume(array, np.diag([0.5, 1.0, 1.0, 1.0])), 1.0)
    is_foreground = (prepared.volume.array > 0).astype(np.float32)
    ((_, restored),) = restore_tile(prepared, np.stack([1 - is_foreground, is_foreground]))
    assert (restored[1, 6:15] > 0.99).all()
    assert (restored[0, :5] == 1).all()


def test_probabilities_add_up_to_1_and_are_kept_at_the_voxels_that_were_computed():
    prepared = make_prepared((0.5, 0.5, 0.5), 1.5, shape=(15, 12, 9))
    probabilities = random_probabilities(prepared)
    ((_, restored),) = restore_tile(prepared, probabilities)
    np.testing.assert_allclose(restored.sum(axis=0), 1, atol=1e-5)
    assert restored.min() >= 0
    # The middle one of three voxels along each axis. The axes of the result are RAS+.
    np.testing.assert_allclose(restored[:, 1::3, 1::3, 1::3], probabilities, atol=1e-5)


def test_probabilities_of_excluded_classes_do_not_go_to_the_others():
    prepared = make_prepared((0.5, 0.5, 0.5), 1.5, shape=(15, 12, 9))
    probabilities = np.zeros((3, *prepared.volume.array.shape), np.float32)
    probabilities[0], probabilities[1] = 0.1, 0.4
    ((_, restored),) = restore_tile(prepared, probabilities)
    np.testing.assert_allclose(restored[:, 4, 5, 6], [0.1, 0.4, 0], atol=1e-5)


def test_on_the_same_grid_probabilities_are_those_that_were_computed():
    prepared = make_prepared((1.0, 1.0, 1.0), 1.0)
    probabilities = random_probabilities(prepared)
    ((_, restored),) = restore_tile(prepared, probabilities)
    np.testing.assert_array_equal(restored, probabilities)


@pytest.mark.parametrize("new_mm", [0.6, 1.0, 1.7])
def test_slabs_and_tiles_change_no_probability(new_mm, monkeypatch):
    array = np.random.default_rng(0).uniform(-1, 2, (12, 11, 9)).astype(np.float32)
    prepared = prepare_scan(Volume(np.maximum(array, 0), np.diag([-1.0, 1.3, 2.1, 1.0])), new_mm)
    probabilities = random_probabilities(prepared)
    ((_, expected),) = restore_tile(prepared, probabilities)
    joined = np.full_like(expected, np.nan)
    monkeypatch.setattr("mtseg.inference.restoration._SLAB_VALUES", 700)
    sizes = prepared.volume.array.shape
    parts = [[slice(0, n // 3), slice(n // 3, n // 2), slice(n // 2, n)] for n in sizes]
    for core in itertools.product(*parts):
        for slab, restored in restore_tile(prepared, probabilities, core):
            assert np.isnan(joined[(slice(None), *slab)]).all()
            joined[(slice(None), *slab)] = restored
    np.testing.assert_array_equal(joined, expected)


@pytest.mark.parametrize("new_mm", [0.6, 1.0, 1.6])
def test_every_source_voxel_near_foreground_belongs_to_a_tile(new_mm):
    array = np.zeros((20, 20, 20), np.float32)
    array[5:9, 7:15, 6:12] = 1
    prepared = prepare_scan(Volume(array, np.diag([1.0, 1.0, 1.3, 1.0])), new_mm)
    restoration = Restoration(prepared)
    plan = plan_tiles(prepared.volume.array, 2, "float32", is_interpolated=True)
    reached = np.zeros(array.shape, bool)
    for tile in plan.tiles:
        reached[restoration.targets(tile.core)] = True
    mask = (prepared.volume.array > 0).astype(np.float32)
    whole = tuple(slice(0, n) for n in mask.shape)
    touched = restoration.interpolate(mask, whole, restoration.targets(whole)) > 0
    assert reached[touched].all()


def test_the_same_grid_is_not_interpolated():
    scan = Volume(np.arange(1, 61, dtype=np.float32).reshape(3, 4, 5), np.diag([-1.0, 1, -1, 1]))
    restoration = Restoration(prepare_scan(scan))
    assert restoration.is_identity
    values = np.random.default_rng(0).random((3, 4, 5), dtype=np.float32)
    block = restoration.interpolate(values[1:2], (slice(1, 2), slice(0, 4), slice(0, 5)),
                              (slice(1, 2), slice(0, 4), slice(0, 5)))  # fmt: skip
    np.testing.assert_array_equal(block, values[1:2])


def test_an_axis_by_hand():
    axis = LinearAxis.between(2, 4, 0.5)  # two voxels become four: at -1/4, 1/4, 3/4 and 5/4
    assert axis.lower.tolist() == [0, 0, 0, 1]
    assert axis.weight.tolist() == [0, 0.25, 0.75, 0]
    values = np.array([0, 4], np.float32)
    assert axis.apply(values, 0, 0, slice(0, 4)).tolist() == [0, 1, 3, 4]
    assert axis.targets(slice(1, 2)) == slice(3, 4)


def test_probabilities_reach_the_file_by_blocks_and_in_the_scans_axes(tmp_path):
    affine = np.array([[0, 0, -2.0, 0], [1, 0, 0, 0], [0, 3, 0, 0], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(np.ones((4, 5, 6), np.int16), affine), tmp_path / "scan.nii")
    source = read_scan(tmp_path / "scan.nii")
    shape = to_ras(source).array.shape
    values = np.random.default_rng(0).random(shape)
    path = tmp_path / "p.nii.gz"
    with ProbabilityFile(path, source, 2) as file:
        half = (slice(0, 3), slice(0, shape[1]), slice(0, shape[2]))
        for class_index, probability in ((0, 1 - values), (1, values)):
            file.put(class_index, half, probability[half])
        file.finish()
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["p.nii.gz", "scan.nii"]
    written = nib.load(path)
    assert written.shape == (4, 5, 6, 2)
    np.testing.assert_array_equal(written.affine, affine)
    for class_index, (inside, outside) in enumerate([(1 - values, 1), (values, 0)]):
        found = to_ras(Volume(written.get_fdata()[..., class_index], affine)).array
        np.testing.assert_allclose(found[:3], inside[:3], atol=0.5 / 255 + 1e-6)
        np.testing.assert_allclose(found[3:], outside, atol=1e-6)


def test_an_unfinished_probability_file_is_removed(tmp_path):
    source = Volume(np.ones((2, 2, 2)), np.eye(4))
    with pytest.raises(RuntimeError), ProbabilityFile(tmp_path / "p.nii.gz", source, 2):
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with (
        pytest.raises(InputError, match=r"p\.nii\.gz: cannot be written"),
        ProbabilityFile(tmp_path / "missing" / "p.nii.gz", source, 2),
    ):
        pass


# Of this size the file has room for its first class alone. It is gone with the process.
ON_A_SMALL_DISK = """
mount -t tmpfs -o size=1m tmpfs "$0" || exit 99
exec "$@" "$0"
"""

TWELVE_CLASSES = """
import sys
from pathlib import Path
import numpy as np
from mtseg.errors import InputError
from mtseg.prediction.probabilities import ProbabilityFile
from mtseg.scans.volume import Volume
try:
    source = Volume(np.zeros((64, 64, 64), np.int16), np.eye(4))
    with ProbabilityFile(Path(sys.argv[1]) / "p.nii.gz", source, 12) as file:
        block = (slice(0, 64),) * 3
        for index in range(12):
            file.put(index, block, np.random.default_rng(0).random((64, 64, 64)))
except InputError as error:
    print(error)
print(list(Path(sys.argv[1]).iterdir()))
"""


@pytest.mark.promise("scarcity is one line")
def test_a_disk_without_room_for_probabilities_is_one_line(tmp_path):
    if shutil.which("unshare") is None:
        pytest.skip("no disk can be made here: there is no unshare")
    shell = ["unshare", "--map-root-user", "--mount", "sh", "-c", ON_A_SMALL_DISK, tmp_path]
    result = subprocess.run(
        [*shell, sys.executable, "-c", TWELVE_CLASSES], capture_output=True, text=True
    )
    if result.returncode == 99 or "unshare:" in result.stderr:
        pytest.skip(f"no disk can be made here: {result.stderr.splitlines()[0]}")
    assert "p.nii.gz: cannot be written (No space left on device)" in result.stdout, result
    assert result.stdout.endswith("[]\n")  # and nothing is left
