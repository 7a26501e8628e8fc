"""Training on JAX where TensorFlow cannot be imported, and what TensorFlow does with such a run.

Keras chooses its backend once in a process, so what runs on JAX runs in processes of its own.
"""

import json
import os
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data

from mtseg.batches.balance import BalancedSamples
from mtseg.batches.logit_adjustment import compute_logit_adjustment
from mtseg.batches.placed_samples import PlacedSamples
from mtseg.batches.volume_patches import VolumePatches
from mtseg.cli.evaluate import main as evaluate
from mtseg.cli.export import main as export
from mtseg.cli.predict import main as predict
from mtseg.errors import InputError
from mtseg.evaluation.results import Evaluation
from mtseg.phantoms.scanner import make_phantom
from mtseg.runs.config import TrainConfig
from mtseg.runs.unevaluated import UNEVALUATED
from mtseg.runs.weights import load_trained
from mtseg.runs.workdir import EVALUATION, weights_path
from mtseg.scans.patches import pad_volume
from mtseg.tasks.label_space import parse_tasks
from mtseg.training.engines.strategies import make_replicas
from mtseg.training.engines.tensorflow_step import TrainingStep
from mtseg.training.loop import train_and_evaluate
from tests.event_files import scalars_of

pytestmark = pytest.mark.slow

WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = sys.modules["tensorflow_datasets"] = None
"""

TRAIN = """
from mtseg.cli.train import main
sys.exit(main(sys.argv[1:]))
"""

KILLED = """
import os, signal
from mtseg.training import checkpoints
save = checkpoints.Checkpoints.save
def save_and_die(self, step):
    save(self, step)
    os.kill(os.getpid(), signal.SIGKILL)
checkpoints.Checkpoints.save = save_and_die
"""


LOOPS_ON_PROCESSORS = """
from mtseg.training.engines import jax_step
jax_step.SLOW_IN_LOOPS = ()
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A folder where processes leave what they compiled to each other."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def on_jax(compiled):
    """Runs a script with Keras on JAX and without TensorFlow; returns what it printed."""

    def run(script, *arguments, devices=1, code=0):
        environment = os.environ | {
            "KERAS_BACKEND": "jax",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "JAX_COMPILATION_CACHE_DIR": str(compiled),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_TENSORFLOW + script, *map(str, arguments)],
            env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    return run


def flags_of(tiny_data, workdir, **changes):
    settings = {
        "tasks": "breast:phantom", "data-dir": tiny_data.data_dir, "workdir": workdir,
        "minibatches-per-task": 4, "global-batch-size": 4, "evaluate-every": 4,
        "checkpoint-every": 2, "class-priors": "natural",
    }  # fmt: skip
    settings |= changes
    return [part for name, value in settings.items() for part in (f"--{name}", value)]


@pytest.fixture(scope="module")
def trained(tiny_data, on_jax, tmp_path_factory):
    """The folder of a run on JAX, and what it printed."""
    workdir = tmp_path_factory.mktemp("jax") / "run"
    return workdir, on_jax(TRAIN, *flags_of(tiny_data, workdir))


def arrays_of(workdir, step=4):
    with np.load(workdir / "checkpoints" / f"step-{step}" / "state.npz") as file:
        return {name: file[name] for name in file.files if name != "seconds"}


def random_samples(label_space, shapes, margin=0):
    """Samples of volumes of these shapes, so many voxels from their borders; half are tissue."""
    rng = np.random.default_rng(0)
    volumes = [rng.uniform(0.1, 1, shape) for shape in shapes]
    inside = slice(margin, -margin or None)
    numbered = [np.arange(v.size, dtype=np.uint32).reshape(v.shape) for v in volumes]
    halves = [np.array_split(n[inside, inside, inside].ravel(), 2) for n in numbered]
    voxels = tuple(zip(*halves, strict=True))
    ends = tuple(np.cumsum([v.size for v in of_class]) for of_class in voxels)
    padded = tuple(pad_volume(volume, dtype=np.float16) for volume in volumes)
    store = VolumePatches(padded, shapes, voxels, ends)
    return BalancedSamples(label_space, [[store]], 0, ("flip", "intensity"))


GRADIENTS = """
import jax, numpy as np
from mtseg.batches.placed_samples import Places
from mtseg.runs.config import TrainConfig
from mtseg.tasks.label_space import parse_tasks
from mtseg.training.engines.cutting import cut_from_buffer
from mtseg.training.engines.jax_step import TrainingStep

folder = sys.argv[1]
config = TrainConfig.from_json(open(folder + "/config.json").read())
step = TrainingStep(config, parse_tasks(config.tasks), jax.devices()[:1])
step.model.load_weights(folder + "/start.weights.h5")
cut = []
for name in ("borders", "inside"):
    batch = np.load(folder + f"/{name}.npz")
    places = Places(batch["steps"].astype(np.int32), batch["factors"])
    cut.append(jax.jit(cut_from_buffer)(batch["volumes"], places))
state = type(step.variables())(*[[np.array(v) for v in group] for group in step.variables()])
compute = lambda state, volumes, places, classes: step.loss_and_gradients(
    state, cut_from_buffer(volumes, places), classes
)
(loss, _), gradients = jax.jit(compute)(state, batch["volumes"], places, batch["classes"])
np.savez(folder + "/jax.npz", *cut, loss, *gradients)
"""


def test_patches_loss_and_gradients_are_those_of_tensorflow(on_jax, tmp_path):
    """From the same weights file. Without dropout: the engines draw different masks.

    JAX cuts the patches from volumes, TensorFlow takes those that the host cut: they are equal, bit
    for bit. Gradients are of random patches without borders. Where many voxels are 0, normalisation
    by a small variance enlarges TensorFlow's rounding beyond the tolerance (not that of JAX).
    """
    config = TrainConfig("breast:phantom", "data", global_batch_size=12, dropout_rate=0.0)
    label_space = parse_tasks(config.tasks)
    step = TrainingStep(config, label_space, make_replicas("default"))
    step.model.save_weights(tmp_path / "start.weights.h5")
    (tmp_path / "config.json").write_text(config.to_json())
    cut = {}
    for name, shapes, margin in [
        ("borders", ((60, 57, 70), (20, 61, 9)), 0),
        ("inside", ((60, 57, 70), (55, 61, 58)), 25),
    ]:
        samples = random_samples(label_space, shapes, margin)
        placed = PlacedSamples(samples)
        cut[name], classes = samples.read_minibatch(0, 12)
        places, _ = placed.read_minibatch(0, 12)
        arrays = {"volumes": placed.make_buffer(), "classes": classes, **places._asdict()}
        np.savez(tmp_path / f"{name}.npz", **arrays)
    assert (cut["borders"] == 0).any()
    assert (cut["inside"] > 0).all()
    on_jax(GRADIENTS, tmp_path)
    with np.load(tmp_path / "jax.npz") as file:
        borders, inside, on_jax_loss, *on_jax_gradients = (file[name] for name in file.files)
    np.testing.assert_array_equal(borders.view(np.uint16), cut["borders"].view(np.uint16))
    np.testing.assert_array_equal(inside.view(np.uint16), cut["inside"].view(np.uint16))
    patches = cut["inside"]
    loss, gradients = step.loss_and_gradients(tf.constant(patches), tf.constant(classes))
    assert float(loss) == pytest.approx(float(on_jax_loss), abs=1e-4)
    for ours, theirs in zip(gradients, on_jax_gradients, strict=True):
        np.testing.assert_allclose(theirs, ours.numpy(), atol=1e-4)
    assert max(np.abs(gradient).max() for gradient in on_jax_gradients) > 0.01


def test_a_run_says_that_it_scores_nothing_and_how_to(trained):
    workdir, printed = trained
    assert "Computing with JAX on " in printed
    assert f"Evaluate the run afterwards: mtseg-evaluate {workdir}" in printed
    assert "Training: 4/4" in printed or "First step after" in printed
    losses = scalars_of(workdir, "loss")
    assert list(losses) == [2, 4]
    assert np.isfinite(list(losses.values())).all()
    assert list(scalars_of(workdir, "learning_rate").values()) == pytest.approx([1e-3, 1e-3])


def test_tensorboard_compares_a_run_on_jax_by_its_settings(trained):
    events = EventAccumulator(str(trained[0] / "tensorboard"))
    events.Reload()
    (plugin,) = [
        events.SummaryMetadata(tag).plugin_data
        for tag in events.Tags()["tensors"]
        if events.SummaryMetadata(tag).plugin_data.plugin_name == "hparams"
    ]
    shown = parse_session_start_info_plugin_data(plugin.content).hparams
    assert shown["minibatches_per_task"].number_value == 4
    assert shown["class_priors"].string_value == "natural"
    assert "dropout_rate" not in shown  # it is the preset's


def test_a_run_on_jax_starts_from_the_weights_of_another_and_is_profiled(
    trained, tiny_data, on_jax, tmp_path
):
    """So slow a rate that six mini-batches move no weight."""
    changes = {"minibatches-per-task": 6, "evaluate-every": 6, "learning-rate": 1e-12, "seed": 5}
    flags = flags_of(tiny_data, tmp_path, **changes)
    printed = on_jax(TRAIN, *flags, "--init-from", trained[0], "--profile")
    assert "Starting from the trained network breast:phantom." in printed
    started, first = (load_trained(path).model for path in (tmp_path, trained[0]))
    for one, other in zip(started.trainable_weights, first.trainable_weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    (profile,) = (tmp_path / "tensorboard").glob("plugins/profile/*/*.xplane.pb")
    assert profile.stat().st_size > 0


def test_the_written_weights_are_those_of_the_checkpoint_with_natural_priors(trained, tiny_data):
    workdir, _ = trained
    arrays = arrays_of(workdir)
    bias, kernel = load_trained(workdir).model.get_layer("logits").get_weights()[::-1]
    saved = [array for name, array in arrays.items() if name.startswith("trainable/")]
    label_space = parse_tasks("breast:phantom")
    adjustment = compute_logit_adjustment(str(tiny_data.data_dir), label_space, "shared")
    np.testing.assert_array_equal(kernel, saved[-2])
    np.testing.assert_allclose(bias, saved[-1] + adjustment, rtol=1e-6)
    assert np.abs(adjustment).max() > 0.1


@pytest.mark.promise("exact resume")
def test_a_run_killed_after_a_checkpoint_resumes_to_the_bit(trained, tiny_data, on_jax, tmp_path):
    """Also if the device cuts the patches from there on."""
    flags = flags_of(tiny_data, tmp_path / "run")
    on_jax(KILLED + TRAIN, *flags, code=-9)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-2"]
    printed = on_jax(TRAIN, *flags, "--input", "device")
    assert "Resuming after mini-batch 2 of 4." in printed
    assert "Patches are cut on the device, from " in printed
    whole, resumed = arrays_of(trained[0]), arrays_of(tmp_path / "run")
    assert whole.keys() == resumed.keys()
    for name in whole:
        np.testing.assert_array_equal(whole[name], resumed[name], err_msg=name)


def test_two_devices_are_one(trained, tiny_data, on_jax, tmp_path):
    """Also with two mini-batches a call as one loop and with patches cut there, as on GPUs."""
    changes = {"strategy": "mirrored", "steps-per-call": 2, "minibatches-per-task": 2}
    changes["input"] = "device"
    flags = flags_of(tiny_data, tmp_path, **changes)
    on_jax(LOOPS_ON_PROCESSORS + TRAIN, *flags, devices=2)
    one, two = (scalars_of(workdir, "loss") for workdir in (trained[0], tmp_path))
    assert two == {2: pytest.approx(one[2], abs=1e-3)}


def test_tensorflow_evaluates_exports_and_segments_with_it(trained, tmp_path, capsys):
    workdir = shutil.copytree(trained[0], tmp_path / "run")
    assert export([str(workdir), str(tmp_path / "model"), "--format", "weights"]) == 2
    assert "Run mtseg-evaluate" in capsys.readouterr().err
    assert evaluate([str(workdir)]) == 0
    assert "pectoral_muscle" in capsys.readouterr().out
    assert not (workdir / UNEVALUATED).exists()
    stored = json.loads((workdir / EVALUATION).read_text())
    assert stored["minibatch"] == 4
    overall = Evaluation.from_json(stored).overall_dice()
    assert scalars_of(workdir, "mean_dice/all_tasks") == {4: pytest.approx(overall)}
    for which in ("last", "best"):
        np.testing.assert_array_equal(
            load_trained(workdir, which).model.get_weights()[0],
            load_trained(trained[0]).model.get_weights()[0],
        )
    assert export([str(workdir), str(tmp_path / "model"), "--format", "weights"]) == 0
    phantom = make_phantom("breast", 3, size=32)
    scan = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(phantom.image, phantom.affine), scan)
    model, out = str(tmp_path / "model"), str(tmp_path / "out")
    assert predict([str(scan), "--model", model, "-o", out]) == 0
    (labels,) = (tmp_path / "out").glob("*.nii.gz")
    assert nib.load(labels).shape == phantom.image.shape


def test_each_engine_refuses_the_checkpoints_of_the_other(trained, tiny_data):
    workdir, _ = trained
    config = TrainConfig.from_json((workdir / "config.json").read_text())
    with pytest.raises(InputError, match=r"is a checkpoint of training on JAX.*KERAS_BACKEND=jax"):
        train_and_evaluate(config, workdir)
    assert weights_path(workdir, "last").is_file()
