"""--ensemble and --tta: what they write, and combinations that are refused in one line."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from mtseg.cli import evaluate, predict
from mtseg.phantoms.scanner import make_phantom
from mtseg.runs.manifest import PACKAGED


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    phantom = make_phantom("breast", seed=9000, size=48)
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    nib.save(nib.Nifti1Image(phantom.image, phantom.affine), path)
    return path


@pytest.fixture
def run(scan, tmp_path, capsys):
    """A function that segments the scan and returns labels and verdict."""

    def run(*words):
        arguments = [scan, "-o", tmp_path / "out", "--task", "breast", *words]
        assert predict.main([str(word) for word in arguments]) == 0
        verdict = json.loads((tmp_path / "out" / "scan_verdict.json").read_text())
        return np.asarray(nib.load(tmp_path / "out" / "scan_labels.nii.gz").dataobj), verdict

    return run


def test_models_and_mirror_images_are_averaged(run, scan, tmp_path, capsys):
    plain, verdict = run()
    assert "use_flips" not in verdict["made_from"]  # as in results of earlier versions
    flipped, verdict = run("--tta", "flip")  # results without flips are not those
    assert verdict["made_from"]["use_flips"]
    assert 0 < (flipped != plain).mean() < 0.1
    copy = tmp_path / "copy"
    shutil.copytree(PACKAGED, copy)
    capsys.readouterr()
    twice, verdict = run("--ensemble", PACKAGED, copy)
    assert (twice == plain).all()  # the mean of a network and itself
    assert "No out-of-distribution check in the model." in capsys.readouterr().out
    assert (
        verdict["made_from"]["model_id"]
        != json.loads((copy / "manifest.json").read_text())["model_id"]
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--tta flip", "--tta flip: cta does not allow left and right to be exchanged"),
        ("--ensemble PACKAGED", "an ensemble has two models or more"),
        ("--ensemble PACKAGED none", "none: no such folder"),
        ("--ensemble PACKAGED PACKAGED --model PACKAGED", "--model and --ensemble: give one"),
        ("--ensemble PACKAGED PACKAGED --server grpc://h", "--server and --ensemble: give one"),
        ("--ensemble PACKAGED PACKAGED --beam-runner DirectRunner", "--beam-runner and --ensem"),
    ],
)
def test_what_cannot_be_averaged_is_one_line(words, message, scan, tmp_path, capsys):
    given = [str(PACKAGED) if word == "PACKAGED" else word for word in words.split()]
    assert predict.main([str(scan), "-o", str(tmp_path / "out"), *given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--ensemble PACKAGED", "an ensemble has two models or more"),
        ("PACKAGED --ensemble PACKAGED PACKAGED", "MODEL and --ensemble: give one of them"),
        ("PACKAGED PACKAGED --ensemble PACKAGED", "--ensemble: is for a network, not for label"),
        ("PACKAGED PACKAGED --tta flip", "--tta: is for a network, not for label"),
        ("--tta flip", "--tta flip: cta does not allow left and right to be exchanged"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(words, message, capsys):
    given = [str(PACKAGED) if word == "PACKAGED" else word for word in words.split()]
    assert evaluate.main(given) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
