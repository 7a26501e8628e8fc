"""Models, runs and descriptions that are damaged, of another version or made to hurt."""

import json
import shutil
import zipfile

import h5py
import numpy as np
import pytest

import mtseg
from mtseg.cli import evaluate, export, predict, prepare, train
from mtseg.errors import InputError
from mtseg.models.export import export_model, export_weights
from mtseg.runs import workdir as workdir_files
from mtseg.runs.manifest import MANIFEST, WEIGHTS
from mtseg.runs.weights import load_trained
from mtseg.system import atomic_files
from mtseg.system.checksums import CHECKSUMS, file_checksum
from tests.cli.test_bad_input import expect_refusal, run, write_scan

damage = pytest.mark.promise("damage is noticed")
no_code = pytest.mark.promise("no code on load")
refusal = pytest.mark.promise("refused input")


@pytest.fixture(scope="module")
def exported(random_run, tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    export_model(random_run[0], root / "saved_model")
    export_weights(random_run[0], root / "weights")
    return root


@pytest.fixture
def models(exported, tmp_path):
    """A SavedModel and weights alone, to be damaged."""
    shutil.copytree(exported, tmp_path / "models")
    return tmp_path / "models"


def flip(path, share):
    content = bytearray(path.read_bytes())
    content[int(share * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def refused(path, *words):
    with pytest.raises(InputError) as caught:
        mtseg.load(path, "float32")
    for word in words:
        assert str(word) in str(caught.value)
    assert "\n" not in str(caught.value)


SAVED = ["saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"]


@damage
@pytest.mark.parametrize("share", [0, 0.2, 0.5, 0.8, 1])
@pytest.mark.parametrize("file", [*SAVED, MANIFEST])
def test_a_flipped_bit_of_a_saved_model(models, file, share):
    flip(models / "saved_model" / "1" / file, share)
    refused(models / "saved_model", models / "saved_model" / "1")


@damage
@pytest.mark.parametrize("share", [0, 0.2, 0.5, 0.8, 1])
@pytest.mark.parametrize("file", [WEIGHTS, MANIFEST])
def test_a_flipped_bit_of_weights(models, file, share):
    flip(models / "weights" / file, share)
    refused(models / "weights", models / "weights")


@damage
@pytest.mark.parametrize("file", SAVED)
def test_a_file_of_a_saved_model_that_is_missing_or_short(models, file):
    path = models / "saved_model" / "1" / file
    path.write_bytes(path.read_bytes()[:-10])
    refused(models / "saved_model", path)
    path.unlink()
    refused(models / "saved_model", path)


@damage
@pytest.mark.parametrize("content", ["", "no digest", "\xff", "0  ../../../etc/passwd\n"])
def test_digests_that_are_none(models, content):
    (models / "weights" / CHECKSUMS).write_bytes(content.encode("latin-1"))
    refused(models / "weights", models / "weights")


@damage
def test_a_model_from_before_they_were_written(models):
    (models / "weights" / CHECKSUMS).unlink()
    assert mtseg.load(models / "weights", "float32")


@pytest.fixture
def trained(random_run, tmp_path):
    """A run whose evaluation notes the weights that it is of."""
    shutil.copytree(random_run[0], tmp_path / "run")
    path = tmp_path / "run" / workdir_files.EVALUATION
    evaluation = json.loads(path.read_text())
    digest = file_checksum(workdir_files.weights_path(tmp_path / "run", "last"))
    atomic_files.write_json(path, evaluation | {"weights_sha256": digest, "minibatch": 3})
    assert load_trained(tmp_path / "run")
    return tmp_path / "run"


@damage
def test_best_weights_that_are_damaged_have_a_remedy_of_their_own(trained, capsys, tmp_path):
    best = workdir_files.weights_path(trained, "best")
    shutil.copy(workdir_files.weights_path(trained, "last"), best)
    shutil.copy(trained / workdir_files.EVALUATION, trained / workdir_files.BEST_EVALUATION)
    flip(best, 0.5)
    outcome = run(export, capsys, trained, tmp_path / "model", "--weights", "best")
    expect_refusal(outcome, "best.weights.h5", "Use the last weights")


@damage
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_weights_of_a_run_that_are_not_those_that_were_evaluated(trained, share, capsys, tmp_path):
    flip(workdir_files.weights_path(trained, "last"), share)
    expect_refusal(run(export, capsys, trained, tmp_path / "model"), "last.weights.h5", "again")
    expect_refusal(run(evaluate, capsys, trained), "last.weights.h5", "mtseg-train")


@damage
@pytest.mark.parametrize(
    "file", [workdir_files.CONFIG, workdir_files.LABEL_SPACE, workdir_files.EVALUATION]
)
@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"a": 1}'])
def test_a_run_whose_descriptions_are_none(trained, file, content, capsys, tmp_path):
    (trained / file).write_text(content)
    expect_refusal(run(export, capsys, trained, tmp_path / "model"), trained)
    assert not list((tmp_path / "model").glob("*"))


@refusal
@pytest.mark.parametrize("schema", [0, 1, 99, "2", None])
def test_a_manifest_of_another_version(models, schema):
    path = models / "saved_model" / "1" / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": schema}))
    refused(models / "saved_model", path)


@refusal
def test_weights_of_another_network(models, tmp_path):
    path = models / "weights" / WEIGHTS
    with h5py.File(path, "r+") as file:
        names = []
        file.visit(names.append)
        del file[next(name for name in names if isinstance(file[name], h5py.Dataset))]
    (models / "weights" / CHECKSUMS).unlink()
    refused(models / "weights", path)


@no_code
@pytest.mark.parametrize(
    ("engine", "kind"),
    [
        # Both engines ask the same function.
        pytest.param(engine, kind, marks=pytest.mark.thorough)
        if engine == "tensorflow" and kind != "link"
        else (engine, kind)
        for kind in ("link", "soft link", "external", "virtual", "huge")
        for engine in ("tensorflow", "openvino")
    ],
)
def test_weights_that_lead_elsewhere_or_say_any_size_are_refused(models, tmp_path, engine, kind):
    path = models / "weights" / WEIGHTS
    shutil.copy(path, tmp_path / "other.h5")
    with h5py.File(path, "r+") as file:
        name = "layers/conv2d_2/vars/1"
        values = file[name][:]
        del file[name]
        if kind == "link":
            file[name] = h5py.ExternalLink(str(tmp_path / "other.h5"), name)
        elif kind == "soft link":
            file[name] = h5py.SoftLink("/elsewhere")
            file["elsewhere"] = values
        elif kind == "external":
            values.tofile(tmp_path / "values.raw")
            place = [(str(tmp_path / "values.raw"), 0, values.nbytes)]
            file.create_dataset(name, values.shape, values.dtype, external=place)
        elif kind == "virtual":
            layout = h5py.VirtualLayout(values.shape, values.dtype)
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), name, values.shape)
            file.create_virtual_dataset(name, layout)
        else:
            file.create_dataset(name, (10**7, 10**6), np.float32, chunks=(1000, 1000))
    (models / "weights" / CHECKSUMS).unlink()
    with pytest.raises(InputError, match=r"cannot be read as weights") as caught:
        mtseg.load(models / "weights", engine=engine)
    assert str(path) in str(caught.value)


EVIL = "open({!r}, 'w').close()"


@no_code
@pytest.mark.parametrize("name", ["model.keras", "model.h5", "model.pkl", "model.npy"])
def test_files_that_could_run_code_are_no_models(models, tmp_path, name, capsys):
    """A Keras archive with a lambda, and pickles: neither is ever opened."""
    ran = tmp_path / "ran"
    path = tmp_path / name
    if name.endswith(".keras"):
        layer = {
            "class_name": "Lambda",
            "config": {"function": {"class_name": "__lambda__", "config": EVIL.format(str(ran))}},
        }
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("config.json", json.dumps(layer))
    else:
        path.write_bytes(f"cbuiltins\nexec\n(V{EVIL.format(str(ran))}\ntR.".encode())
    scan = write_scan(tmp_path / "scan.nii", np.ones((4, 4, 4), np.int16))
    outcome = run(predict, capsys, scan, "--model", path, "-o", tmp_path / "out")
    expect_refusal(outcome, path)
    assert not ran.exists()


@no_code
def test_pickles_in_the_place_of_weights_are_not_read(models, trained, tmp_path):
    ran = tmp_path / "ran"
    pickled = f"cbuiltins\nexec\n(V{EVIL.format(str(ran))}\ntR.".encode()
    folder = models / "weights"
    (folder / WEIGHTS).write_bytes(pickled)
    (folder / CHECKSUMS).unlink()  # as models of before, which have none
    refused(folder, folder)
    last = workdir_files.weights_path(trained, "last")
    last.write_bytes(pickled)
    path = trained / workdir_files.EVALUATION
    known = {"weights_sha256": file_checksum(last)}
    atomic_files.write_json(path, json.loads(path.read_text()) | known)
    with pytest.raises(InputError, match="cannot be read as weights"):
        load_trained(trained)
    assert not ran.exists()


@no_code
def test_label_maps_of_a_run_are_read_without_pickle(tmp_path):
    path = workdir_files.labels_path(tmp_path, "breast", "1")
    path.parent.mkdir(parents=True)
    np.savez(path, labels=np.array([{"an": "object"}], object))
    with pytest.raises(InputError, match="unreadable"):
        workdir_files.read_labels(tmp_path, "breast", "1")


TASK = """
name = "{name}"
title = "T"
modality = "CT"
citation = "C"
decision = "argmax"
spacing = {{ rule = "finest" }}
classes = [{{ name = "{class_name}", title = "C" }}]
"""


@no_code
@pytest.mark.parametrize(
    ("name", "class_name"),
    [
        ("../outside", "a"), ("/etc/outside", "a"), ("..", "a"), ("a/b", "a"), ("", "a"),
        ("t", "../a"), ("t", "a b"), ("t", "__import__('os')"),
    ],
)  # fmt: skip
def test_names_in_a_task_file_lead_nowhere(tmp_path, capsys, name, class_name):
    path = tmp_path / "task.toml"
    path.write_text(TASK.format(name=name, class_name=class_name))
    data_dir = tmp_path / "data"
    outcome = run(prepare, capsys, path, "--manual-dir", tmp_path, "--data-dir", data_dir)
    expect_refusal(outcome, path, "name")
    assert not data_dir.exists()


@no_code
@pytest.mark.parametrize("outside", ["../outside.nii.gz", "/etc/hostname"])
def test_a_data_set_does_not_name_files_outside_of_its_folder(tmp_path, capsys, outside):
    write_scan(tmp_path / "outside.nii.gz", np.ones((4, 4, 4), np.uint8))
    dataset = tmp_path / "dataset"
    dataset.mkdir()
    listed = {"image": outside, "label": outside}
    content = {"modality": {"0": "MR"}, "labels": {"1": "a"}, "training": [listed]}
    (dataset / "dataset.json").write_text(json.dumps(content))
    outcome = run(
        prepare, capsys, "breast:msd", "--manual-dir", dataset, "--data-dir", tmp_path / "data"
    )
    expect_refusal(outcome, "dataset.json", outside)


@no_code
@pytest.mark.parametrize("name", ["..", "a/../../b", "/abs", "a b", "7"])
def test_a_served_models_name_stays_in_its_folder(trained, tmp_path, capsys, name):
    outcome = run(export, capsys, trained, "--serving", tmp_path / "serve", "--name", name)
    expect_refusal(outcome, "--name")
    assert not (tmp_path / "serve").exists()


@refusal
@pytest.mark.parametrize(
    "content", ["", "a = ", "\x00", "[" * 5000, "a = 1\na = 2", "name = 3", "x" * 100_000]
)
def test_task_files_that_are_none(tmp_path, capsys, content):
    path = tmp_path / "task.toml"
    path.write_text(content)
    expect_refusal(run(train, capsys, "--tasks", path, "--workdir", tmp_path / "run"), path)
    assert not (tmp_path / "run").exists()
