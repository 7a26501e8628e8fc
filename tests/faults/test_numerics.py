"""Values that are no numbers, and volumes with next to nothing in them."""

import dataclasses
import json
import shutil

import nibabel as nib
import numpy as np
import pytest

import mtseg
from mtseg.errors import InputError
from mtseg.models.export import export_model, export_weights
from mtseg.prediction.pipeline import segment_files
from mtseg.runs import weights
from mtseg.runs import workdir as workdir_files
from mtseg.training.loop import train_and_evaluate
from tests.training.test_loop import make_config

pytestmark = pytest.mark.promise("defined numerics")


@pytest.fixture(scope="module")
def model(random_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("model")
    export_weights(random_run[0], out)
    return mtseg.load(out, "float32")


def save(path, array):
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    return path


def segment(model, path, out):
    ((_, outcome),) = segment_files(model, [path], out)
    return outcome


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused(random_run, tmp_path, value):
    workdir, model = random_run
    shutil.copytree(workdir, tmp_path / "run")
    before = model.get_weights()
    try:
        weights = [array.copy() for array in before]
        weights[20].flat[3] = value
        model.set_weights(weights)
        model.save_weights(workdir_files.weights_path(tmp_path / "run", "last"))
    finally:
        model.set_weights(before)
    for export in (export_model, export_weights):
        with pytest.raises(InputError, match="weights that are not finite"):
            export(tmp_path / "run", tmp_path / "model")
    assert not (tmp_path / "model").exists()


@dataclasses.dataclass
class Overflowing:
    """A network whose computation overflows, as a served one's may."""

    network: object

    def __getattr__(self, name):
        return getattr(self.network, name)

    def run_all(self, volume, plan):
        for tile, rows in self.network.run_all(volume, plan):
            yield tile, rows * np.float32(np.inf)


def test_probabilities_that_are_no_numbers_are_no_labels(model, tmp_path):
    broken = dataclasses.replace(model, network=Overflowing(model.network))
    path = save(tmp_path / "scan.nii", np.ones((5, 6, 7), np.int16))
    outcome = segment(broken, path, tmp_path / "out")
    assert isinstance(outcome, InputError)
    assert "not finite" in str(outcome)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 9), (9, 1, 9), (9, 9, 1), (1, 1, 70)], ids=str)
def test_volumes_of_a_slice_a_row_or_a_voxel(model, tmp_path, shape):
    path = save(tmp_path / "scan.nii", np.full(shape, 100, np.int16))
    outcome = segment(model, path, tmp_path / "out")
    labels = np.asarray(nib.load(outcome.label_path).dataobj)
    assert labels.shape == shape
    assert labels.max() <= 8


def test_one_voxel_in_a_volume_of_nothing(model, tmp_path):
    array = np.zeros((9, 10, 11), np.int16)
    array[4, 5, 6] = 100
    outcome = segment(model, save(tmp_path / "scan.nii", array), tmp_path / "out")
    labels = np.asarray(nib.load(outcome.label_path).dataobj)
    assert not labels[array == 0].any()
    verdict = json.loads(outcome.verdict_path.read_text())
    assert np.isfinite(verdict["mean_confidence"])


def test_a_volume_of_nothing_is_refused(model, tmp_path):
    outcome = segment(model, save(tmp_path / "s.nii", np.zeros((4, 5, 6), np.int16)), tmp_path)
    assert "nothing to segment" in str(outcome)


@pytest.mark.parametrize(
    "precision",  # bfloat16 overflows where float32 does
    ["float32", "mixed_float16", pytest.param("mixed_bfloat16", marks=pytest.mark.thorough)],
)
def test_training_that_overflows_ends_in_one_line(tiny_data, tmp_path, precision):
    config = make_config(tiny_data, minibatches_per_task=40, evaluate_every=40, precision=precision)
    with pytest.raises(InputError, match="the loss is"):
        train_and_evaluate(dataclasses.replace(config, learning_rate=1e30), tmp_path)
    assert not workdir_files.weights_path(tmp_path, "last").exists()


def test_a_scan_that_loss_scaling_skips_is_not_the_end(tiny_data, tmp_path):
    """In float16 the first steps overflow by design: the scale of the loss is halved."""
    config = make_config(
        tiny_data, minibatches_per_task=6, evaluate_every=6, precision="mixed_float16"
    )
    assert train_and_evaluate(config, tmp_path) is not None
    arrays = weights.load_trained(tmp_path).model.get_weights()
    assert all(np.isfinite(array).all() for array in arrays)
