"""Benchmarks start, measure the whole work each time, and end with the same JSON object."""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from mtseg.errors import InputError

FOLDER = Path(__file__).parents[2] / "benchmarks"
SHARED = {
    "comparison",
    "data_sets",
    "engine_worker",
    "equal_minutes",
    "journal",
    "network_costs",
    "nnunet_runs",
    "torch_worker",
    "worker_loop",
}
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


def test_a_header_that_lies_keeps_the_voxels_and_shrinks_the_scan(load, tmp_path):
    verdicts = load("verdicts")
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    nib.save(nib.Nifti1Image(array, np.diag([3.0, -1.5, 6.0, 1.0])), tmp_path / "scan.nii.gz")
    found = nib.load(verdicts.shrink_voxels(tmp_path / "scan.nii.gz", tmp_path / "out"))
    np.testing.assert_array_equal(np.asarray(found.dataobj), array)
    np.testing.assert_allclose(found.header.get_zooms(), [1.0, 0.5, 2.0])


def test_a_rate_has_its_exact_interval(load):
    describe_rate = load("verdicts").describe_rate
    # Of 40 without a fault the upper end p solves (1 - p)^40 = 0.025.
    assert describe_rate("missed", 0, 40).split(maxsplit=1)[1] == "0 of 40, 0.0 % (0.0 to 8.8)"
    assert describe_rate("missed", 0, 0).endswith("no scans")


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


def test_nnunet_overtakes_where_the_lines_cross(load):
    find_overtaking = load("against_nnunet").find_overtaking
    minutes = [5, 15, 30]
    assert find_overtaking(minutes, [0.8, 0.8, 0.8], [0.5, 0.7, 0.8]) is None
    assert find_overtaking(minutes, [0.8, 0.8, 0.8], [0.9, 0.9, 0.9]) == 5
    assert find_overtaking(minutes, [0.8, 0.8, 0.8], [0.5, 0.9, 0.9]) == pytest.approx(12.5)
    # Ahead in between, but not in the end.
    assert find_overtaking(minutes, [0.8, 0.8, 0.9], [0.5, 0.9, 0.8]) is None


def write_scans(folder, label_maps, split):
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for subject, labels in label_maps.items():
        image = np.full(labels.shape, 7, np.int16)
        affine = np.diag([-1.0, 1, 1, 1])
        nib.save(nib.Nifti1Image(image, affine), folder / "images" / f"{subject}.nii.gz")
        nib.save(nib.Nifti1Image(labels, affine), folder / "labels" / f"{subject}.nii.gz")
    lines = ["subject,split", *(f"{subject},{side}" for subject, side in split.items())]
    (folder / "split.csv").write_text("\n".join(lines))


@pytest.fixture
def two_parts(tmp_path):
    """A data set of two scans, each with half of one class and half of the other."""
    labels = np.ones((4, 4, 4), np.uint8)
    labels[2:] = 2
    scans = tmp_path / "scans"
    write_scans(scans, {"a": labels, "b": labels}, {"a": "train", "b": "test"})
    return f"{FOLDER / 'hippocampus.toml'}:folder={scans}"


def test_both_sides_are_scored_on_the_scans_own_grid(load, two_parts, tmp_path):
    runs = load("equal_minutes")
    data = runs.find_data(two_parts)
    assert ([s.name for s in data.train], [s.name for s in data.test]) == (["a"], ["b"])
    predicted = np.full((4, 4, 4), 7, np.uint8)  # other labels, stored with another axis direction
    predicted[:3] = 5
    flipped = nib.Nifti1Image(predicted[::-1], np.diag([1.0, 1, 1, 1]))
    flipped.affine[0, 3] = -3
    nib.save(flipped, tmp_path / "predicted.nii.gz")
    found = runs.score(data, lambda subject: tmp_path / "predicted.nii.gz", [0, 5, 7])
    assert found == {
        "hippocampus_anterior": pytest.approx(2 * 32 / (48 + 32)),
        "hippocampus_posterior": pytest.approx(2 * 16 / (16 + 32)),
    }


class Trainer:
    """A side that trains at 2 seconds a step, after the first which takes 10."""

    name, predictions, start_seconds = "side", ("plain",), 8.0

    def __init__(self):
        self.calls = []

    def time_step(self):
        self.calls.append("time")
        return 2.0

    def train(self, folder, steps):
        self.calls.append(f"train {steps}")
        return 8.0 + 2 * steps

    def score(self, folder, prediction):
        self.calls.append(f"score {prediction}")
        return {"x": 0.5, "y": None}


def test_rates_are_measured_once_and_decide_the_steps_of_every_length(load, tmp_path):
    runs, side = load("equal_minutes"), Trainer()
    side.time_step = iter([2.0, 9.0, 1.5]).__next__
    for _ in range(2):  # the second time they are read
        rate = runs.measure_rates([side], tmp_path, 3)["side"]
        assert (rate.steps_in(1), rate.minutes_of(26)) == (26, 1.0)  # at the median, 2 seconds
    assert rate.steps_in(2) == 56


def test_a_finished_run_is_read(load, tmp_path):
    runs, side = load("equal_minutes"), Trainer()
    rate = runs.Rate(8.0, 4.0)
    result = runs.run_length(side, tmp_path, rate, 1)
    assert side.calls == ["train 13", "score plain"]
    # It was to take a minute, and took less: the machine was slower while it was timed.
    assert (result.minutes, result.took) == (1.0, 34 / 60)
    assert result.best() == 0.5
    assert runs.run_length(side, tmp_path, rate, 1) == result
    assert len(side.calls) == 2


def test_a_killed_training_starts_again_with_the_same_number_of_steps(load, tmp_path):
    runs, side = load("equal_minutes"), Trainer()

    def killed(folder, steps):
        raise KeyboardInterrupt

    side.train, train = killed, side.train
    with pytest.raises(KeyboardInterrupt):
        runs.run_length(side, tmp_path, runs.Rate(8.0, 2.0), 1)
    side.train = train
    runs.run_length(side, tmp_path, runs.Rate(8.0, 2.0), 1)
    assert side.calls == ["train 26", "score plain"]


def test_nnunet_is_given_the_scans_and_the_classes_of_the_task(load, two_parts, tmp_path):
    nnunet_runs, data = load("nnunet_runs"), load("equal_minutes").find_data(two_parts)
    for subject in (*data.train, *data.test):
        raw = tmp_path / subject.name
        for name in ("imagesTr", "labelsTr", "imagesTs"):
            (raw / name).mkdir(parents=True)
        assert not nnunet_runs._write_subject(data.task, data.labels, subject, raw)
    written = nib.load(tmp_path / "a" / "labelsTr" / "a.nii.gz")
    assert np.unique(np.asarray(written.dataobj)).tolist() == [1, 2]
    scan = nib.load(tmp_path / "a" / "imagesTr" / "a_0000.nii.gz")
    np.testing.assert_array_equal(written.affine, scan.affine)
    files = [path.name for path in (tmp_path / "b").rglob("*.nii.gz")]
    assert files == ["b_0000.nii.gz"]  # no label map of a test scan


def test_a_command_ends_with_the_benchmark_that_is_killed(tmp_path):
    log = tmp_path / "log"
    code = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]); import nnunet_runs; "
        "nnunet_runs.run_logged(['sh', '-c', 'echo $$; exec sleep 100'], pathlib.Path(sys.argv[2]))"
    )
    benchmark = subprocess.Popen([sys.executable, "-c", code, str(FOLDER), str(log)])
    command = Path("/proc") / wait_for(lambda: log.is_file() and log.read_text().strip())
    assert command.exists()
    benchmark.kill()
    benchmark.wait()
    wait_for(lambda: not command.exists() or "Z (zombie)" in (command / "status").read_text())


def wait_for(condition, seconds=30):
    """Waits until a condition is true; returns its value."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def test_a_folder_with_runs_of_other_settings_is_refused(load, tmp_path):
    check = load("against_nnunet").check_settings
    check(tmp_path / "runs", {"preset": "fast", "train": ["a"]})
    check(tmp_path / "runs", {"preset": "fast", "train": ["a"]})
    with pytest.raises(InputError, match="another preset"):
        check(tmp_path / "runs", {"preset": "best", "train": ["a"]})


def test_without_a_gpu_one_line_says_so(load, monkeypatch, capsys):
    benchmark = load("train_on_gpu")
    monkeypatch.setattr(benchmark, "find_card", lambda: None)
    monkeypatch.setattr(sys, "argv", ["train_on_gpu"])
    with pytest.raises(SystemExit, match="2"):
        benchmark.main()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "error: there is no GPU here. --allow-cpu tries the script on the processor."
    ]


def test_the_paper_s_experiment_7_is_16_million_samples(load):
    benchmark = load("train_on_gpu")
    assert benchmark.experiment_7_minutes(15_750_000 / 60) == pytest.approx(1.0)


def test_the_rate_of_a_run_is_that_after_its_first_calls(load, monkeypatch):
    worker = load("engine_worker")
    clock = iter([100.0, 120.0])
    monkeypatch.setattr(worker.time, "perf_counter", lambda: next(clock))
    meter = worker.Meter(num_samples=7, per_call=1)
    for step in range(1, worker.WARM_UP + worker.MEASURED):
        meter.on_figures(step, {"share_waiting_for_input": 0.25})
    with pytest.raises(worker.Enough):
        meter.on_figures(worker.WARM_UP + worker.MEASURED, {"share_waiting_for_input": 0.25})
    assert meter.result == {"samples_per_s": worker.MEASURED * 7 / 20, "share_waiting": 0.25}


def test_outputs_of_the_old_tasks_are_put_back(load):
    from mtseg.runs.building import build_model
    from mtseg.runs.config import TrainConfig
    from mtseg.runs.growing import LOGITS
    from mtseg.runs.weights import TrainedModel
    from mtseg.tasks.label_space import parse_tasks

    def make(tasks):
        config = TrainConfig(tasks, "", backgrounds="by-task")
        label_space = parse_tasks(tasks)
        return TrainedModel(config, label_space, build_model(config, label_space))

    old, new = make("brain"), make("breast")
    joined, label_space = load("adding_a_task").put_back(old, new, "brain,breast")
    assert label_space.class_names[-1] == "pectoral_muscle"
    kernel, of_old, of_new = (
        model.get_layer(LOGITS).get_weights()[0] for model in (joined, old.model, new.model)
    )
    # Outputs: both backgrounds, six tissues, one muscle.
    np.testing.assert_array_equal(kernel[..., [0, *range(2, 8)]], of_old)
    np.testing.assert_array_equal(kernel[..., [1, 8]], of_new)
    for layer in joined.layers:
        if layer.name == LOGITS:
            continue
        for values, expected in zip(
            layer.get_weights(), new.model.get_layer(layer.name).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(values, expected)
