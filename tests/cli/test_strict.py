"""What is said of scans that are ok, unusual or not assessed, and what --strict withholds."""

import dataclasses
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tensorflow as tf

from mtseg.cli import predict
from mtseg.inference.dense import DenseNetwork
from mtseg.inference.verdict import calibrate
from mtseg.models.loading import ExportedModel
from mtseg.network.architecture import HALO
from mtseg.prediction.beam import ScanHandler, ScanOutcome
from mtseg.prediction.options import Options
from mtseg.prediction.pipeline import segment_files
from mtseg.scans.discovery import ListedScan
from mtseg.tasks.label_space import parse_tasks
from mtseg.tasks.label_table import make_label_table


def of_intensity(tile, chunk_positions):
    """The class that a voxel's intensity says: bright is muscle, dark is background."""
    interior = tile[HALO:-HALO, HALO:-HALO, HALO:-HALO]
    is_bright = tf.cast(tf.boolean_mask(interior, interior != 0) > 0.5, tf.float32)
    return tf.stack([0.9 - 0.8 * is_bright, 0.1 + 0.8 * is_bright], axis=-1)


def save_scan(path, num_bright, spacing_mm=1.0, slices_mm=None):
    """A scan of 12 slices, some of them bright, with background around them."""
    image = np.full((12, 12, 12), 10, np.int16)
    image[:num_bright] = 100
    image = np.pad(image, 1)
    affine = np.diag([spacing_mm, spacing_mm, slices_mm or spacing_mm, 1])
    nib.save(nib.Nifti1Image(image, affine), path)
    return str(path)


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A model whose reference scans have three to five bright slices, which commands load."""
    (task,) = (selection.task for selection in parse_tasks("breast").selections)
    task = dataclasses.replace(task, decision="argmax")
    model = ExportedModel(
        path=tmp_path / "model",
        class_names=task.class_names,
        class_task=(None, task.name),
        thresholds=(None, None),
        label_table=make_label_table((task.name, tissue) for tissue in task.classes),
        network=DenseNetwork(of_intensity, 2, "float32", 1000),
        kept_alive=None,
        tasks=(task,),
        trained_spacing_mm={"breast": 1.0},
        model_id="m",
    )
    scans = [tmp_path / f"test{number}.nii" for number in range(3)]
    for number, scan in enumerate(scans):
        save_scan(scan, 3 + number)
    outcomes = [outcome for _, outcome in segment_files(model, scans, tmp_path / "test")]
    check = calibrate({"breast": [outcome.statistics for outcome in outcomes]}, (None, "breast"))
    model = dataclasses.replace(model, out_of_distribution_check=check)
    monkeypatch.setattr(predict, "load", lambda *arguments: model)
    return model


def files_of(folder, name):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(name))


def test_the_first_words_of_a_scans_line_say_its_state_and_what_is_unusual(
    model, tmp_path, capsys, monkeypatch
):
    good, odd = save_scan(tmp_path / "good.nii", 4), save_scan(tmp_path / "odd.nii", 11)
    assert predict.main([good, odd, "-o", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    (of_check,) = (line for line in lines if line.startswith("Out-of-distribution check: "))
    assert "made from 3 reference scans of breast; " in of_check
    assert of_check.endswith("So few scans give rough usual ranges.")
    (of_good,) = (line for line in lines if line.startswith("ok "))
    assert of_good == (
        f"ok {good} -> {tmp_path / 'out' / 'good_labels.nii.gz'}: recognised as breast (100 % of "
        "labelled voxels, confidence 0.90)"
    )
    assert "  confidence: pectoral_muscle 0.90" in lines
    (of_odd,) = (number for number, line in enumerate(lines) if line.startswith("WARNING "))
    assert "background 8.3 % of the scan (usual" in lines[of_odd]
    # Nothing that reassures stands above the warning.
    assert not any(odd in line and "TFLOP" not in line for line in lines[:of_odd])
    assert "recognised as breast" in lines[of_odd + 1]
    assert f"1 of 2 scans have a WARNING: {odd}" in printed.err
    verdict = json.loads((tmp_path / "out" / "odd_verdict.json").read_text())
    assert (verdict["status"], verdict["labels_withheld"]) == ("warning", None)
    assert verdict["confidence"] == {"pectoral_muscle": 0.9}
    without = dataclasses.replace(model, out_of_distribution_check=None)
    monkeypatch.setattr(predict, "load", lambda *arguments: without)
    assert predict.main([good, "-o", str(tmp_path / "other")]) == 0
    printed = capsys.readouterr().out
    assert "not assessed " + good in printed
    assert "evaluated on too few scans; recognised as breast" in printed


def test_strict_withholds_what_is_warned_of_and_exits_with_4(model, tmp_path, capsys):
    out = tmp_path / "out"
    good, odd = save_scan(tmp_path / "good.nii", 4), save_scan(tmp_path / "odd.nii", 11)
    command = [good, odd, "-o", str(out), "--probabilities"]
    strict = [*command, "--strict"]
    assert predict.main([*strict, "--preview"]) == 4
    printed = capsys.readouterr()
    assert f"WARNING {odd}: labels withheld (--strict): unlike the reference scans" in printed.out
    assert f"1 of 2 scans have no label file, because of a warning (--strict): {odd}" in printed.err
    assert files_of(out, "odd") == ["odd_verdict.json"]
    assert files_of(out, "good") == [
        "good_labels.nii.gz", "good_preview.png", "good_probabilities.nii.gz", "good_verdict.json"
    ]  # fmt: skip
    verdict = json.loads((out / "odd_verdict.json").read_text())
    assert verdict["labels_withheld"] == f"--strict: {verdict['warning']}"
    assert verdict["volumes_ml"] == {}

    # The same command does nothing, with the same exit code.
    assert predict.main(strict) == 4
    printed = capsys.readouterr()
    assert "2 of 2 scans already have results" in printed.out
    assert f"(--strict): {odd}" in printed.err

    # Without --strict, only what was withheld is computed.
    assert predict.main(command) == 0
    assert "1 of 2 scans already have results" in capsys.readouterr().out
    assert "odd_labels.nii.gz" in files_of(out, "odd")
    assert "odd_probabilities.nii.gz" in files_of(out, "odd")

    # Probabilities that would not be those of the labels do not stay.
    assert predict.main([odd, "-o", str(out), "--overwrite"]) == 0
    assert files_of(out, "odd") == ["odd_labels.nii.gz", "odd_verdict.json"]

    # And with it, they are removed again.
    assert predict.main(strict) == 4
    assert files_of(out, "odd") == ["odd_verdict.json"]


def test_a_scan_that_fails_comes_before_labels_that_are_withheld(model, tmp_path):
    odd, bad = save_scan(tmp_path / "odd.nii", 11), tmp_path / "bad.nii"
    bad.write_bytes(b"not a scan")
    assert predict.main([odd, str(bad), "-o", str(tmp_path / "out"), "--strict"]) == 3
    assert predict.main([str(bad), "-o", str(tmp_path / "out"), "--strict"]) == 2


def test_strict_without_a_check_is_refused_because_it_would_do_nothing(
    model, tmp_path, monkeypatch, capsys
):
    without = dataclasses.replace(model, out_of_distribution_check=None)
    monkeypatch.setattr(predict, "load", lambda *arguments: without)
    scan = save_scan(tmp_path / "good.nii", 4)
    assert predict.main([scan, "-o", str(tmp_path / "out"), "--strict"]) == 2
    assert "--strict: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_voxel_size_unlike_that_of_the_test_scans_is_said(model, tmp_path, capsys):
    scan = save_scan(tmp_path / "coarse.nii", 4, spacing_mm=4.0)
    assert predict.main([scan, "-o", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "WARNING " in printed
    assert "voxel size 4 mm (usual 0.4 to 2.5 mm)" in printed


def test_thick_slices_are_said_but_are_no_warning(model, tmp_path, capsys):
    """A model knows the voxel size in the plane of its reference scans, not their slices."""
    scan = save_scan(tmp_path / "thick.nii", 4, slices_mm=3.0)
    assert predict.main([scan, "-o", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "ok " + scan in printed
    assert "its slices are 3 mm apart and were interpolated to 1 mm" in printed


def test_a_voxel_size_that_was_given_is_not_assessed_if_it_is_not_that_of_the_test_scans(
    model, tmp_path, capsys
):
    scan = save_scan(tmp_path / "scan.nii", 4)
    assert predict.main([scan, "-o", str(tmp_path / "out"), "--spacing-mm", "0.7"]) == 0
    printed = capsys.readouterr().out
    assert "it was computed at 0.7 mm, the reference scans at 1 mm (breast)" in printed


def test_a_worker_of_beam_says_the_same_of_each_scan(model, tmp_path):
    paths = [Path(save_scan(tmp_path / f"{name}.nii", n)) for name, n in (("good", 4), ("odd", 11))]
    handler = ScanHandler(None, tmp_path / "out", Options(is_strict=True), None)
    scans = [ListedScan(path, Path()) for path in paths]
    good, odd = (ScanOutcome(**json.loads(line)) for line in handler.run_inference(scans, model))
    assert good.headline.startswith(f"ok {paths[0]} -> ")
    assert (good.error, good.has_warning, good.is_withheld) == (None, False, False)
    assert odd.headline.startswith(f"WARNING {paths[1]}: labels withheld (--strict): ")
    assert (odd.error, odd.has_warning, odd.is_withheld) == (None, True, True)


def test_all_exit_codes_are_in_the_help():
    text = " ".join(predict.make_parser().format_help().split())
    assert "4 all were segmented, and --strict withheld the labels of at least one" in text
