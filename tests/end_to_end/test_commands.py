"""The commands themselves: phantoms in, a label file on the scan's own grid out."""

import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from mtseg.phantoms.scanner import make_phantom
from mtseg.prediction.folder_results import LABEL_TABLES, VOLUMES
from tests.faults.forked_commands import forked_as_users_do

pytestmark = pytest.mark.slow


def mtseg(command, *arguments, code=0):
    """Runs a command in a process of its own, which has TensorFlow imported already."""
    started = forked_as_users_do().start([command, *arguments])
    found, stdout, stderr = started.finish()
    assert found == code, stderr
    assert "Traceback" not in stderr
    return SimpleNamespace(stdout=stdout, stderr=stderr)


def mtseg_from_the_start(command, *arguments, code=0):
    """Runs a command as a user does: what libraries print as they are imported shows."""
    script = f"import sys; from mtseg.cli.{command} import main; sys.exit(main())"
    # Without a log level of one's own, as most users are.
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    result = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    return result


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with records, a run of a few mini-batches and an exported model."""
    folder = tmp_path_factory.mktemp("end_to_end")
    mtseg(
        "prepare", "brain", "breast", "cta", "--data-dir", folder / "data", "--size", 32,
        "--num-train", 2, "--num-test", 1, "--kinds", "patches,volumes",
        "--patches-per-class", 20, "--num-shards", 2,
    )  # fmt: skip
    trained = mtseg("train", *train_flags(folder))
    mtseg("export", folder / "run", folder / "model")
    return folder, trained.stdout


def train_flags(folder, **changes):
    flags = {
        "preset": "demo", "data-dir": folder / "data", "workdir": folder / "run",
        "minibatches-per-task": 6, "evaluate-every": 3, "global-batch-size": 12,
    }  # fmt: skip
    flags |= changes
    return [part for name, value in flags.items() for part in (f"--{name}", value)]


def test_prepared_shards_are_as_many_as_asked_for(run):
    folder, _ = run
    assert len(list((folder / "data").glob("mtseg_brain/phantom_patches/*/*.tfrecord-*"))) == 2


def test_training_prints_a_table_of_all_classes(run):
    _, printed = run
    for name in ("white_matter", "brain_stem", "pectoral_muscle", "coronary_arteries"):
        assert name in printed
    assert "Synthetic" in printed


def test_the_same_command_again_is_done_at_once_and_says_the_same(run):
    folder, printed = run
    again = mtseg("train", *train_flags(folder)).stdout
    assert again.split("not trained on:")[1] == printed.split("not trained on:")[1]


def test_a_workdir_of_another_configuration_is_refused_with_what_differs(run):
    folder, _ = run
    result = mtseg_from_the_start("train", *train_flags(folder, seed=5), code=2)
    assert "seed: 0 / 5" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_tensorboard_has_curves_pictures_and_configuration(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, _ = run
    events = EventAccumulator(str(folder / "run" / "tensorboard"))
    events.Reload()
    tags = set(events.Tags()["tensors"])
    assert {"loss", "learning_rate", "samples_per_second", "configuration"} <= tags
    assert {"dice/brain/white_matter", "dice/breast/pectoral_muscle"} <= tags
    assert {t for t in tags if "prediction" in t} == {
        f"{task}: scan, reference, prediction" for task in ("brain", "breast", "cta")
    }


def test_evaluation_writes_one_tidy_json_and_csv(run, tmp_path):
    folder, _ = run
    result = mtseg(
        "evaluate", folder / "run", "--json", tmp_path / "e.json", "--csv", tmp_path / "e.csv"
    )
    assert "coronary_arteries" in result.stdout
    figures = json.loads((tmp_path / "e.json").read_text())
    assert figures["schema"] == 1
    assert {tuple(sorted(row)) for row in figures["rows"]} == {
        ("class", "metric", "subject", "task", "value")
    }
    classes = [row["class"] for row in figures["rows"] if row["metric"] == "dice"]
    assert len(classes) == 8
    assert len((tmp_path / "e.csv").read_text().splitlines()) == 1 + len(figures["rows"])


def test_the_manifest_says_how_to_use_the_model(run):
    folder, _ = run
    manifest = json.loads((folder / "model" / "1" / "manifest.json").read_text())
    assert len(manifest["classes"]) == 9
    assert set(manifest["operating_points"]) <= {"pectoral_muscle", "coronary_arteries"}
    assert "99th percentile" in manifest["intensity_rule"]


def test_exporting_again_makes_the_next_version(run, tmp_path):
    folder, _ = run
    shutil.copytree(folder / "model", tmp_path / "model")
    mtseg("export", folder / "run", tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["1", "2"]


@pytest.mark.parametrize("task", ["brain", "breast", "cta"])
def test_a_scan_comes_back_on_its_own_grid(run, tmp_path, task):
    folder, _ = run
    phantom = make_phantom(task, seed=50, size=32)
    scan = nib.Nifti1Image(phantom.image, phantom.affine)
    scan.set_qform(phantom.affine, code=1)
    scan.set_sform(phantom.affine, code=2)
    nib.save(scan, tmp_path / "scan.nii.gz")
    result = mtseg("predict", tmp_path / "scan.nii.gz", "--model", folder / "model",
                   "-o", tmp_path, "--probabilities", "--precision", "float32")  # fmt: skip
    assert re.search(r"TFLOP in float32, 1 tile, at most \d\.\d\d GB", result.stdout)
    labels = nib.load(tmp_path / "scan_labels.nii.gz")
    assert labels.shape == scan.shape
    np.testing.assert_allclose(labels.affine, scan.affine, atol=1e-5)
    assert (int(labels.header["qform_code"]), int(labels.header["sform_code"])) == (1, 2)
    assert np.asarray(labels.dataobj).max() <= 8
    probabilities = np.asarray(nib.load(tmp_path / "scan_probabilities.nii.gz").dataobj)
    assert probabilities.shape == (*scan.shape, 9)
    # Stored in steps of 1/255.
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, atol=0.02)


def test_one_bad_scan_does_not_stop_the_rest(run, tmp_path):
    folder, _ = run
    phantom = make_phantom("brain", seed=51, size=32)
    nib.save(nib.Nifti1Image(phantom.image, phantom.affine), tmp_path / "good.nii.gz")
    (tmp_path / "bad.nii.gz").write_bytes(b"not a scan")
    result = mtseg(
        "predict", tmp_path / "bad.nii.gz", tmp_path / "good.nii.gz",
        "--model", folder / "model", "-o", tmp_path / "out", code=3,
    )  # fmt: skip
    assert "bad.nii.gz" in result.stderr
    written = {p.name for p in (tmp_path / "out").iterdir()}
    assert written == {"good_labels.nii.gz", "good_verdict.json", VOLUMES, *LABEL_TABLES}


def test_weights_alone_are_a_model_too(run, tmp_path):
    folder, _ = run
    mtseg("export", folder / "run", tmp_path / "weights", "--format", "weights")
    assert {p.name for p in (tmp_path / "weights").iterdir()} == {
        "model.weights.h5",
        "manifest.json",
        "SHA256SUMS",
    }
    phantom = make_phantom("breast", seed=53, size=32)
    nib.save(nib.Nifti1Image(phantom.image, phantom.affine), tmp_path / "scan.nii")
    for model, out in ((folder / "model", "a"), (tmp_path / "weights", "b")):
        mtseg("predict", tmp_path / "scan.nii", "--model", model, "-o", tmp_path / out,
              "--precision", "float32")  # fmt: skip
    a, b = (np.asarray(nib.load(tmp_path / n / "scan_labels.nii.gz").dataobj) for n in "ab")
    np.testing.assert_array_equal(a, b)
    # The figures of the reference scans come from it as from the run.
    by_run = mtseg("evaluate", folder / "run").stdout
    by_weights = mtseg("evaluate", tmp_path / "weights").stdout
    assert by_run.splitlines()[-12:] == by_weights.splitlines()[-12:]


def test_without_a_model_the_packaged_one_is_used_and_named(tmp_path):
    phantom = make_phantom("breast", seed=9000, size=64)
    nib.save(nib.Nifti1Image(phantom.image, phantom.affine), tmp_path / "scan.nii")
    result = mtseg_from_the_start("predict", tmp_path / "scan.nii", "-o", tmp_path)
    assert "using the one that comes with mtseg. For research only" in result.stdout
    verdict = json.loads((tmp_path / "scan_verdict.json").read_text())
    assert verdict["task"] == "breast"
    assert verdict["volumes_ml"]["pectoral_muscle"] > 0
    assert verdict["threshold"] > 0
    reference = phantom.label_map == 1
    predicted = np.asarray(nib.load(tmp_path / "scan_labels.nii.gz").dataobj)
    overlap = 2 * (reference & (predicted == 7)).sum()
    assert overlap / (reference.sum() + (predicted == 7).sum()) > 0.7


def test_a_scan_of_nothing_it_knows_is_warned_of(tmp_path):
    noise = np.random.default_rng(0).integers(1, 1000, (48, 48, 32)).astype(np.int16)
    nib.save(nib.Nifti1Image(noise, np.eye(4)), tmp_path / "noise.nii")
    result = mtseg("predict", tmp_path / "noise.nii", "-o", tmp_path)
    assert re.search(r"^WARNING .*noise\.nii -> .*: unlike the reference", result.stdout, re.M)
    assert "1 of 1 scans have a WARNING" in result.stderr


def test_memory_that_does_not_suffice_is_one_line(run, tmp_path):
    folder, _ = run
    phantom = make_phantom("brain", seed=52, size=32)
    nib.save(nib.Nifti1Image(phantom.image, phantom.affine), tmp_path / "scan.nii")
    result = mtseg_from_the_start(
        "predict", tmp_path / "scan.nii", "--model", folder / "model", "-o", tmp_path / "out",
        "--memory-gb", 0.01, code=2,
    )  # fmt: skip
    assert result.stderr.startswith(f"error: {tmp_path / 'scan.nii'}: computing it needs at least")
    assert len(result.stderr.strip().splitlines()) == 1
