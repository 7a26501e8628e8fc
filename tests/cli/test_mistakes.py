"""Ten mistakes and more with each command: one line each, exit code 2, nothing is written."""

import sys

import nibabel as nib
import numpy as np
import pytest

from mtseg.__main__ import COMMANDS, main

TWO = ["scan.nii", "scan.nii"]
TOO_LONG = "a" * 300  # for any disk

MISTAKES = {
    "predict": [
        [TOO_LONG],
        [], ["none.nii"], ["empty"], ["scan.nii", "--modle", "m"], ["scan.nii", "--model", "none"],
        ["scan.nii", "--model", "empty"], ["scan.nii", "-o", "scan.nii"],
        ["scan.nii", "--precision", "float16"],
        ["scan.nii", "--precision", "int8", "--engine", "tensorflow"],
        ["scan.nii", "--spacing-mm", "0"],
        ["scan.nii", "--spacing-mm", "thin"], ["scan.nii", "--memory-gb", "-1"],
        ["scan.nii", "--part-id", "3"], ["scan.nii", "--retries", "1"],
        ["scan.nii", "--server", "here"], ["scan.nii", "--modality", "pet"],
    ],
    "train": [
        ["--presett", "fast"], ["--preset", "quick"], ["--tasks", "brian"], ["brain"],
        ["--tasks", "brain:miccai2012", "--data-dir", "none"], ["--global-batch-size", "0"],
        ["--learning-rate", "fast"], ["--learning-rate", "nan"], ["--augment", "turn"],
        ["--minibatches-per-task", "-1"], ["--dropout-rate", "2"], ["--workdir"],
        ["--task-weights", "heart=2"], ["--source-weights", "brain:miccai2012=2"],
    ],
    "prepare": [
        [], ["brian"], ["breast", "--manual-dir", "none"], ["breast", "--manual-dir", "empty"],
        ["breast", "--size", "large"], ["breast", "--num-processes", "0"],
        ["breast", "--num-processes", "1", "--kinds", "voxels"], ["breast", "--fold", "3/2"],
        ["breast", "--update", "--overwrite"], ["breast", "--seed", "1"],
        ["breast", "--beam-option=--x=1"], ["breast", "--validation-share", "2"],
        ["breast", "--num-trian", "3"],
    ],
    "check": [
        [], ["brain:miccai2012"], ["brian:miccai2012", "empty"], ["brain:nowhere", "empty"],
        ["brain:phantom", "empty"], ["brain:miccai2012,cta:folder", "empty"],
        ["brain:miccai2012", "empty", "--num-processes", "0"],
        ["brain:miccai2012", "empty", "--num-processes", "two"],
        ["nnunet", "empty", "--write-task-file", "task.txt"],
        ["brain:miccai2012", "empty", "--pictrues", "p"],
        ["brain:miccai2012", "empty", "--bids-filter", "run"],
        ["nnunet", "empty", "--write-task-file", "task.toml", "--json"],
    ],
    "evaluate": [
        [TOO_LONG, "scan.nii"],
        ["none"], ["empty"], ["none", "none"], ["--split", "train"], ["--weights", "first"],
        ["--json", "none/figures.json"], ["--task", "brain"], ["empty", "empty"],
        ["scan.nii", "empty"], [*TWO, "--split", "test"], [*TWO, "--task", "brian"],
        ["--prediction-ending", "x"], ["--jsno", "x"],
    ],
    "export": [
        [], ["none", "out"], ["empty", "out"], ["empty"], ["empty", "out", "--serving", "folder"],
        ["empty", "out", "--keep", "2"], ["empty", "out", "--gpu-gb", "24"],
        ["empty", "--serving", "folder", "--format", "onnx"],
        ["empty", "--serving", "folder", "--keep", "0"], ["empty", "out", "--format", "tf"],
        ["empty", "out", "--wieghts", "best"], ["empty", "out", "--name", "a"],
        ["empty", "out", "--int8"], ["packaged", "out"], ["research", "--serving", "folder"],
    ],
    "experiments": [
        ["--num-parts", "2", "--part-id", "2"], ["--num-parts", "0"], ["--minutes", "0"],
        ["--minutes", "soon"], ["--minutes", "5", "--num-parts", "2"],
        ["--minutes", "5", "--minibatches-per-task", "3"], ["--tasks", "brian"],
        ["--strategy", "multiworker"], ["--outt", "x"], ["--seed", "-1"],
        ["--data-dir", "none", "--tasks", "brain:miccai2012"], ["--task-weights", "heart=2"],
    ],
    "report": [
        [TOO_LONG],
        [], ["none"], ["empty"], ["scan.nii"], ["empty", "--unlabelled", "x"], ["empty", "more"],
        ["empty", "--unlabelled", "brain=none.nii"], ["empty", "--notes", "none.txt"],
        ["empty", "--htlm", "page.html"], ["empty", "--markdown"], ["empty", "--csv"],
    ],
    "view": [
        [TOO_LONG],
        ["none.nii"], ["scan.nii", "none.nii"], ["empty"], ["--port", "web"], ["--port", "70000"],
        ["--port", "-1"], ["--memory-gb", "0"], ["--memory-gb", "much"], ["--model", "none"],
        ["--modle", "x"], ["--no-browsr"], ["--devices"],
    ],
    "serve-dicom": [
        [], ["spool"], ["spool", "--allow", "A"], ["--allow", "A", "--out", "o"],
        ["spool", "--allow", "A\\B", "--out", "o"], ["spool", "--allow", "A@", "--out", "o"],
        ["spool", "--allow", "A", "--send-to", "B@host"],
        ["spool", "--allow", "A", "--send-to", "B@host:0"],
        ["spool", "--allow", "A", "--out", "scan.nii"],
        ["scan.nii", "--allow", "A", "--out", "o"],
        ["spool", "--allow", "A", "--out", "o", "--ae-title", "LONGER THAN SIXTEEN"],
        ["spool", "--allow", "A", "--out", "o", "--port", "70000"],
        ["spool", "--allow", "A", "--out", "o", "--bind", "here"],
        ["spool", "--allow", "A", "--out", "o", "--quiet-s", "0"],
        ["spool", "--allow", "A", "--out", "o", "--max-gb", "nan"],
        ["spool", "--allow", "A", "--out", "o", "--model", "none"],
        ["spool", "--allow", "A", "--out", "o", "--server", "here"],
        ["spool", "--allow", "A", "--out", "o", "--memory-gb", "0"],
        ["spool", "--alow", "A", "--out", "o"],
    ],
    "models": [
        ["packaged"], ["--jsn"], ["--json", "file.json"], ["--json=1"], ["-j"], ["--versoin"],
        ["list"], ["--model", "packaged"], ["--task", "brain"], ["--help=all"],
    ],
    "info": [
        ["brain"], ["--jsn"], ["--json", "file.json"], ["--json=1"], ["-j"], ["--versoin"],
        ["predict", "--json"], ["--help=all"], ["--version=2"], ["--devices"],
    ],
}  # fmt: skip


def test_there_are_ten_for_each_command():
    assert {name: len(of) >= 10 for name, of in MISTAKES.items()} == dict.fromkeys(COMMANDS, True)


@pytest.mark.promise("refused input")
@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        pytest.param(name, arguments, id=" ".join([name, *arguments])[:80])
        for name, of_command in MISTAKES.items()
        for arguments in of_command
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    command, arguments, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    nib.save(nib.Nifti1Image(np.full((4, 4, 4), 7, np.int16), np.eye(4)), tmp_path / "scan.nii")
    before = sorted(tmp_path.rglob("*"))
    try:
        code = main([command, *arguments])
    except SystemExit as stop:  # how argparse ends
        code = stop.code
    lines = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
    assert code == 2
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.promise("refused input")
@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("prepare", ["breast", "--data-dir", "data"]),
        ("train", ["--preset", "demo", "--tasks", "breast"]),
        ("export", ["run", "out"]),
        ("evaluate", ["run"]),
    ],
)
def test_a_command_that_needs_tensorflow_says_so(
    command, arguments, random_run, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").symlink_to(random_run[0])
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert main([command, *arguments]) == 2
    (line,) = filter(None, capfd.readouterr().err.splitlines())
    assert line.startswith("error: tensorflow cannot be imported")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
