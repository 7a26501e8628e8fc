"""Without -o, results go beside each scan, and never over anything of the user's."""

import nibabel as nib
import numpy as np
import pytest

from mtseg.__main__ import main
from mtseg.cli import predict
from tests.api.test_segment import model  # noqa: F401


@pytest.fixture
def folder(model, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(predict, "load", lambda *arguments: model)
    array = np.random.default_rng(0).integers(1, 500, (9, 10, 11)).astype(np.int16)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / name / "scan.nii.gz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


RESULTS = ["scan.nii.gz", "scan_labels.nii.gz", "scan_verdict.json"]


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_results_are_beside_each_scan_and_are_found_again(folder, capsys):
    before = (folder / "a" / "scan.nii.gz").read_bytes()
    arguments = ["predict", "a/scan.nii.gz", str(folder / "b" / "scan.nii.gz")]
    assert main(arguments) == 0
    assert files(folder / "a") == files(folder / "b") == RESULTS
    assert (folder / "a" / "scan.nii.gz").read_bytes() == before
    assert files(folder) == ["a", "b"]
    capsys.readouterr()
    assert main(arguments) == 0
    assert "2 of 2 scans already have results" in capsys.readouterr().out
    # A folder that is searched does not take the results for scans.
    assert main(["predict", "."]) == 0
    assert files(folder / "a") == RESULTS


@pytest.mark.promise("refused input")
def test_labels_of_the_user_are_not_replaced(folder, capsys):
    own = folder / "a" / "scan_labels.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((9, 10, 11), np.uint8), np.eye(4)), own)
    before = own.read_bytes()
    for more in ([], ["-o", "a"]):
        assert main(["predict", "a/scan.nii.gz", *more]) == 2
        error = capsys.readouterr().err
        assert "a/scan_labels.nii.gz: was not written by mtseg" in error
    assert own.read_bytes() == before
    assert main(["predict", "a/scan.nii.gz", "--overwrite"]) == 0
    assert own.read_bytes() != before


def test_labels_of_a_command_that_was_killed_before_its_verdict_are_replaced(folder):
    assert main(["predict", "a/scan.nii.gz"]) == 0
    (folder / "a" / "scan_verdict.json").unlink()
    assert main(["predict", "a/scan.nii.gz"]) == 0
    assert files(folder / "a") == RESULTS
