"""A model repository of Triton's, read as its server does: its configuration, then ONNX Runtime."""

import json
import re

import numpy as np
import pytest

from mtseg.errors import InputError
from mtseg.inference.decision import decide
from mtseg.inference.dense import dense_probabilities, make_dense_network
from mtseg.models.triton import export_triton
from mtseg.network.architecture import HALO

pytestmark = pytest.mark.slow

ONNX_TYPES = {"TYPE_FP32": "tensor(float)", "TYPE_UINT8": "tensor(uint8)"}


@pytest.fixture(scope="module")
def repository(random_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    for number in (1, 2):
        assert export_triton(random_run[0], folder, name="mtseg") == folder / "mtseg" / str(number)
    return folder


def declared(text, kind):
    """Name -> type and shape, of the inputs or outputs in a configuration."""
    (block,) = re.findall(rf"^{kind} \[(.*?)\](?=\n[\w#])", text, re.S | re.M)
    form = r'name: "(\w+)" data_type: (\w+) dims: \[ ([-\d, ]+) \]'
    return {
        name: (ONNX_TYPES[dtype], [int(n) for n in dims.split(",")])
        for name, dtype, dims in re.findall(form, block)
    }


def test_the_network_has_the_names_types_and_shapes_of_the_configuration(repository):
    import onnxruntime

    session = onnxruntime.InferenceSession(repository / "mtseg" / "2" / "model.onnx")
    text = (repository / "mtseg" / "config.pbtxt").read_text()
    assert 'name: "mtseg"' in text
    for kind, found in (("input", session.get_inputs()), ("output", session.get_outputs())):
        wanted = declared(text, kind)
        assert {each.name for each in found} == set(wanted)
        for each in found:
            dtype, shape = wanted[each.name]
            assert each.type == dtype
            assert len(each.shape) == len(shape)
            fixed = [(a, b) for a, b in zip(each.shape, shape, strict=True) if b != -1]
            assert all(a == b for a, b in fixed if isinstance(a, int))


def test_labels_and_probabilities_are_those_of_the_network(repository, random_run):
    import onnxruntime

    volume = np.random.default_rng(0).uniform(0.1, 1, (9, 6, 7)).astype(np.float32)
    volume[:3, 2] = 0
    expected = dense_probabilities(make_dense_network(random_run[1], "float32"), volume)
    manifest = json.loads((repository / "mtseg" / "1" / "manifest.json").read_text())
    points = [manifest["operating_points"].get(name) for name in manifest["classes"]]
    assert any(point is not None for point in points)
    session = onnxruntime.InferenceSession(repository / "mtseg" / "1" / "model.onnx")
    labels, probabilities = session.run(["labels", "probabilities"], {"tile": np.pad(volume, HALO)})
    mask = volume != 0
    np.testing.assert_allclose(probabilities[mask], expected[mask], atol=1e-5)
    assert labels.any()
    np.testing.assert_array_equal(
        labels, np.where(mask, decide(np.moveaxis(expected, -1, 0), points), 0)
    )


def test_a_name_that_is_no_folder_of_the_repository_is_refused(random_run, tmp_path):
    with pytest.raises(InputError, match="--name"):
        export_triton(random_run[0], tmp_path / "out", name="../mtseg")
    assert not (tmp_path / "out").exists()


def test_a_model_keeps_its_classes(random_run, tmp_path):
    """A server has one configuration for a model's versions, with the number of classes in it."""
    first = export_triton(random_run[0], tmp_path, name="mtseg")
    configuration = (tmp_path / "mtseg" / "config.pbtxt").read_text()
    manifest = json.loads((first / "manifest.json").read_text())
    of_another = manifest | {"classes": [*manifest["classes"], "liver"]}
    (first / "manifest.json").write_text(json.dumps(of_another))
    with pytest.raises(InputError, match=r"other classes.*--name"):
        export_triton(random_run[0], tmp_path, name="mtseg")
    assert [path.name for path in sorted((tmp_path / "mtseg").iterdir())] == ["1", "config.pbtxt"]
    assert (tmp_path / "mtseg" / "config.pbtxt").read_text() == configuration
