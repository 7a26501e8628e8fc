"""The exported graph decides as the arrays do, and a served voxel is the patch model's voxel."""

import json

import numpy as np
import pytest
import tensorflow as tf

from mtseg import workdir as folder
from mtseg.config import TrainConfig
from mtseg.dense import dense_probabilities
from mtseg.errors import InputError
from mtseg.evaluate import Evaluation
from mtseg.export import decide, export_model, export_weights, versions
from mtseg.exported import load
from mtseg.metrics import decide as decide_arrays
from mtseg.sampling import PLANES, cut_patches, pad_volume
from mtseg.tasks import parse_tasks


@pytest.mark.parametrize(
    "thresholds",
    [(None,) * 4, (None, None, 0.3, 0.2), (None, 0.5, None, 0.0), (None, 0.4), (None, None)],
)
def test_the_graph_decides_as_the_arrays_do(thresholds):
    probabilities = np.random.default_rng(0).dirichlet(np.ones(len(thresholds)), (5, 6, 7))
    probabilities = probabilities.astype(np.float32)
    np.testing.assert_array_equal(
        decide(tf.constant(probabilities), list(thresholds)),
        decide_arrays(np.moveaxis(probabilities, -1, 0), thresholds),
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run's folder with random weights and moving statistics, and its model, exported twice."""
    workdir = tmp_path_factory.mktemp("run")
    out = workdir / "model"
    label_space = parse_tasks("brain,breast,cta")
    config = TrainConfig(label_space.spec, "data")
    model = folder.build_model(config, label_space)
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if "moving" in variable.path or "gamma" in variable.path:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif "beta" in variable.path or "bias" in variable.path:
            variable.assign(rng.normal(0, 0.3, variable.shape))
    folder.write_json(workdir / folder.LABEL_SPACE, label_space.to_json())
    (workdir / folder.CONFIG).write_text(config.to_json())
    model.save_weights(folder.weights_path(workdir, "last"))
    points = {"pectoral_muscle": 0.1, "coronary_arteries": 0.2}
    evaluation = Evaluation((), points).to_json(model="m", command="c")
    folder.write_json(workdir / folder.EVALUATION, evaluation)
    paths = [export_model(workdir, out), export_model(workdir, out)]
    return workdir, out, paths, model


def test_weights_alone_give_the_same_network(exported, tmp_path):
    workdir, _, _, model = exported
    path = export_weights(workdir, tmp_path / "weights")
    loaded = load(path, "float32")
    for here, there in zip(model.get_weights(), loaded.kept_alive.get_weights(), strict=True):
        np.testing.assert_array_equal(here, there)
    assert loaded.thresholds[-2:] == (0.1, 0.2)
    assert loaded.class_task[-2:] == ("breast", "cta")
    export_weights(workdir, path)  # replaces them
    assert sorted(file.name for file in path.iterdir()) == ["manifest.json", "model.weights.h5"]


def test_weights_do_not_go_among_other_files(exported, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        export_weights(exported[0], tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_versions_count_up_and_nothing_else_is_left(exported):
    _, out, paths, _ = exported
    assert [path.name for path in paths] == ["1", "2"]
    assert versions(out) == [1, 2]
    assert sorted(p.name for p in out.iterdir()) == ["1", "2"]


def test_the_newest_version_is_loaded_and_any_can_be_named(exported):
    _, out, paths, _ = exported
    assert load(out).path == paths[1]
    assert load(paths[0]).path == paths[0]


def test_serving_default_names_its_input_and_outputs(exported):
    signature = load(exported[1]).kept_alive.signatures["serving_default"]
    assert list(signature.structured_input_signature[1]) == ["volume"]
    assert set(signature.structured_outputs) == {"labels", "probabilities"}


@pytest.mark.parametrize("shape", [(7, 9, 11), (1, 1, 1), (3, 30, 2)])
def test_a_served_voxel_is_the_patch_models(exported, shape):
    _, out, _, model = exported
    rng = np.random.default_rng(1)
    volume = rng.uniform(0.1, 1, shape).astype(np.float32)
    volume[rng.random(shape) < 0.3] = 0
    volume.flat[0] = 0.5
    loaded = load(out, "float32")
    served = loaded.kept_alive.signatures["serving_default"](volume=tf.constant(volume))
    voxels = np.argwhere(volume > 0)
    voxels = voxels[rng.permutation(len(voxels))[:12]]
    patches = cut_patches(pad_volume(volume), voxels)
    planes = {name: patches[:, p, :, :, None] for p, name in enumerate(PLANES)}
    expected = model(planes, training=False).numpy()[:, 0, 0]
    at_voxels = served["probabilities"].numpy()[tuple(voxels.T)]
    np.testing.assert_allclose(at_voxels, expected, atol=1e-4)
    computed = dense_probabilities(loaded.network, volume)
    np.testing.assert_allclose(computed[tuple(voxels.T)], expected, atol=1e-4)
    assert (served["labels"].numpy()[volume == 0] == 0).all()
    assert served["labels"].dtype == tf.uint8


def test_both_precisions_can_be_loaded(exported):
    volume = np.random.default_rng(2).uniform(0.1, 1, (4, 5, 6)).astype(np.float32)
    exact, fast = (
        dense_probabilities(load(exported[1], precision).network, volume)
        for precision in ("float32", "bfloat16")
    )
    assert not np.array_equal(exact, fast)
    np.testing.assert_allclose(fast, exact, atol=0.1)


def test_manifest_of_another_schema_is_refused(exported, tmp_path):
    (tmp_path / "manifest.json").write_text(
        json.dumps({"schema": 99, "classes": [], "operating_points": {}})
    )
    with pytest.raises(InputError, match="schema 99"):
        load(tmp_path)


def test_a_model_without_its_graph_is_refused(exported, tmp_path):
    manifest = (exported[2][0] / "manifest.json").read_text()
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(InputError, match="cannot be loaded"):
        load(tmp_path)


def test_a_run_without_evaluation_cannot_be_exported(exported, tmp_path):
    for name in (folder.CONFIG, folder.LABEL_SPACE, "last.weights.h5"):
        (tmp_path / name).write_bytes((exported[0] / name).read_bytes())
    with pytest.raises(InputError, match=r"evaluation\.json"):
        export_model(tmp_path, tmp_path / "model")
    assert not (tmp_path / "model").exists()
