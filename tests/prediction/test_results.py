"""A scan counts as done only if nothing that decides its results has changed."""

import gzip
import json
import os

import nibabel as nib
import numpy as np
import pytest

from mtseg.errors import InputError
from mtseg.prediction.probabilities import ProbabilityFile
from mtseg.prediction.results import (
    describe_scan_files,
    dicom_seg_path,
    is_done,
    label_path,
    made_from,
    preview_path,
    probabilities_path,
    refuse_other_scan,
    refuse_results_that_are_scans,
    unprocessed_path,
    verdict_path,
)
from mtseg.scans.reading import scan_stem
from mtseg.scans.volume import Volume
from mtseg.system.checksums import file_checksum


@pytest.fixture
def stem(tmp_path):
    scan = tmp_path / "scan.nii"
    scan.write_bytes(b"voxels")
    stem = tmp_path / "out" / "scan"
    stem.parent.mkdir()
    label_path(stem).write_bytes(b"labels")
    verdict_path(stem).write_text(json.dumps({"made_from": wanted(scan)}))
    return stem


def wanted(scan, model_id="m", precision="float32", check="c", **options):
    model = {"model_id": model_id, "voxel_sizes_and_check": check}
    options = {"spacing_mm": None, **options}
    return made_from(describe_scan_files(scan), model, precision, options)


def test_the_same_again_is_done(stem, tmp_path):
    assert label_path(stem).name == "scan_labels.nii.gz"
    assert is_done(stem, wanted(tmp_path / "scan.nii"))


@pytest.mark.parametrize(
    "changes",
    [{"model_id": "n"}, {"precision": "bfloat16"}, {"spacing_mm": 1.0}, {"check": "d"}],
)
def test_another_model_or_option_is_not(stem, tmp_path, changes):
    assert not is_done(stem, wanted(tmp_path / "scan.nii", **changes))


def test_a_changed_scan_is_not(stem, tmp_path):
    scan = tmp_path / "scan.nii"
    scan.write_bytes(b"more voxels")
    assert not is_done(stem, wanted(scan))


def test_a_scan_of_another_time_is_not(stem, tmp_path):
    scan = tmp_path / "scan.nii"
    os.utime(scan, (1, 1))
    assert not is_done(stem, wanted(scan))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"made_from": 1}'])
def test_a_verdict_that_does_not_say_is_not(stem, tmp_path, text):
    verdict_path(stem).write_text(text)
    assert not is_done(stem, wanted(tmp_path / "scan.nii"))


def test_without_labels_nothing_is_done(stem, tmp_path):
    label_path(stem).unlink()
    assert not is_done(stem, wanted(tmp_path / "scan.nii"))


def test_withheld_labels_are_done_for_a_strict_command_alone(stem, tmp_path):
    label_path(stem).unlink()
    stored = {"made_from": wanted(tmp_path / "scan.nii"), "warning": "w", "labels_withheld": "w"}
    verdict_path(stem).write_text(json.dumps(stored))
    assert is_done(stem, wanted(tmp_path / "scan.nii"), is_strict=True)
    assert not is_done(stem, wanted(tmp_path / "scan.nii"))


def test_labels_with_a_warning_are_not_done_for_a_strict_command(stem, tmp_path):
    stored = {"made_from": wanted(tmp_path / "scan.nii"), "warning": "w"}
    verdict_path(stem).write_text(json.dumps(stored))
    assert is_done(stem, wanted(tmp_path / "scan.nii"))
    assert not is_done(stem, wanted(tmp_path / "scan.nii"), is_strict=True)


def test_a_model_that_cannot_be_told_from_others_never_is(stem, tmp_path):
    scan = tmp_path / "scan.nii"
    verdict_path(stem).write_text(json.dumps({"made_from": wanted(scan, model_id=None)}))
    assert not is_done(stem, wanted(scan, model_id=None))


@pytest.mark.parametrize("damage", ["another program's table", "header", "compression"])
def test_a_label_file_of_another_program_is_not_replaced(tmp_path, damage):
    """Nor a damaged one, of which nobody knows whose it is."""
    path = label_path(tmp_path / "scan")
    image = nib.Nifti1Image(np.ones((3, 2, 2), np.int16), np.eye(4))
    table = b'<CaretExtension><LabelTable><Label Key="1">a</Label></LabelTable></CaretExtension>'
    image.header.extensions.append(nib.nifti1.Nifti1Extension(30, table))  # of Caret alone
    nib.save(image, path)
    if damage == "header":
        content = bytearray(gzip.decompress(path.read_bytes()))
        content[70] = 3  # a type of numbers that there is not
        path.write_bytes(gzip.compress(content))
    if damage == "compression":
        content = bytearray(path.read_bytes())
        content[12:60] = bytes([255] * 48)
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"scan_labels\.nii\.gz: was not written by mtseg"):
        refuse_other_scan(tmp_path / "scan", tmp_path / "scan.nii.gz")


def test_a_series_is_all_of_its_files(tmp_path):
    for name in ("1.dcm", "2.dcm"):
        (tmp_path / name).write_bytes(b"12345")
    before = wanted(tmp_path)
    assert before["scan_bytes"] == 10
    (tmp_path / "3.dcm").write_bytes(b"1")
    assert wanted(tmp_path) != before


def test_voxels_beside_their_header_are_part_of_a_scan(tmp_path):
    header, voxels = tmp_path / "scan.mhd", tmp_path / "scan.raw"
    header.write_text("NDims = 3\nElementDataFile = scan.raw\n")
    voxels.write_bytes(b"12345")
    before = wanted(header)
    voxels.write_bytes(b"54321")
    assert wanted(header) != before


@pytest.mark.parametrize(
    ("option", "path_of"),
    [("use_probabilities", probabilities_path), ("use_dicom_seg", dicom_seg_path)],
)
def test_a_file_that_is_asked_for_and_was_removed_is_made_again(stem, tmp_path, option, path_of):
    made = wanted(tmp_path / "scan.nii", **{option: True})
    verdict_path(stem).write_text(json.dumps({"made_from": made}))
    assert not is_done(stem, made)
    path_of(stem).write_bytes(b"")
    assert is_done(stem, made)


@pytest.mark.parametrize(
    "path_of", [label_path, unprocessed_path, probabilities_path, preview_path, dicom_seg_path]
)
def test_a_file_of_the_users_with_the_name_of_a_result_is_not_replaced(tmp_path, path_of):
    """Those that are not written again would be removed, as if they showed other labels."""
    stem = tmp_path / "scan"
    refuse_other_scan(stem, tmp_path / "scan.nii")
    path_of(stem).write_bytes(b"the user's own")
    with pytest.raises(InputError, match=f"{path_of(stem).name}: was not written by mtseg"):
        refuse_other_scan(stem, tmp_path / "scan.nii")


def test_labels_that_were_corrected_by_hand_are_not_replaced(stem, tmp_path):
    scan = tmp_path / "scan.nii"
    written = {"made_from": wanted(scan), "labels_sha256": file_checksum(label_path(stem))}
    verdict_path(stem).write_text(json.dumps(written))
    refuse_other_scan(stem, scan)
    label_path(stem).write_bytes(b"corrected labels")
    with pytest.raises(InputError, match=r"scan_labels\.nii\.gz: was changed since mtseg wrote it"):
        refuse_other_scan(stem, scan)
    label_path(stem).unlink()
    refuse_other_scan(stem, scan)


def test_a_scan_is_not_replaced_by_the_results_of_another(tmp_path):
    scans = [tmp_path / "scan.nii", tmp_path / "scan_labels.nii.gz"]
    refuse_results_that_are_scans({path: tmp_path / "out" / path.stem for path in scans})
    stems = {path: tmp_path / scan_stem(path) for path in scans}
    with pytest.raises(InputError, match=r"scan_labels\.nii\.gz: is one of the scans, .*scan\.nii"):
        refuse_results_that_are_scans(stems)


def test_probabilities_of_a_command_that_was_killed_are_replaced(tmp_path):
    """They are complete before the labels are written."""
    source = Volume(np.zeros((3, 4, 5), np.float32), np.eye(4))
    with ProbabilityFile(probabilities_path(tmp_path / "scan"), source, 2) as file:
        file.finish()
    refuse_other_scan(tmp_path / "scan", tmp_path / "scan.nii")
    image = nib.Nifti1Image(np.zeros((3, 4, 5, 2), np.uint8), np.eye(4))
    nib.save(image, probabilities_path(tmp_path / "scan"))
    with pytest.raises(InputError, match="was not written by mtseg"):
        refuse_other_scan(tmp_path / "scan", tmp_path / "scan.nii")
