"""A new task needs a TOML file and no code."""

import json

import nibabel as nib
import numpy as np

from mtseg.batches.patch_records import open_patches
from mtseg.cli import check, evaluate, export, predict, prepare, train
from mtseg.records.reading import read_volumes
from tests.datasets.test_builders import write_challenge_folder

TASK_FILE = """
name = "cerebellum"
title = "Cerebellum in T1-weighted MR"
modality = "MR"
citation = "none"

[spacing]
rule = "fixed"
mm = 1.0

[decision]
rule = "operating_point"

[[classes]]
name = "whole_cerebellum"
title = "Cerebellum"

[sources.miccai2012.labels]
background = ["0-37", "44-207"]
whole_cerebellum = ["38-41"]

[sources.miccai2012.split]
train = ["1000", "1001"]
test = ["1010"]
"""


def test_a_task_file_is_prepared_like_a_shipped_task(tmp_path):
    (tmp_path / "scans").mkdir()
    write_challenge_folder(tmp_path / "scans")
    (tmp_path / "mine.toml").write_text(TASK_FILE)
    flags = ["--manual-dir", tmp_path / "scans", "--data-dir", tmp_path / "data"]
    arguments = [f"{tmp_path}/mine.toml:miccai2012", *flags]
    arguments += ["--kinds", "patches,volumes", "--patches-per-class", 6]
    assert prepare.main([str(a) for a in arguments]) == 0

    records = open_patches(tmp_path / "data", "cerebellum", "miccai2012")
    assert np.bincount(records.class_index).tolist() == [12, 12]
    (test_scan,) = read_volumes(tmp_path / "data", "cerebellum", "miccai2012", "test")
    assert test_scan.name == "1010"
    assert set(np.unique(test_scan.class_index_map)) == {0, 1}


def run(command, *arguments):
    return command.main([str(argument) for argument in arguments])


def test_a_task_of_ones_own_from_scans_to_labels(tmp_path):
    """Every command, on a task that does not come with mtseg."""
    scans, data, workdir = tmp_path / "scans", tmp_path / "data", tmp_path / "run"
    scans.mkdir()
    write_challenge_folder(scans)
    (tmp_path / "mine.toml").write_text(TASK_FILE)
    task = f"{tmp_path}/mine.toml:miccai2012"
    assert run(check, task, scans, "--num-processes", 1) == 0
    flags = ["--manual-dir", scans, "--data-dir", data, "--num-processes", 1]
    assert run(prepare, task, *flags) == 0
    flags = ["--preset", "demo", "--data-dir", data, "--workdir", workdir]
    length = ["--minibatches-per-task", 2, "--global-batch-size", 4]
    assert run(train, "--tasks", task, *flags, *length) == 0
    assert run(evaluate, workdir, "--json", tmp_path / "figures.json") == 0
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert {(row["task"], row["class"]) for row in rows} >= {("cerebellum", "whole_cerebellum")}
    assert run(export, workdir, tmp_path / "model") == 0
    scan = scans / "1010_SS.nii.gz"
    assert run(predict, scan, "--model", tmp_path / "model", "-o", tmp_path / "out") == 0
    labels = nib.load(tmp_path / "out" / "1010_SS_labels.nii.gz")
    np.testing.assert_array_equal(labels.affine, nib.load(scan).affine)
    assert set(np.unique(labels.dataobj)) <= {0, 1}
