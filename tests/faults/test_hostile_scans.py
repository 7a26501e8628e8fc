"""Scans that are damaged or made to hurt: read soundly, or refused by one clear line."""

import contextlib
import gzip
import os
import struct
import tempfile
import time
import tracemalloc
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mtseg.cli import check, predict
from mtseg.cli import prepare as prepare_command
from mtseg.errors import InputError
from mtseg.scans.preprocessing import prepare_scan
from mtseg.scans.reading import read_scan
from tests.cli.test_bad_input import run
from tests.faults.fuzzed_scans import FIELDS, make_file

pytestmark = pytest.mark.promise("refused input")

NUM_FUZZED = 6_000
MOST_SECONDS = 10.0


def prepare(path):
    """A scan's prepared voxels, or the line that refuses it."""
    try:
        return prepare_scan(read_scan(path), may_overwrite=True).volume.array, None
    except InputError as error:
        return None, str(error)


@pytest.mark.slow
@pytest.mark.promise("refused input", kind="fuzzed")
@pytest.mark.parametrize("part", range(6))
def test_fuzzed_files_are_read_soundly_or_refused(tmp_path, part, record_property):
    outcomes = {"read": 0, "refused": 0}
    per_part = NUM_FUZZED // 6
    record_property("cases", per_part)
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
    refused(tmp_path / "scan.nii", "is not a file")


def test_a_link_that_leads_nowhere(tmp_path):
    (tmp_path / "scan.nii").symlink_to(tmp_path / "gone.nii")
    refused(tmp_path / "scan.nii", "No such file")


@pytest.mark.parametrize("name", ["a b.nii", "Gehirn-ä-脳.nii.gz", "line\nbreak.nii"])
def test_names_of_any_kind(tmp_path, name):
    array, _ = prepare(save(tmp_path / name))
    assert array.shape == (3, 4, 5)


def claim(path, **fields):
    """A sound file with other values in its header."""
    save(path)
    content = bytearray(path.read_bytes())
    for name, value in fields.items():
        place, code, _ = FIELDS[name]
        values = value if isinstance(value, (list, tuple)) else [value]
        content[place : place + struct.calcsize(code) * len(values)] = struct.pack(
            f"<{len(values)}{code}", *values
        )
    path.write_bytes(content)
    return path


def test_more_voxels_than_the_machine_has_memory_for(tmp_path):
    path = claim(tmp_path / "scan.nii", dim=[3, 32767, 32767, 32767])
    refused(path, "(32767, 32767, 32767)")
    refused(path, "GB")  # how much it would need


@pytest.mark.parametrize(
    "dim",
    [
        [3, -5, 4, 5], [3, 0, 4, 5], [0, 3, 4, 5], [7, 3, 4, 5, 2, 2, 2, 2], [2, 3, 4],
        [5, 3, 4, 5, 1, 3], [4, 3, 4, 5, 2], [8, 3, 4, 5], [-3, 3, 4, 5],
    ],
    ids=str,
)  # fmt: skip
def test_sizes_that_are_those_of_no_scan(tmp_path, dim):
    refused(claim(tmp_path / "scan.nii", dim=dim), "scan.nii")


@pytest.mark.parametrize("datatype", [0, 1, 32, 128, 1792, 2304, 1536, 2048, 77])
def test_types_that_are_no_plain_numbers(tmp_path, datatype):
    """Binary, complex, colour, and numbers that are those of no type."""
    refused(claim(tmp_path / "scan.nii", datatype=datatype), "scan.nii")


def test_a_file_that_inflates_to_a_thousand_times_its_size(tmp_path):
    path = tmp_path / "scan.nii.gz"
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    image.header.set_data_shape((8000, 8000, 8000))
    with gzip.open(path, "wb") as file:
        file.write(image.header.binaryblock + bytes(4))
        file.write(bytes(600_000_000))
    assert path.stat().st_size < 700_000
    tracemalloc.start()
    refused(path, "GB")  # of its header alone
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def test_the_other_byte_order_is_the_same_scan(tmp_path):
    array = np.arange(1, 61, dtype=np.int16).reshape(3, 4, 5)
    little, _ = prepare(save(tmp_path / "little.nii", array=array))
    big_endian = nib.Nifti1Header(endianness=">")
    nib.save(nib.Nifti1Image(array.astype(">i2"), np.eye(4), big_endian), tmp_path / "big.nii")
    big, _ = prepare(tmp_path / "big.nii")
    np.testing.assert_array_equal(big, little)


def test_a_header_of_one_byte_order_and_sizes_of_the_other(tmp_path):
    path = save(tmp_path / "scan.nii")
    content = bytearray(path.read_bytes())
    content[40:56] = np.frombuffer(content[40:56], "<i2").astype(">i2").tobytes()
    path.write_bytes(content)
    refused(path, "scan.nii")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_voxel_that_is_not_finite(tmp_path, value):
    array = np.ones((3, 4, 5), np.float32)
    array[1, 2, 3] = value
    refused(save(tmp_path / "scan.nii", array=array), "1 voxels are NaN or infinite")


def test_intensities_smaller_than_any_normal_number(tmp_path):
    array = np.full((3, 4, 5), 1e-42, np.float32)
    prepared, refusal = prepare(save(tmp_path / "scan.nii", array=array))
    assert refusal is not None or np.isfinite(prepared).all()


@pytest.mark.parametrize("slope", [1e38, -1e38, 3e38, np.inf, np.nan])
def test_a_slope_beyond_numbers(tmp_path, slope):
    prepared, refusal = prepare(claim(tmp_path / "scan.nii", scl_slope=slope))
    assert refusal is not None or np.isfinite(prepared).all()


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 5), (64, 64, 1), (1, 1, 90)], ids=str)
@pytest.mark.parametrize("value", [7, 0])
def test_few_voxels_and_constant_images(tmp_path, shape, value):
    path = save(tmp_path / "scan.nii", array=np.full(shape, value, np.int16))
    if value:
        array, _ = prepare(path)
        assert array.shape == shape
        np.testing.assert_allclose(array, 1)
    else:
        assert "nothing to segment" in prepare(path)[1]


def test_a_folder_with_the_name_of_a_scan(tmp_path):
    (tmp_path / "scan.nii").mkdir()
    refused(tmp_path / "scan.nii", "no DICOM image")


def test_a_file_that_may_not_be_read():
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        path = save(Path(folder) / "scan.nii")
        assert prepare(path)[1] is None
        path.chmod(0)
        if os.geteuid() == 0:  # who may read everything: for a moment as nobody
            Path(folder).chmod(0o755)
            stack.callback(os.seteuid, 0)
            os.seteuid(65534)
        refused(path, "Permission denied")


COMMANDS = {
    "check": (check, "TASK:folder", "DIR"),
    "prepare": (prepare_command, "TASK:folder", "--manual-dir", "DIR", "--data-dir", "OUT"),
    "predict": (predict, "DIR/images/1.nii", "-o", "OUT"),
}


def damaged(path, kind):
    if kind == "cut short":
        path.write_bytes(save(path).read_bytes()[:-30])
    elif kind == "no scan":
        path.write_bytes(b"nothing of the kind" * 50)
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "nowhere":
        path.symlink_to(path.with_name("gone.nii"))
    elif kind == "too large":
        claim(path, dim=[3, 32767, 32767, 32767])
    elif kind == "not finite":
        save(path, array=np.full((3, 4, 5), np.nan, np.float32))
    elif kind == "nothing in it":
        save(path, array=np.zeros((3, 4, 5), np.int16))


TASK = """
name = "own"
title = "T"
modality = "MR"
citation = "C"
decision = "argmax"
spacing = { rule = "finest" }
classes = [{ name = "tissue", title = "T" }]
sources.folder = { labels = { background = [0], tissue = [1] }, split = { test_share = 0.5 } }
"""


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "kind",
    ["cut short", "no scan", "a pipe", "nowhere", "too large", "not finite", "nothing in it"],
)
def test_every_command_that_reads_scans_refuses_it(tmp_path, capsys, command, kind):
    folder = tmp_path / "scans"
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
        for subject in ("1", "2"):
            save(folder / name / f"{subject}.nii", array=np.ones((3, 4, 5), np.uint8))
    path = folder / "images" / "1.nii"
    path.unlink()
    damaged(path, kind)
    (tmp_path / "task.toml").write_text(TASK)
    places = {"TASK": tmp_path / "task.toml", "DIR": folder, "OUT": tmp_path / "out"}
    module, *words = COMMANDS[command]
    for name, place in places.items():
        words = [word.replace(name, str(place)) for word in words]
    code, lines = run(module, capsys, *words)
    assert code == 2, lines
    assert not [line for line in lines if "Traceback" in line]
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not [path for path in written if ".config" not in path.parts]
