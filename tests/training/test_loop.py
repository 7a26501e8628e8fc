"""Resuming to the bit, two replicas as one device, and what may go wrong during a run."""

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtseg.errors import InputError
from mtseg.evaluation.results import Evaluation, Row
from mtseg.models.export import export_weights
from mtseg.provenance.training_data import TRAINING_DATA, read_all_training_data
from mtseg.runs.config import TrainConfig
from mtseg.runs.manifest import read_manifest
from mtseg.runs.weights import load_trained
from mtseg.runs.workdir import LEARNING_CURVE, weights_path
from mtseg.training.checkpoints import Checkpoints
from mtseg.training.engines.tensorflow_engine import TensorFlowEngine
from mtseg.training.engines.tensorflow_step import TrainingStep
from mtseg.training.loop import plan_calls, train_and_evaluate
from tests.event_files import scalars_of

pytestmark = pytest.mark.slow

EVALUATE = "mtseg.training.reporting.evaluate_model"
"""What tests put something else in place of."""


def no_scores(*_, **__):
    return Evaluation((), {})


@pytest.fixture
def without_evaluation(monkeypatch):
    """Evaluations score no scan: inference of whole volumes has tests of its own."""
    monkeypatch.setattr(EVALUATE, no_scores)


def make_config(tiny_data, **changes):
    settings = {
        "minibatches_per_task": 4,
        "global_batch_size": 4,
        "evaluate_every": 4,
        "checkpoint_every": 2,
        "schedule": "cosine",
        "warmup_minibatches": 2,
    }
    return TrainConfig("breast:phantom", str(tiny_data.data_dir), **{**settings, **changes})


@pytest.fixture(scope="module")
def finished(tiny_data, tmp_path_factory):
    """The folder of a run of `make_config` that never stopped; copy it to change it."""
    workdir = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EVALUATE, no_scores)
        train_and_evaluate(make_config(tiny_data), workdir)
    return workdir


def weights_of(workdir, which="last"):
    return load_trained(workdir, which).model.get_weights()


def assert_same_weights(one, other):
    for a, b in zip(weights_of(one), weights_of(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_calls_end_where_something_is_due():
    assert plan_calls(0, 3, 1, 10) == [(0, 1), (1, 2), (2, 3)]
    assert plan_calls(2, 11, 4, 5) == [(2, 5), (5, 9), (9, 10), (10, 11)]
    assert plan_calls(0, 12, 100, 5, 4) == [(0, 4), (4, 5), (5, 8), (8, 10), (10, 12)]
    assert plan_calls(7, 7, 1, 10) == []


@pytest.mark.promise("exact resume")
@pytest.mark.parametrize(
    # Muon moves biases and the like by Adam, so its checkpoint has the states of both.
    "optimizer",
    ["muon", pytest.param("adam", marks=pytest.mark.thorough)],
)
def test_a_resumed_run_has_the_weights_of_one_that_never_stopped(
    tiny_data, finished, tmp_path, without_evaluation, optimizer, capsys
):
    config = make_config(tiny_data, optimizer=optimizer)
    whole = finished
    if optimizer != "adam":
        whole = tmp_path / "whole"
        train_and_evaluate(config, whole)

    class Killed(Exception):
        pass

    def save_and_die(self, step):
        save(self, step)
        raise Killed

    save = Checkpoints.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_die)
        with pytest.raises(Killed):
            train_and_evaluate(config, tmp_path / "stopped")
    train_and_evaluate(config, tmp_path / "stopped")
    assert_same_weights(whole, tmp_path / "stopped")
    assert "had almost no momentum" not in capsys.readouterr().out


@pytest.mark.promise("exact resume")
def test_a_run_whose_patches_the_device_cuts_from_its_middle_on_has_the_same_weights(
    tiny_data, finished, tmp_path, without_evaluation, capsys
):
    workdir = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "step-4")
    assert "Patches are cut on the device" not in capsys.readouterr().out
    train_and_evaluate(make_config(tiny_data, input="device"), workdir)
    printed = capsys.readouterr().out
    assert "Resuming after mini-batch 2 of 4." in printed
    assert "Patches are cut on the device, from " in printed
    assert_same_weights(finished, workdir)


@pytest.mark.promise("exact resume")
@pytest.mark.parametrize(
    "when", ["evaluation", pytest.param("training", marks=pytest.mark.thorough)]
)
def test_sigterm_saves_the_run_and_resuming_gives_the_same_weights(
    tiny_data, finished, tmp_path, monkeypatch, capsys, when
):
    def evaluate(*_, on_scan, **__):
        if when == "evaluation" and not is_sent:
            send()
        on_scan("a scan")
        return Evaluation((), {})

    def send():
        is_sent.append(True)
        os.kill(os.getpid(), signal.SIGTERM)

    def compute(self, *arguments):
        if when == "training" and not is_sent:
            send()
        return step(self, *arguments)

    is_sent, step = [], TrainingStep._compute_call
    monkeypatch.setattr(EVALUATE, evaluate)
    # When a run evaluates and saves does not change its weights, so `finished` is its like.
    config = make_config(tiny_data, evaluate_every=3, checkpoint_every=100)
    monkeypatch.setattr(TrainingStep, "_compute_call", compute)  # called when it is traced
    assert train_and_evaluate(config, tmp_path / "stopped") is None
    assert is_sent
    assert "Stopped. Rerun the command to resume." in capsys.readouterr().out
    (saved,) = (tmp_path / "stopped" / "checkpoints").iterdir()
    # A signal within a step is seen by the next.
    assert saved.name == {"training": "step-2", "evaluation": "step-3"}[when]
    assert train_and_evaluate(config, tmp_path / "stopped") is not None
    curve = json.loads((tmp_path / "stopped" / LEARNING_CURVE).read_text())
    assert [point["minibatch"] for point in curve] == [3, 4]
    assert_same_weights(finished, tmp_path / "stopped")


def train_mirrored(config, workdir):
    """Trains on two devices, which cut the patches, in another process.

    TensorFlow cannot change a collective's type.
    """
    config = dataclasses.replace(config, strategy="mirrored", input="device")
    script = f"""
import tensorflow as tf
from mtseg.evaluation.results import Evaluation
from mtseg.training import reporting
from mtseg.runs.config import TrainConfig
from mtseg.training.loop import train_and_evaluate

(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
reporting.evaluate_model = lambda *_, **__: Evaluation((), {{}})
train_and_evaluate(TrainConfig.from_json({config.to_json()!r}), {str(workdir)!r})
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    ("precision", "optimizer", "count", "tolerance"),
    [
        # In float64, where a few steps do not yet make rounding visible. Masks are drawn for the
        # mini-batch, so dropout may be on.
        ("float64", "adam", 4, 1e-5),
        pytest.param("float64", "muon", 3, 1e-5, marks=pytest.mark.thorough),
        # Normalising four samples enlarges rounding, and Adam divides by the gradient's size, also
        # where that is nothing but rounding: a second step would differ more.
        pytest.param("float32", "adam", 1, 5e-4, marks=pytest.mark.thorough),
        pytest.param("mixed_bfloat16", "adam", 1, 0.1, marks=pytest.mark.thorough),
    ],
)
def test_two_replicas_are_one_device(
    tiny_data, tmp_path, without_evaluation, precision, optimizer, count, tolerance
):
    config = make_config(
        tiny_data, precision=precision, optimizer=optimizer, minibatches_per_task=count,
        evaluate_every=count, checkpoint_every=1,
    )  # fmt: skip
    train_and_evaluate(config, tmp_path / "one")
    train_mirrored(config, tmp_path / "two")
    one, two = (scalars_of(tmp_path / name, "loss") for name in ("one", "two"))
    assert list(one) == list(two) == list(range(1, count + 1))
    for step in one:
        assert one[step] == pytest.approx(two[step], abs=tolerance)


@pytest.mark.promise("defined numerics")
def test_a_batch_that_replicas_cannot_share_is_refused(tiny_data, tmp_path, without_evaluation):
    config = make_config(tiny_data, strategy="mirrored", global_batch_size=15)
    with pytest.raises(InputError, match=r"Use 1 of them.*--devices 1.* multiple of 2"):
        train_and_evaluate(config, tmp_path)


def test_a_run_starts_from_the_weights_of_another(
    tiny_data, tmp_path, finished, without_evaluation, capsys
):
    """So slow a rate that a mini-batch moves no weight."""
    start, workdir = shutil.copytree(finished, tmp_path / "start"), tmp_path / "run"
    (start / TRAINING_DATA).unlink()
    config = make_config(
        tiny_data, minibatches_per_task=1, learning_rate=1e-12, seed=5, init_from=str(start)
    )
    train_and_evaluate(config, workdir)
    printed = capsys.readouterr().out
    assert "Starting from the trained network breast:phantom." in printed
    assert f"--init-from: {start} does not say what it was trained on." in printed
    assert read_all_training_data(finished, "")[1]
    assert not read_all_training_data(workdir, "")[1]
    started, trained = (load_trained(path).model for path in (workdir, finished))
    for one, other in zip(started.trainable_weights, trained.trainable_weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    shutil.rmtree(start)  # a run that is resumed does not need it any more
    assert train_and_evaluate(config, workdir) is not None


@pytest.mark.parametrize(
    "class_priors", [pytest.param("drawn", marks=pytest.mark.thorough), "natural"]
)
def test_a_run_that_starts_from_natural_frequencies_gets_them_once(
    tiny_data, tmp_path, without_evaluation, class_priors
):
    """Counted twice, a class of one voxel in a hundred would be one in ten thousand."""
    common = {"minibatches_per_task": 1, "learning_rate": 1e-12}
    first, second = tmp_path / "first", tmp_path / "second"
    train_and_evaluate(make_config(tiny_data, class_priors="natural", **common), first)
    config = make_config(tiny_data, class_priors=class_priors, init_from=str(first), **common)
    train_and_evaluate(config, second)
    trained, started = (
        load_trained(workdir).model.get_layer("logits").bias.numpy() for workdir in (first, second)
    )
    if class_priors == "natural":
        np.testing.assert_allclose(started, trained, atol=1e-6)
    else:  # a network that was not trained has a bias of 0
        np.testing.assert_allclose(started, 0, atol=1e-6)
        assert np.abs(trained).max() > 0.1


def test_a_run_that_becomes_longer_goes_on_where_it_ended(
    tiny_data, tmp_path, without_evaluation, capsys
):
    for count in (1, 2):
        config = make_config(
            tiny_data, minibatches_per_task=count, evaluate_every=1, checkpoint_every=1,
            schedule="constant", warmup_minibatches=0,
        )  # fmt: skip
        train_and_evaluate(config, tmp_path)
    assert "Resuming after mini-batch 1 of 2." in capsys.readouterr().out
    assert list(scalars_of(tmp_path, "loss")) == [1, 2]


def test_several_steps_a_call_are_the_same_steps(tiny_data, tmp_path, without_evaluation):
    common = {"minibatches_per_task": 7, "evaluate_every": 7, "checkpoint_every": 5}
    train_and_evaluate(make_config(tiny_data, **common), tmp_path / "one")
    train_and_evaluate(make_config(tiny_data, **common, steps_per_call=3), tmp_path / "three")
    one, three = (scalars_of(tmp_path / name, "loss") for name in ("one", "three"))
    assert list(one) == list(three) == [5, 7]
    for a, b in zip(weights_of(tmp_path / "one"), weights_of(tmp_path / "three"), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("steps", "points"),
    [
        (11, [11]),
        pytest.param(4, [8, 16, 24], marks=pytest.mark.thorough),
        pytest.param(1, [10, 20, 25], marks=pytest.mark.thorough),
    ],
)
def test_any_number_of_steps_a_call_is_obeyed(
    tiny_data, tmp_path, without_evaluation, monkeypatch, steps, points
):
    total = {11: 11, 4: 24, 1: 25}[steps]
    config = make_config(
        tiny_data, minibatches_per_task=total, evaluate_every=total, checkpoint_every=total,
        steps_per_call=steps,
    )  # fmt: skip
    lengths, call = [], TrainingStep.__call__

    def compute(self, patches, *others):
        lengths.append(len(patches))
        return call(self, patches, *others)

    monkeypatch.setattr(TrainingStep, "__call__", compute)
    train_and_evaluate(config, tmp_path)
    assert lengths == [steps] * (total // steps)
    assert list(scalars_of(tmp_path, "loss")) == points


def test_backgrounds_by_task_are_one_class_of_the_exported_model(tiny_data, tmp_path):
    config = make_config(tiny_data, backgrounds="by-task", class_priors="natural")
    config = dataclasses.replace(config, tasks="breast:phantom,cta:phantom")
    evaluation = train_and_evaluate(config, tmp_path / "run")
    assert len(evaluation.mean_dice()) == 2
    export_weights(tmp_path / "run", tmp_path / "model")
    trained = load_trained(tmp_path / "model")
    assert trained.model.get_layer("logits").filters == 4
    assert trained.model.output.shape[-1] == len(trained.label_space.class_names) == 3


def test_augmented_samples_train_too(tiny_data, tmp_path, without_evaluation):
    config = make_config(tiny_data, augment="flip,intensity")
    train_and_evaluate(config, tmp_path)
    assert np.isfinite(list(scalars_of(tmp_path, "loss").values())).all()
    waiting = scalars_of(tmp_path, "share_waiting_for_input")
    assert waiting
    assert all(0 <= share <= 1 for share in waiting.values())


@pytest.mark.parametrize("count", [pytest.param(7, marks=pytest.mark.thorough), 11])
def test_a_profile_for_tensorboard(tiny_data, tmp_path, without_evaluation, count):
    config = make_config(tiny_data, minibatches_per_task=count, evaluate_every=count)
    train_and_evaluate(config, tmp_path, is_profiling=True)
    assert list((tmp_path / "tensorboard").glob("plugins/profile/*/*.xplane.pb"))


@pytest.mark.promise("damage is noticed")
def test_a_shard_that_shrinks_during_training_is_one_clear_line(
    tiny_data, tmp_path, without_evaluation
):
    data_dir = tmp_path / "data"
    shutil.copytree(tiny_data.data_dir, data_dir)
    shard, *_ = data_dir.glob("mtseg_breast/phantom_patches/*/*.tfrecord-*")

    def save_and_truncate(self, step):
        save(self, step)
        os.truncate(shard, 1000)

    save = Checkpoints.save
    config = make_config(tiny_data, input="patches", minibatches_per_task=60, evaluate_every=60)
    config = dataclasses.replace(config, data_dir=str(data_dir))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_truncate)
        with pytest.raises(InputError, match="was changed while it was in use"):
            train_and_evaluate(config, tmp_path / "run")


def test_a_full_disk_is_one_clear_line_and_the_run_resumes_when_there_is_room(
    tiny_data, tmp_path, without_evaluation
):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    config = make_config(tiny_data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mtseg.training.checkpoints.sync_to_disk", fail)
        with pytest.raises(InputError, match=r"No space left on device.*Make room"):
            train_and_evaluate(config, tmp_path)
    assert train_and_evaluate(config, tmp_path) is not None


def poison_after(monkeypatch, step, what="kernel"):
    """Makes one weight infinite in the call of the training step that ends with this one."""
    done = []

    def compute(self, *arguments):
        result = call(self, *arguments)
        done.append(1)
        if len(done) == step:
            variables = [*self.model.variables, *self.optimizer.variables]
            poisoned = next(v for v in variables if what in v.path)
            poisoned.assign(poisoned + np.inf)
        return result

    call = TrainingStep.__call__
    monkeypatch.setattr(TrainingStep, "__call__", compute)


@pytest.mark.promise("defined numerics")
def test_a_loss_that_is_not_finite_stops_the_run_and_another_rate_is_taken(
    tiny_data, tmp_path, without_evaluation, capsys
):
    config = make_config(tiny_data, learning_rate=1e30, warmup_minibatches=0, schedule="constant")
    with pytest.raises(InputError, match=r"mini-batch [12]\b.*lower --learning-rate.*1e\+30"):
        train_and_evaluate(config, tmp_path)
    assert not list(tmp_path.glob("checkpoints/*"))
    # Other settings still make it another run.
    with pytest.raises(InputError, match=r"dropout_rate.*learning_rate and warmup_minib"):
        train_and_evaluate(dataclasses.replace(config, dropout_rate=0.1), tmp_path)
    mended = dataclasses.replace(config, learning_rate=1e-3, warmup_minibatches=2)
    assert train_and_evaluate(mended, tmp_path) is not None
    assert "diverged at mini-batch" in capsys.readouterr().out
    assert json.loads((tmp_path / "config.json").read_text())["learning_rate"] == 1e-3
    # With a checkpoint after the divergence it is a run like any other.
    with pytest.raises(InputError, match="another configuration"):
        train_and_evaluate(config, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["learning_rate"] == 1e-3


@pytest.mark.promise("defined numerics")
@pytest.mark.parametrize(
    "what",
    [
        "kernel",
        *(pytest.param(w, marks=pytest.mark.thorough) for w in ("moving_variance", "velocity")),
    ],
)
def test_weights_that_are_not_finite_are_never_saved(
    tiny_data, tmp_path, without_evaluation, capsys, what
):
    """The loss of the mini-batch itself is still finite."""
    config = make_config(tiny_data, schedule="constant", warmup_minibatches=0)
    with pytest.MonkeyPatch.context() as patch:
        poison_after(patch, 4, what)
        with pytest.raises(
            InputError, match=r"not finite after mini-batch 4.*after mini-batch 2\."
        ):
            train_and_evaluate(config, tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-2"]
    assert not weights_path(tmp_path, "last").exists()
    # The rate of the checkpoint does not come back.
    slower = dataclasses.replace(config, learning_rate=0.0005)
    assert train_and_evaluate(slower, tmp_path) is not None
    assert "learning_rate: 0.001 / 0.0005" in capsys.readouterr().out
    assert list(scalars_of(tmp_path, "learning_rate").values())[-1] == pytest.approx(0.0005)


@pytest.mark.promise("damage is noticed")
def test_a_checkpoint_that_is_not_finite_is_skipped(
    tiny_data, tmp_path, without_evaluation, capsys
):
    """As earlier versions wrote them."""
    config = make_config(tiny_data, schedule="constant", warmup_minibatches=0)
    with pytest.MonkeyPatch.context() as patch:
        poison_after(patch, 4)
        patch.setattr(TrainingStep, "is_finite", lambda self: True)
        train_and_evaluate(config, tmp_path)
    assert train_and_evaluate(config, tmp_path) is not None
    assert "step-4: its weights are not finite" in capsys.readouterr().out
    assert all(np.isfinite(weight).all() for weight in weights_of(tmp_path))


def test_a_run_of_the_earlier_rule_of_muon_says_so_when_it_is_resumed(
    tiny_data, tmp_path, without_evaluation, capsys
):
    config = make_config(tiny_data, optimizer="muon")
    train_and_evaluate(config, tmp_path)
    for path in (tmp_path / "checkpoints").glob("*/rules.json"):
        path.unlink()
    train_and_evaluate(config, tmp_path)
    assert "first 4 mini-batches" in (out := capsys.readouterr().out)
    assert "had almost no momentum" in out


def test_best_and_last_weights_each_with_its_evaluation_and_the_learning_curve(
    tiny_data, tmp_path, monkeypatch
):

    scores = iter([0.2, 0.6, 0.4])

    def evaluate(*_, **__):
        return Evaluation((Row("breast", "pectoral_muscle", "a", "dice", next(scores)),), {})

    monkeypatch.setattr(EVALUATE, evaluate)
    train_and_evaluate(make_config(tiny_data, minibatches_per_task=3, evaluate_every=1), tmp_path)
    curve = json.loads((tmp_path / LEARNING_CURVE).read_text())
    assert [point["minibatch"] for point in curve] == [1, 2, 3]
    assert [point["mean_dice"] for point in curve] == [0.2, 0.6, 0.4]
    last, best = (weights_of(tmp_path, which) for which in ("last", "best"))
    assert any((a != b).any() for a, b in zip(last, best, strict=True))
    # Weights are exported with the evaluation that they had.
    dice = {}
    for which in ("last", "best"):
        path = export_weights(tmp_path, tmp_path / which, which)
        dice[which] = read_manifest(path)["mean_dice_on_test_scans"]["breast/pectoral_muscle"]
    assert dice == {"last": 0.4, "best": 0.6}


@pytest.mark.promise("damage is noticed")
def test_weights_that_were_lost_are_written_again(
    tiny_data, finished, tmp_path, without_evaluation
):
    workdir = shutil.copytree(finished, tmp_path / "run")
    weights_path(workdir, "last").unlink()
    train_and_evaluate(make_config(tiny_data), workdir)
    assert_same_weights(workdir, finished)


@pytest.mark.promise("damage is noticed")
def test_a_damaged_weights_file_is_one_clear_line(finished, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "run")
    weights_path(workdir, "last").write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"last\.weights\.h5"):
        load_trained(workdir)


@pytest.mark.parametrize(
    "precision", ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.thorough)]
)
def test_mixed_precision_keeps_float32_weights(tiny_data, tmp_path, without_evaluation, precision):
    config = make_config(tiny_data, minibatches_per_task=2, precision=precision)
    train_and_evaluate(config, tmp_path)
    assert keras.config.dtype_policy().name == "float32"
    assert {w.dtype.name for w in weights_of(tmp_path)} == {"float32"}
    assert np.isfinite(list(scalars_of(tmp_path, "loss").values())).all()


def test_a_device_whose_memory_ends_while_a_run_is_set_up_is_one_clear_line(
    tiny_data, tmp_path, monkeypatch
):
    def build(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(TensorFlowEngine, "build", build)
    with pytest.raises(InputError, match="memory"):
        train_and_evaluate(make_config(tiny_data), tmp_path)
