"""Benchmarks start, measure the whole work each time, and end with the same JSON object."""

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from mtseg.errors import InputError

FOLDER = Path(__file__).parents[2] / "benchmarks"
SHARED = {"comparison", "torch_worker"}
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in SHARED)


@pytest.fixture
def load(monkeypatch):
    """A function that imports a script of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def load(name):
        spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look there
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def comparison(load):
    return load("comparison")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_says_how_it_is_run_and_has_a_json_option(name, load, monkeypatch, capsys):
    module = load(name)
    assert f"python benchmarks/{name}.py" in module.__doc__
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        module.main()
    printed = capsys.readouterr().out
    assert "--json" in printed
    assert module.__doc__.splitlines()[0][:30] in printed


def test_the_last_line_is_one_json_object(comparison, capsys):
    ratios = {"theirs_over_ours": 2.0, "never_over_ours": None}
    comparison.finish("a_benchmark", ratios, {"bytes": 7}, 5, True)
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    assert list(found) == ["name", "ratios", "floor", "machine", "runs"]
    assert found["ratios"] == ratios
    assert (found["name"], found["floor"], found["runs"]) == ("a_benchmark", {"bytes": 7}, 5)
    assert found["machine"]["cores"] > 0
    assert lines[:2] == [
        "theirs_over_ours: 2 (median of 5 pairs)",
        "never_over_ours: undefined (median of 5 pairs)",
    ]


def test_without_json_the_last_line_is_the_machine(comparison, capsys):
    comparison.finish("a_benchmark", {}, {}, 1, False)
    assert "cores" in capsys.readouterr().out.splitlines()[-1]


def test_a_ratio_is_the_median_of_pairs(comparison):
    assert comparison.median_ratio([2.0, 9.0, 4.0], [1.0, 1.0, 1.0]) == 4.0


def test_a_missing_package_is_one_line(comparison):
    comparison.require_modules(["json", "numpy"], "Install it.")
    with pytest.raises(SystemExit) as stopped:
        comparison.require_modules(["no_such_package", "json"], "Install it.")
    assert stopped.value.code == (
        f"error: {sys.executable} does not have no_such_package. Install it."
    )
    with pytest.raises(SystemExit, match="/nowhere/python cannot be started"):
        comparison.require_modules(["json"], "Install it.", "/nowhere/python")


def test_bad_input_is_one_line(comparison):
    def main():
        raise InputError("scan.nii.gz: is damaged. Copy it again.")

    with pytest.raises(SystemExit, match=r"^error: scan\.nii\.gz: is damaged"):
        comparison.run_benchmark(main)


def test_memory_that_is_freed_before_the_end_counts(comparison):
    def run():
        np.ones(30_000_000)

    assert comparison.peak_growth_bytes(run) > 200e6


def test_every_prediction_starts_in_an_empty_folder(load, monkeypatch, tmp_path):
    predict = load("predict")
    outs = []

    def run(command, **how):
        out = Path(command[command.index("-o") + 1])
        assert not out.exists()
        out.mkdir()
        (out / "scan_labels.nii.gz").touch()
        outs.append(out)

    monkeypatch.setattr(predict.subprocess, "run", run)
    scan = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), scan)
    arguments = SimpleNamespace(
        scan=scan, size=None, model=None, pairs=3, without_nnunet=True, json=False
    )
    predict.compare_with_nnunet(arguments, tmp_path)
    assert len(set(outs)) == len(outs) == 4


def test_a_prediction_that_wrote_nothing_ends_the_benchmark(load, monkeypatch, tmp_path):
    predict = load("predict")
    monkeypatch.setattr(predict.subprocess, "run", lambda command, **how: None)
    with pytest.raises(SystemExit, match="wrote no label file"):
        predict.run_command(tmp_path / "scan.nii.gz", None, tmp_path / "out")


def test_every_preparation_starts_without_prepared_files(load, monkeypatch, tmp_path):
    prepare = load("prepare")
    found = []

    def run(command, **how):
        for name in ("data", "preprocessed"):
            found.append((tmp_path / name).exists())
            (tmp_path / name).mkdir(exist_ok=True)

    monkeypatch.setattr(prepare.subprocess, "run", run)
    prepare.prepare(tmp_path, tmp_path, 1, 1)
    prepare.prepare(tmp_path, tmp_path, 1, 1)
    assert found[0::2] == [False, False]
    found.clear()
    prepare.preprocess_with_nnunet(tmp_path, sys.executable, 1)
    prepare.preprocess_with_nnunet(tmp_path, sys.executable, 1)
    assert found[1::2] == [False, False]


def test_scans_of_one_name_are_exchanged_into_different_files(load, tmp_path):
    verdicts = load("verdicts")
    written = []
    for number in (0, 1):
        scan = tmp_path / f"in{number}" / "scan.nii.gz"
        scan.parent.mkdir()
        array = np.full((3, 3, 3), 10 * (number + 1), np.int16)
        array[0] = 1
        nib.save(nib.Nifti1Image(array, np.eye(4)), scan)
        written.append(verdicts.exchange(scan, tmp_path / f"out{number}"))
    highest = [int(np.asarray(nib.load(path).dataobj).max()) for path in written]
    assert highest == [9, 19]


def test_the_time_to_a_level_is_that_of_the_first_evaluation_there(load, tmp_path, monkeypatch):
    benchmark = load("time_to_dice")
    for name, dice in (("fast", [0.5, 0.82, 0.86]), ("slow", [0.1, 0.5, 0.81])):
        (tmp_path / name).mkdir()
        config = {"global_batch_size": 10, "precision": "float32"}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        points = [
            {"minibatch": 6 * n, "training_seconds": 60.0 * n, "mean_dice": value}
            for n, value in enumerate(dice, start=1)
        ]
        (tmp_path / name / "learning_curve.json").write_text(json.dumps(points))
    finished = {}
    monkeypatch.setattr(benchmark, "finish", lambda name, ratios, *rest: finished.update(ratios))
    out = tmp_path / "curves.png"
    workdirs = [str(tmp_path / name) for name in ("fast", "slow")]
    monkeypatch.setattr(sys, "argv", ["time_to_dice", *workdirs, "--out", str(out)])
    benchmark.main()
    assert finished == {
        "slow_minutes_to_0.80_over_fast": 1.5, "slow_minutes_to_0.85_over_fast": None,
    }  # fmt: skip
    assert out.stat().st_size > 1000


def test_more_workers_spend_a_larger_part_of_a_step_on_exchanging(load):
    table = load("scaling").predict_scaling(0.0, 0.01, (1_000_000, 10_000, 100), 10.0, 50.0)
    header, *rows = (line.split() for line in table.splitlines())
    assert header[0] == "workers"
    times_one_worker = [float(row[-1]) for row in rows]
    assert times_one_worker[0] == 1.0
    assert times_one_worker == sorted(times_one_worker)
    assert times_one_worker[-1] < 210
