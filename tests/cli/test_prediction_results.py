"""The files that one mtseg-predict command leaves in its folder of results."""

import csv
import importlib.util
import json

import nibabel as nib
import numpy as np
import pytest

from mtseg.cli import predict
from mtseg.models.export import export_weights
from mtseg.phantoms.scanner import make_phantom
from mtseg.prediction.folder_results import LABEL_TABLES


@pytest.fixture(scope="module")
def model(random_run, tmp_path_factory):
    return export_weights(random_run[0], tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def scans(tmp_path):
    for number, task in enumerate(("brain", "cta")):
        phantom = make_phantom(task, 1000 + number, 32)
        path = tmp_path / "scans" / f"{task}.nii"
        path.parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(phantom.image[:12, 5:16, :8], phantom.affine), path)
    return tmp_path / "scans"


def run(model, *words):
    flags = ["--model", model, "--precision", "float32", *words]
    return predict.main([str(word) for word in flags])


def read_rows(out):
    return list(csv.DictReader((out / "volumes.csv").read_text().splitlines()))


def test_volumes_of_all_scans_also_after_a_resumed_command(model, scans, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(model, scans, "-o", out, "--preview") == 0
    rows = read_rows(out)
    assert [row["label"] for row in rows] == [str(label) for label in range(1, 9)] * 2
    for row in rows:
        labels = nib.load(out / row["label_file"])
        count = int((np.asarray(labels.dataobj) == int(row["label"])).sum())
        assert int(row["num_voxels"]) == count
        voxel_ml = abs(np.linalg.det(labels.affine)) / 1000
        assert float(row["volume_ml"]) == pytest.approx(count * voxel_ml, abs=0.0005001)
    assert {path.name for path in out.iterdir()} == {
        *(f"{n}_{e}" for n in ("brain", "cta") for e in
          ("labels.nii.gz", "verdict.json", "preview.png")),
        "volumes.csv", *LABEL_TABLES,
    }  # fmt: skip
    # As if the command had been killed before the second scan was complete.
    (out / "volumes.csv").unlink()
    (out / "cta_verdict.json").unlink()
    capsys.readouterr()
    assert run(model, scans, "-o", out) == 0
    printed = capsys.readouterr().out
    assert "1 of 2 scans already have results" in printed
    assert read_rows(out) == rows
    # A third command computes nothing, and its table is complete too.
    (out / "volumes.csv").unlink()
    assert run(model, scans, "-o", out) == 0
    assert read_rows(out) == rows
    # The scan that was computed again has no preview; asking for one draws it.
    assert not (out / "cta_preview.png").exists()
    assert run(model, scans, "-o", out, "--preview") == 0
    assert (out / "cta_preview.png").exists()


def test_a_folder_with_another_models_labels_is_refused_before_the_work(
    model, scans, tmp_path, capsys
):
    out = tmp_path / "out"
    assert run(model, scans / "brain.nii", "-o", out) == 0
    other = tmp_path / "other"
    other.mkdir()
    for path in model.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["label_space"]["tasks"][2]["classes"][0]["label"] = 9
    (other / "SHA256SUMS").unlink()
    (other / "manifest.json").write_text(json.dumps(manifest))
    capsys.readouterr()
    assert run(other, scans / "cta.nii", "-o", out) == 2
    assert "contradicts itself" in capsys.readouterr().err  # its own list of labels says 8
    manifest["labels"][-1] = 9
    (other / "manifest.json").write_text(json.dumps(manifest))
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert run(other, scans / "cta.nii", "-o", out) == 2
    assert "labels_dseg.tsv: describes other labels than those" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert run(other, scans / "brain.nii", "-o", out, "--overwrite") == 0
    assert "9\tcoronary_arteries" in (out / "labels_dseg.tsv").read_text()
    assert read_rows(out)[-1]["label"] == "9"


def test_a_scan_that_fails_leaves_no_table(model, tmp_path, capsys):
    (tmp_path / "scan.nii").write_bytes(b"nothing")
    assert run(model, tmp_path / "scan.nii", "-o", tmp_path / "out") == 2
    assert not (tmp_path / "out").exists()


def test_a_task_that_the_model_does_not_have_is_refused_once(model, scans, tmp_path, capsys):
    assert run(model, scans, "-o", tmp_path / "out", "--task", "brian") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no such task (did you mean brain?)" in line
    assert not (tmp_path / "out").exists()


def test_a_preview_without_matplotlib_is_refused_at_once(
    model, scans, tmp_path, capsys, monkeypatch
):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: (name != "matplotlib" and found(name, *more)) or None,
    )
    assert run(model, scans, "-o", tmp_path / "out", "--preview") == 2
    assert "pip install 'mtseg[report]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
