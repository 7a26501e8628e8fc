"""Versions and manifests of exported models, and what happens if a file of one is wrong."""

import dataclasses
import hashlib
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from mtseg.errors import InputError
from mtseg.inference.dense import dense_probabilities
from mtseg.models import export, loading
from mtseg.models.export import export_model, export_weights
from mtseg.models.loading import load
from mtseg.runs import workdir as workdir_files
from mtseg.runs.manifest import versions
from mtseg.system.atomic_files import lock_folder
from mtseg.system.checksums import CHECKSUMS
from mtseg.tasks.label_space import LabelSpace, parse_tasks


@pytest.fixture(scope="module")
def exported(random_run, serving_folder, tmp_path_factory):
    """A run's folder, its model exported twice, the two versions, and the run's network.

    The graphs of the second version are copied from the first: making them takes 15 s.
    """
    workdir, model = random_run
    out = tmp_path_factory.mktemp("exported")
    first = shutil.copytree(serving_folder / "mtseg" / "1", out / "1")

    def copy_graphs(trained, manifest, path, chunk_bytes):
        path.mkdir()
        shutil.copy(first / "saved_model.pb", path)
        shutil.copy(first / "fingerprint.pb", path)
        shutil.copytree(first / "variables", path / "variables")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mtseg.models.export._write_saved_model", copy_graphs)
        second = export_model(workdir, out)
    return workdir, out, [first, second], model


@pytest.fixture(scope="module")
def newest(exported):
    """The model in the folder of both versions, in float32."""
    return load(exported[1], "float32")


@pytest.fixture(scope="module")
def first(exported):
    """Its first version, in bfloat16."""
    return load(exported[2][0], "bfloat16")


def test_weights_only_give_the_same_network(exported, tmp_path):
    workdir, _, _, model = exported
    path = export_weights(workdir, tmp_path / "weights")
    loaded = load(path, "float32", "tensorflow")
    for here, there in zip(model.get_weights(), loaded.kept_alive.get_weights(), strict=True):
        np.testing.assert_array_equal(here, there)
    assert loaded.thresholds[-2:] == (0.1, 0.2)
    assert loaded.class_task[-2:] == ("breast", "cta")
    export_weights(workdir, path)  # replaces them
    names = ["SHA256SUMS", "manifest.json", "model.weights.h5"]
    assert sorted(file.name for file in path.iterdir()) == names


def test_int8_is_chosen_only_for_a_model_that_allows_it(exported, tmp_path, monkeypatch):
    workdir = exported[0]
    plain = export_weights(workdir, tmp_path / "plain")
    allowed = export_weights(workdir, tmp_path / "allowed", may_use_int8=True)
    assert load(plain).network.precision in ("float32", "bfloat16")
    assert load(allowed).network.precision == "int8"
    assert load(allowed, "float32").network.precision == "float32"
    assert load(allowed, None, "tensorflow").network.precision != "int8"
    assert load(plain, "int8").network.precision == "int8"
    assert load(plain).model_id == load(allowed).model_id
    monkeypatch.setattr(loading, "is_x86", lambda: False)
    assert load(allowed).network.precision != "int8"


def test_a_run_is_the_model_that_it_exports(exported, tmp_path):
    workdir, _, _, model = exported
    of_run, of_weights = load(workdir, "float32"), load(export_weights(workdir, tmp_path / "w"))
    for here, there in zip(model.get_weights(), of_run.kept_alive.get_weights(), strict=True):
        np.testing.assert_array_equal(here, there)
    for field in ("class_names", "thresholds", "label_table", "tasks", "model_id"):
        assert getattr(of_run, field) == getattr(of_weights, field)
    assert of_run.path == workdir


@pytest.mark.promise("refused input")
def test_weights_do_not_go_among_other_files(exported, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="has other files"):
        export_weights(exported[0], tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("name", ["file", "file/model"])
def test_a_file_is_no_folder_for_a_model(exported, tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=f"{name}: is a file. Give a folder for the model."):
        export_weights(exported[0], tmp_path / name)


def test_versions_count_up_and_nothing_else_is_left(exported):
    _, out, paths, _ = exported
    assert [path.name for path in paths] == ["1", "2"]
    assert versions(out) == [1, 2]
    assert sorted(p.name for p in out.iterdir()) == ["1", "2"]


def test_the_newest_version_is_loaded_and_any_can_be_named(exported, first, newest):
    assert [first.path, newest.path] == exported[2]


def test_both_precisions_can_be_loaded(first, newest):
    volume = np.random.default_rng(2).uniform(0.1, 1, (4, 5, 6)).astype(np.float32)
    exact, fast = (dense_probabilities(model.network, volume) for model in (newest, first))
    assert not np.array_equal(exact, fast)
    np.testing.assert_allclose(fast, exact, atol=0.1)


@pytest.mark.promise("refused input")
def test_manifest_of_another_schema_is_refused(exported, tmp_path):
    (tmp_path / "manifest.json").write_text(
        json.dumps({"schema": 99, "classes": [], "operating_points": {}})
    )
    with pytest.raises(InputError, match="schema 99"):
        load(tmp_path)


@pytest.mark.promise("refused input")
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"classes": ["background", "liver"]}, "has others"),
        ({"operating_points": {"liver": 0.5}}, "contradicts itself"),
        ({"trained_spacing_mm": {"brain": 0}}, "contradicts itself"),
    ],
)
def test_a_manifest_of_another_model_is_refused(exported, tmp_path, change, expected):
    shutil.copytree(exported[2][0], tmp_path / "1")
    path = tmp_path / "1" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    (tmp_path / "1" / CHECKSUMS).unlink()  # they would notice any change
    with pytest.raises(InputError, match=expected):
        load(tmp_path)


@pytest.mark.promise("refused input")
def test_a_model_without_its_graph_is_refused(exported, tmp_path):
    manifest = (exported[2][0] / "manifest.json").read_text()
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(InputError, match="cannot be loaded"):
        load(tmp_path)


def test_a_run_without_evaluation_cannot_be_exported(exported, tmp_path):
    for name in (workdir_files.CONFIG, workdir_files.LABEL_SPACE, "last.weights.h5"):
        (tmp_path / name).write_bytes((exported[0] / name).read_bytes())
    with pytest.raises(InputError, match=r"evaluation\.json"):
        export_model(tmp_path, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_post_processing_is_part_of_a_models_identifier_and_models_without_keep_theirs():
    (selection,) = parse_tasks("breast").selections
    weights = [np.ones(3, np.float32)]

    def identifier(**options):
        muscle = dataclasses.replace(selection.task.classes[0], label=1, **options)
        task = dataclasses.replace(selection.task, classes=(muscle,))
        label_space = LabelSpace((dataclasses.replace(selection, task=task),))
        model = SimpleNamespace(get_weights=lambda: weights)
        return export._model_id(SimpleNamespace(model=model, label_space=label_space), {"a": 0.5})

    of_earlier_version = hashlib.sha256(b'{"a": 0.5}' + weights[0].tobytes()).hexdigest()[:16]
    assert identifier() == of_earlier_version
    found = {identifier(), identifier(fill_holes=True), identifier(largest_component=True)}
    assert len(found) == 3


@pytest.mark.promise("one at a time")
def test_a_second_export_to_a_folder_is_refused(random_run, tmp_path):
    with lock_folder(tmp_path), pytest.raises(InputError, match="is exporting to here"):
        export_weights(random_run[0], tmp_path)
