"""The same probabilities in ONNX's and LiteRT's runtimes."""

import json
import sys

import numpy as np
import pytest

from mtseg.errors import InputError
from mtseg.inference.decision import decide
from mtseg.inference.dense import dense_probabilities, make_dense_network
from mtseg.models.portable import LITERT, ONNX, export_portable, make_portable_function
from mtseg.network.architecture import HALO
from mtseg.network.model import build_patch_model
from tests.inference.test_dense import make_patch_model
from tests.processors import has_avx512

pytestmark = pytest.mark.slow

SHAPES = [(5, 7, 6), (1, 1, 1), (3, 20, 2)]


def make_volume(shape):
    volume = np.random.default_rng(0).uniform(0.1, 1, shape).astype(np.float32)
    volume[0, 0, 0] = 0.5
    return volume


def run_onnx(folder, tile):
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / ONNX, providers=["CPUExecutionProvider"])
    (input_,) = session.get_inputs()
    assert input_.name == "tile"
    (probabilities,) = session.run(["probabilities"], {"tile": tile})
    return probabilities


def run_litert(folder, tile):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(folder / LITERT))
    (input_,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(input_["index"], tile.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(input_["index"], tile)
    interpreter.invoke()
    return interpreter.get_tensor(output["index"])


@pytest.mark.parametrize(("kind", "run"), [("onnx", run_onnx), ("litert", run_litert)])
def test_a_tile_has_the_probabilities_of_the_dense_network(random_run, tmp_path, kind, run):
    workdir, model = random_run
    export_portable(workdir, tmp_path / "model", kind)
    network = make_dense_network(model, "float32")
    for shape in SHAPES:
        volume = make_volume(shape)
        probabilities = run(tmp_path / "model", np.pad(volume, HALO))
        np.testing.assert_allclose(probabilities, dense_probabilities(network, volume), atol=1e-5)
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    assert len(manifest["classes"]) == 9


def test_backgrounds_of_several_tasks_are_one_class_here_too():
    model = make_patch_model(num_backgrounds=3)
    assert build_patch_model(4, num_backgrounds=3).get_layer("logits").filters == 6
    volume = make_volume((4, 5, 3))
    computed = make_portable_function(model)(np.pad(volume, HALO))["probabilities"]
    expected = dense_probabilities(make_dense_network(model, "float32"), volume)
    np.testing.assert_allclose(computed, expected, atol=1e-5 if has_avx512() else 1e-4)


def test_labels_follow_the_decision_rule_inside_the_foreground():
    model = make_patch_model()
    volume = make_volume((6, 5, 7))
    volume[2:4, 1:3] = 0
    expected = dense_probabilities(make_dense_network(model, "float32"), volume)
    of_class = np.moveaxis(expected, -1, 0)
    middle = float(np.median(of_class[3]))  # a threshold that some voxels reach
    thresholds = (None, None, None, middle)
    labels = make_portable_function(model, thresholds)(np.pad(volume, HALO))["labels"]
    wanted = np.where(volume != 0, decide(of_class, thresholds), 0)
    assert len(np.unique(wanted)) > 2
    np.testing.assert_array_equal(labels, wanted)


def test_without_the_converter_the_line_says_what_to_install(random_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(InputError, match=r"pip install 'mtseg\[onnx\]'"):
        export_portable(random_run[0], tmp_path / "model", "onnx")
    assert list((tmp_path / "model").iterdir()) == []
