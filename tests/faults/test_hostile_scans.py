"""Scans that are damaged or made to hurt: read soundly, or refused by one clear line."""

import os
import time
import warnings

import nibabel as nib
import numpy as np
import pytest

from mtseg.errors import InputError
from mtseg.prepared_scan import prepare_scan
from mtseg.scan_files import read_scan
from tests.faults.fuzzed_scans import make_file

NUM_FUZZED = 6_000
MOST_SECONDS = 10.0


def prepare(path):
    """A scan's prepared voxels, or the line that refuses it."""
    try:
        return prepare_scan(read_scan(path), may_overwrite=True).volume.array, None
    except InputError as error:
        return None, str(error)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(6))
def test_fuzzed_files_are_read_soundly_or_refused(tmp_path, part):
    outcomes = {"read": 0, "refused": 0}
    per_part = NUM_FUZZED // 6
    # nibabel warns of an extension that is no multiple of 16 bytes, and reads it.
    warnings.filterwarnings("ignore", message="Extension size is not a multiple")
    for number in range(part * per_part, (part + 1) * per_part):
        name, content = make_file(number)
        path = tmp_path / name
        path.write_bytes(content)
        started = time.monotonic()
        try:
            array, refusal = prepare(path)
        except Exception as error:
            raise AssertionError(f"fuzzed file {number}: {error!r}") from error
        assert time.monotonic() - started < MOST_SECONDS, number
        if refusal is None:
            assert np.isfinite(array).all(), number
            assert array.max() > 0, number
            outcomes["read"] += 1
        else:
            assert "\n" not in refusal, number
            outcomes["refused"] += 1
    assert min(outcomes.values()) > per_part // 10  # both ways are tried


def save(path, affine=None, array=None):
    array = np.arange(1, 61, dtype=np.int16).reshape(3, 4, 5) if array is None else array
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def refused(path, expected):
    _, refusal = prepare(path)
    assert refusal is not None
    assert expected in refusal
    assert str(path) in refusal


@pytest.mark.parametrize(
    "affine",
    [np.diag([1e6, 1, 1, 1]), np.diag([0.003, 1, 2, 1]), np.diag([200, 200, 200, 1])],
    ids=["long", "thin", "large"],
)
def test_voxels_of_absurd_size(tmp_path, affine):
    refused(save(tmp_path / "scan.nii", affine), "Correct the header")


def test_axes_that_nearly_coincide(tmp_path):
    affine = np.eye(4)
    affine[2, 0] = 50
    refused(save(tmp_path / "scan.nii", affine), "singular affine")


def test_a_tilted_gantry_is_taken(tmp_path):
    affine = np.eye(4)
    affine[1, 2] = np.tan(np.radians(30))
    array, _ = prepare(save(tmp_path / "scan.nii", affine))
    assert array is not None


def test_intensities_that_no_sum_can_hold(tmp_path):
    array = np.full((3, 4, 5), 1e38, np.float32)
    refused(save(tmp_path / "scan.nii", array=array), "has an intensity of 1e+38")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "scan.nii")
    refused(tmp_path / "scan.nii", "is no file")


def test_a_link_that_leads_nowhere(tmp_path):
    (tmp_path / "scan.nii").symlink_to(tmp_path / "gone.nii")
    refused(tmp_path / "scan.nii", "No such file")


@pytest.mark.parametrize("name", ["a b.nii", "Gehirn-ä-脳.nii.gz", "line\nbreak.nii"])
def test_names_of_any_kind(tmp_path, name):
    array, _ = prepare(save(tmp_path / name))
    assert array.shape == (3, 4, 5)
