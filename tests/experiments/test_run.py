"""The plan of the experiments, resuming them, their comparison, and budgets of time."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from mtseg.batches.draws import read_source_weights, read_task_weights
from mtseg.errors import InputError
from mtseg.evaluation.results import Evaluation, Row
from mtseg.experiments import budget, run
from mtseg.experiments.budget import Costs, fit_budget
from mtseg.experiments.compare import compare_networks, comparison_table
from mtseg.experiments.plan import Experiment, plan_experiments, read_plan, write_plan
from mtseg.experiments.report.contents import make_report
from mtseg.experiments.results import Result, read_results
from mtseg.experiments.stored import StoredExperiments
from mtseg.provenance.training_data import TRAINING_DATA, write_training_data
from mtseg.records.reading import read_fingerprints
from mtseg.runs.config import configure
from mtseg.runs.workdir import labels_path
from mtseg.system.atomic_files import lock_folder
from mtseg.system.progress import Progress
from mtseg.tasks.label_space import parse_tasks
from mtseg.training.callbacks import RunStart
from mtseg.training.engines import tensorflow_engine
from mtseg.training.failures import DivergedError

CONFIG = configure("fast", "brain,breast,cta", "data", precision="float32")


def test_three_tasks_give_the_papers_seven_experiments_and_a_repeat():
    planned = plan_experiments(CONFIG)
    assert [(e.number, e.name, e.config.tasks, e.config.seed) for e in planned] == [
        (1, "brain", "brain:phantom", 0),
        (2, "breast", "breast:phantom", 0),
        (3, "cta", "cta:phantom", 0),
        (4, "brain+breast", "brain:phantom,breast:phantom", 0),
        (5, "brain+cta", "brain:phantom,cta:phantom", 0),
        (6, "breast+cta", "breast:phantom,cta:phantom", 0),
        (7, "brain+breast+cta", "brain:phantom,breast:phantom,cta:phantom", 0),
        (8, "brain_again", "brain:phantom", 1),
    ]
    assert [e.num_minibatches for e in planned] == [1200] * 3 + [2400] * 3 + [3600, 1200]
    assert [e.is_repeat for e in planned] == [False] * 7 + [True]
    assert planned[7].task_names == ("brain",)


def test_a_single_task_is_trained_twice():
    config = configure("fast", "cta", "data")
    assert [e.name for e in plan_experiments(config)] == ["cta", "cta_again"]


def test_each_network_has_the_weights_of_its_own_tasks():
    config = configure(
        "fast",
        "brain:miccai2012+freesurfer,breast,cta",
        "data",
        task_weights="breast=2, cta=3",
        source_weights="brain:miccai2012=1,brain:freesurfer=4",
    )
    planned = plan_experiments(config)
    of_brain = "brain:miccai2012=1,brain:freesurfer=4"
    assert [(e.name, e.config.task_weights, e.config.source_weights) for e in planned] == [
        ("brain", "", of_brain),
        ("breast", "breast=2", ""),
        ("cta", "cta=3", ""),
        ("brain+breast", "breast=2", of_brain),
        ("brain+cta", "cta=3", of_brain),
        ("breast+cta", "breast=2,cta=3", ""),
        ("brain+breast+cta", "breast=2,cta=3", of_brain),
        ("brain_again", "", of_brain),
    ]
    for experiment in planned:  # as its training run reads them
        label_space = parse_tasks(experiment.config.tasks)
        assert len(read_task_weights(experiment.config.task_weights, label_space)) > 0
        read_source_weights(experiment.config.source_weights, label_space)


@pytest.mark.parametrize(
    ("weights", "named"),
    [
        ({"task_weights": "breast=2,heart=3"}, "task_weights: 'heart=3' .* brain, breast, cta"),
        ({"source_weights": "brain:miccai2012=2"}, "source_weights: 'brain:miccai2012=2'"),
    ],
)
def test_a_weight_of_what_no_network_has_is_refused(weights, named):
    with pytest.raises(InputError, match=named):
        plan_experiments(dataclasses.replace(CONFIG, **weights))


def test_a_folder_keeps_its_plan_and_refuses_another_configuration(tmp_path):
    assert read_plan(tmp_path / "none") is None
    write_plan(tmp_path, CONFIG, minutes=30.0)
    write_plan(tmp_path, CONFIG)
    assert read_plan(tmp_path) == (CONFIG, 30.0)
    with pytest.raises(InputError, match="seed: 0 / 3"):
        write_plan(tmp_path, dataclasses.replace(CONFIG, seed=3))
    assert read_results(tmp_path) == []


def test_a_plan_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(InputError, match=r"plan\.json"):
        read_results(tmp_path)
    with pytest.raises(InputError, match="mtseg-experiments"):
        read_results(tmp_path / "elsewhere")


def test_scans_for_learning_curves_are_looked_for_before_the_first_network_is_trained(
    tiny_data, three_splits, tmp_path, monkeypatch
):
    """The breast has validation scans and the brain has none: the network for both is refused."""
    both = tmp_path / "data"
    shutil.copytree(tiny_data.data_dir, both)
    shutil.rmtree(both / "mtseg_breast")
    shutil.copytree(three_splits / "mtseg_breast", both / "mtseg_breast")
    monkeypatch.setattr(run, "train_and_evaluate", None)
    config = configure("fast", "brain,breast", str(both))
    with pytest.raises(InputError, match="brain was prepared without"):
        run.run_experiments(config, tmp_path / "out", "")


class Counted(Progress):
    """Remembers what was counted as done before, and as done now."""

    def __init__(self, title, total, unit):
        super().__init__(title, total, unit)
        Counted.total, Counted.skipped, Counted.advanced = total, 0, 0

    def skip(self, steps):
        Counted.skipped += steps

    def advance(self, steps=1, note=""):
        Counted.advanced += steps


def test_only_what_is_not_finished_is_trained(recorded, tmp_path, monkeypatch):
    recorded_path, config = recorded
    path = tmp_path / "out"
    shutil.copytree(recorded_path, path)
    shutil.rmtree(path / "brain+cta")
    # Killed between the evaluation and the last point of the curve: this run resumes.
    curve_path = path / "cta" / "learning_curve.json"
    curve_path.write_text(json.dumps(json.loads(curve_path.read_text())[:-1]))
    trained = []

    def train(config, workdir, command, *, is_complete, callbacks):
        trained.append((config.tasks, workdir.name, is_complete))
        num_steps = 40 * len(config.tasks.split(","))
        callbacks[0].on_start(RunStart(config, None, workdir, 30, num_steps))
        callbacks[0].on_figures(num_steps, {"loss": 1.0})
        shutil.rmtree(workdir, ignore_errors=True)
        shutil.copytree(recorded_path / workdir.name, workdir)
        return "an evaluation"

    monkeypatch.setattr(run, "train_and_evaluate", train)
    monkeypatch.setattr(run, "Progress", Counted)
    results = run.run_experiments(config, path)
    assert Counted.total == sum(e.num_minibatches for e in plan_experiments(config))
    assert (Counted.skipped + Counted.advanced, Counted.advanced) == (Counted.total, 10 + 50)
    assert trained == [
        ("cta:phantom", "cta", True),
        ("brain:phantom,cta:phantom", "brain+cta", True),
    ]
    assert [r.experiment.name for r in results] == [e.name for e in plan_experiments(config)]
    rows = json.loads((path / "comparison.json").read_text())["rows"]
    assert len([row for row in rows if row["class"] == "all"]) == 10


def test_two_jobs_share_the_experiments_and_the_last_one_compares_them(
    recorded, tmp_path, monkeypatch
):
    recorded_path, config = recorded
    trained = []

    def train(config, workdir, command, *, is_complete, callbacks):
        trained.append(workdir.name)
        shutil.copytree(recorded_path / workdir.name, workdir)
        return "an evaluation"

    monkeypatch.setattr(run, "train_and_evaluate", train)
    results = run.run_experiments(config, tmp_path, num_parts=2, part_id=1)
    assert trained == [e.name for e in plan_experiments(config)][1::2]
    assert {r.experiment.name for r in results} == set(trained)
    assert not (tmp_path / "comparison.json").exists()
    results = run.run_experiments(config, tmp_path, num_parts=2, part_id=0)
    assert sorted(trained) == sorted(e.name for e in plan_experiments(config))
    assert len(results) == len(trained)
    assert (tmp_path / "comparison.json").is_file()


def test_jobs_that_share_the_experiments_do_not_lock_each_other_out(
    recorded, tmp_path, monkeypatch
):
    recorded_path, config = recorded

    def train(config, workdir, command, *, is_complete, callbacks):
        shutil.copytree(recorded_path / workdir.name, workdir)
        if workdir.name == "brain":  # the other job runs while this one trains
            run.run_experiments(recorded[1], tmp_path, num_parts=2, part_id=1)
        return "an evaluation"

    monkeypatch.setattr(run, "train_and_evaluate", train)
    run.run_experiments(config, tmp_path, num_parts=2, part_id=0)
    assert (tmp_path / "comparison.json").is_file()


def test_a_stopped_run_ends_the_experiments(recorded, tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(run, "train_and_evaluate", lambda *of, **how: trained.append(of[1].name))
    assert run.run_experiments(recorded[1], tmp_path) is None
    assert trained == ["brain"]
    assert not (tmp_path / "comparison.json").exists()


@pytest.mark.promise("refused input")
def test_networks_that_were_made_from_other_data_are_not_compared(recorded, tiny_data, tmp_path):
    path, config = tmp_path / "out", recorded[1]
    shutil.copytree(recorded[0], path)
    for name in ("brain", "cta"):
        (print_,), _ = read_fingerprints(config.data_dir, parse_tasks(name), "volumes")
        write_training_data(path / name, [print_])
    assert run.run_experiments(config, path)
    # Before, the test phantom of brain was another one.
    (path / "brain" / TRAINING_DATA).unlink()
    (print_,), _ = read_fingerprints(config.data_dir, parse_tasks("brain"), "volumes")
    *of_training, tested = print_.subjects
    subjects = (*of_training, dataclasses.replace(tested, seed=7))
    write_training_data(path / "brain", [dataclasses.replace(print_, subjects=subjects)])
    with pytest.raises(InputError, match=r"other data .*: brain \(.*phantom phantom1000 chang"):
        run.run_experiments(config, path)
    # Nor is the scan that it is now shown with the labels of before.
    with pytest.raises(
        InputError, match=r"prepared again after the experiments .*phantom1000 chan"
    ):
        StoredExperiments(path).read("brain", "phantom1000")
    with pytest.raises(InputError, match=r"prepared again after the experiments"):
        make_report(read_results(path), path)


def test_labels_of_another_size_than_the_scan_are_not_shown(recorded, tmp_path):
    """Of networks of an earlier version, which do not say what they were made from."""
    path = tmp_path / "out"
    shutil.copytree(recorded[0], path)
    labels_file = labels_path(path / "brain", "brain", "phantom1000")
    np.savez(labels_file, labels=np.zeros((3, 3, 3), np.uint8))
    with pytest.raises(InputError, match="phantom1000 has another size"):
        StoredExperiments(path).read("brain", "phantom1000")


def test_two_commands_do_not_share_a_folder(recorded, tmp_path):
    with (
        lock_folder(tmp_path, "in use"),
        pytest.raises(InputError, match="another command runs experiments here"),
    ):
        run.run_experiments(recorded[1], tmp_path)


def test_a_network_that_diverges_is_one_line_that_keeps_the_comparison_fair(
    tiny_data, tmp_path, monkeypatch
):
    def diverge(*_, **__):
        raise DivergedError("none: rerun with another rate.", 7)

    monkeypatch.setattr(run, "train_and_evaluate", diverge)
    config = dataclasses.replace(CONFIG, data_dir=str(tiny_data.data_dir))
    with pytest.raises(InputError, match=r"brain: diverged at mini-batch 7\..*another --out"):
        run.run_experiments(config, tmp_path / "out")


def result(name, **dice):
    """A finished experiment with the Dice of each class over its scans."""
    rows = [
        Row(task, class_name, str(scan), "dice", value)
        for key, values in dice.items()
        for task, class_name in [key.split("__")]
        for scan, value in enumerate(values)
    ]
    names = tuple(name.removesuffix("_again").split("+"))
    experiment = Experiment(1, name, names, CONFIG, name.endswith("_again"))
    return Result(experiment, Path("none"), Evaluation(tuple(rows), {}), [])


def test_networks_are_compared_with_the_single_task_network():
    results = [
        result("breast", breast__x=[0.8, 0.9], breast__y=[0.5, None]),
        result("cta", cta__z=[0.6, 0.6, 0.61, 0.59, 0.6, 0.6]),
        result(
            "breast+cta",
            breast__x=[0.81, 0.91],
            breast__y=[0.4, None],
            cta__z=[0.5, 0.52, 0.5, 0.51, 0.5, 0.5],
        ),
        result("breast_again", breast__x=[0.8, 0.92], breast__y=[0.6, None]),
    ]
    comparison = compare_networks(results)
    rows = {(r["task"], r["class"], r["network"]): r for r in comparison["rows"]}
    both = "breast+cta"
    assert set(rows) == {
        ("breast", "x", both), ("breast", "y", both), ("breast", "all", both),
        ("breast", "x", "breast_again"), ("breast", "y", "breast_again"),
        ("breast", "all", "breast_again"), ("cta", "z", both), ("cta", "all", both),
    }  # fmt: skip
    # The single-task network is the mean of both its runs: 0.8 and 0.91.
    assert rows["breast", "x", "breast+cta"]["single"] == pytest.approx(0.855)
    assert rows["breast", "x", "breast+cta"]["difference"] == pytest.approx(0.005)
    assert rows["breast", "x", "breast+cta"]["num_runs"] == 3
    assert rows["breast", "x", "breast+cta"]["verdict"] == "undecided"  # two scans
    assert rows["cta", "z", "breast+cta"]["num_runs"] == 2
    assert rows["cta", "z", "breast+cta"]["difference"] == pytest.approx(-0.095)
    assert rows["cta", "z", "breast+cta"]["verdict"] == "inferior"
    # The repeat is compared with the first run alone.
    assert rows["breast", "y", "breast_again"]["difference"] == pytest.approx(0.1)
    assert rows["breast", "y", "breast_again"]["single"] == 0.5
    # Means over the classes that each scan has: (0.8 + 0.55) / 2 and 0.91, then 0.605 and 0.91.
    assert rows["breast", "all", "breast+cta"]["single"] == pytest.approx((0.675 + 0.91) / 2)
    assert rows["breast", "all", "breast+cta"]["difference"] == pytest.approx((-0.07 + 0) / 2)
    table = comparison_table(comparison)
    assert "inferior" in table
    assert "-0.095" in table


class Timed:
    """In place of the training step: how many mini-batches each call had."""

    lengths: list[int]

    def __init__(self, *_):
        Timed.lengths = []

    def state(self):
        return {}

    def __call__(self, patches, score_index, is_stopping):
        Timed.lengths.append(len(patches))
        return tf.zeros(len(patches)), False


@pytest.mark.parametrize(("steps_per_call", "calls"), [(1, [1] * 11), (4, [4] * 4), (25, [25] * 2)])
def test_a_budget_times_calls_as_long_as_those_of_the_run(
    tiny_data, monkeypatch, steps_per_call, calls
):
    """The first call compiles; ten mini-batches or more are timed after it."""
    monkeypatch.setattr(tensorflow_engine, "TrainingStep", Timed)
    config = configure(
        "demo",
        "breast",
        str(tiny_data.data_dir),
        steps_per_call=steps_per_call,
        precision="float32",
    )
    budget._time_minibatch(config, tiny_data.label_space, 10)
    assert Timed.lengths == calls


def test_a_damaged_shard_is_named_while_a_budget_is_measured(tiny_data, tmp_path, monkeypatch):
    data_dir = shutil.copytree(tiny_data.data_dir, tmp_path / "data")
    shard, *_ = data_dir.glob("mtseg_breast/phantom_patches/*/*.tfrecord-*")

    class Truncates(Timed):
        def __call__(self, *batch):
            os.truncate(shard, 1000)
            return super().__call__(*batch)

    monkeypatch.setattr(tensorflow_engine, "TrainingStep", Truncates)
    config = configure("demo", "breast", str(data_dir), precision="float32", input="patches")
    with pytest.raises(InputError, match="was changed while it was in use"):
        budget._time_minibatch(config, tiny_data.label_space, 50)


def test_minutes_become_minibatches():
    costs = Costs(minibatch_seconds=0.5, evaluation_seconds={"brain": 60, "breast": 20, "cta": 10})
    config = fit_budget(CONFIG, 120, costs)
    # Tasks trained: 1 + 1 + 1 + 2 + 2 + 2 + 3 + 1 = 13. Brain is evaluated in 5 of the eight
    # experiments, breast and CTA in 4, four times each; 10 s go with each experiment.
    left = 120 * 60 - 8 * 10 - 4 * (5 * 60 + 4 * 20 + 4 * 10)
    assert config.minibatches_per_task == int(left / (13 * 0.5))
    assert config.evaluate_every == -(-config.minibatches_per_task // 4)


def test_too_few_minutes_say_how_many_are_needed():
    costs = Costs(minibatch_seconds=0.5, evaluation_seconds={"brain": 60, "breast": 20, "cta": 10})
    with pytest.raises(InputError, match="at least 31"):
        fit_budget(CONFIG, 10, costs)
