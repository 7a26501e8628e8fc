"""Networks from arrays become finished experiments, and arrays of others are refused."""

import json
import sys

import numpy as np
import pytest

from mtseg.errors import InputError
from tests.benchmarks.test_benchmarks import load  # noqa: F401

SETTINGS = {
    "minibatches": 7, "batch": 210, "lr": 0.005, "optimizer": "muon", "beta2": 0.98,
    "dropout": 0.1, "momentum": 0.99, "warmup": 2, "train_seconds": 3.5, "device": "a GPU",
}  # fmt: skip
VOXELS = {"breast": [900, 100], "cta": [990, 10]}


@pytest.fixture(scope="module")
def arrays():
    """The arrays of a network for breast with random weights, under their keys."""
    from mtseg.runs.building import build_model
    from mtseg.runs.config import TrainConfig
    from mtseg.tasks.label_space import parse_tasks

    model = build_model(TrainConfig("breast", "d", backgrounds="by-task"), parse_tasks("breast"))
    named = zip(model.weights, model.get_weights(), strict=True)
    return {f"{n:03}|{weight.path}": array for n, (weight, array) in enumerate(named)}


@pytest.fixture
def networks(arrays, tmp_path):
    """A folder with that network, and the voxels of two tasks."""
    folder = tmp_path / "networks"
    folder.mkdir()
    np.savez(folder / "breast.npz", **arrays)
    (folder / "breast.json").write_text(json.dumps(SETTINGS))
    (folder / "voxels.json").write_text(json.dumps(VOXELS))
    return folder


@pytest.fixture
def import_networks(load, tiny_data, monkeypatch):  # noqa: F811
    """A function that runs the script on a folder of networks."""
    module = load("import_networks")

    def run(networks, out):
        flags = {"tasks": "breast,cta", "data-dir": tiny_data.data_dir, "out": out}
        words = [str(part) for name, value in flags.items() for part in (f"--{name}", value)]
        monkeypatch.setattr(sys, "argv", ["import_networks.py", str(networks), *words])
        module.main()

    return run


def test_a_network_becomes_a_finished_experiment(
    networks, arrays, import_networks, tmp_path, capsys
):
    from mtseg.experiments.results import read_results
    from mtseg.runs.unevaluated import read_unevaluated
    from mtseg.runs.weights import load_trained

    out = tmp_path / "out"
    import_networks(networks, out)
    said = capsys.readouterr().out
    assert "cta.npz: is not there" in said
    assert "breast: trained with 7 mini-batches of 210 per task in 4 s on a GPU" in said

    trained = load_trained(out / "breast")
    *inner, bias = trained.model.get_weights()
    *inner_given, bias_given = arrays.values()
    assert all(np.array_equal(*pair) for pair in zip(inner, inner_given, strict=True))
    # Muscle is drawn as often as background, and found in a tenth of the voxels.
    shift = bias - bias_given
    assert np.exp(shift[1] - shift[0]) == pytest.approx(1 / 9, rel=1e-5)

    (result,) = read_results(out)
    assert result.experiment.name == "breast"
    assert result.evaluation.is_complete
    assert result.curve[-1]["training_seconds"] == 3.5
    assert read_unevaluated(out / "breast") is None
    assert list((out / "breast" / "labels" / "breast").iterdir())  # for the report

    before = {path: path.stat().st_mtime_ns for path in (out / "breast").glob("*")}
    import_networks(networks, out)  # has nothing to do
    assert before == {path: path.stat().st_mtime_ns for path in (out / "breast").glob("*")}


def replace(arrays, number, array, name=None):
    keys = list(arrays)
    old = keys[number]
    return {(name or key) if key == old else key: arrays[key] if key != old else array
            for key in keys}  # fmt: skip


def test_arrays_of_another_network_are_refused(networks, arrays, import_networks, tmp_path):
    last = len(arrays) - 1
    bias = list(arrays.values())[last]
    wrong = {
        rf"array {last} is logits/bias \(3,\), and this network has logits/bias \(2,\)": replace(
            arrays, last, np.zeros(3, np.float32)
        ),
        "array 136 is logits/gamma": replace(arrays, last, bias, f"{last}|logits/gamma"),
        "has 136 arrays, this network has 137": dict(list(arrays.items())[:-1]),
        "in place 0. Keys are 000": {key.replace("|", "/"): a for key, a in arrays.items()},
        "not of finite float32": replace(arrays, last, np.full_like(bias, np.nan)),
        "without objects": replace(arrays, last, np.array([{}, {}], object)),
    }
    for message, content in wrong.items():
        np.savez(networks / "breast.npz", **content)
        with pytest.raises(InputError, match=message):
            import_networks(networks, tmp_path / "out")
        assert not (tmp_path / "out" / "breast").exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("breast.json", {"batch": 210}, "lacks minibatches, train_seconds"),
        ("breast.json", SETTINGS | {"minibatches": 0}, "minibatches is 0"),
        ("breast.json", [], "is not a JSON object"),
        ("voxels.json", {"breast": [1, 2]}, "cta has None. Give the number of training voxels of"),
        ("voxels.json", VOXELS | {"breast": [1, 0]}, r"breast has \[1, 0\]"),
    ],
)
def test_settings_that_lack_something_are_refused(
    file, content, message, networks, import_networks, tmp_path
):
    (networks / file).write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        import_networks(networks, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_networks_of_different_settings_are_not_compared(networks, import_networks, tmp_path):
    (networks / "cta.json").write_text(json.dumps(SETTINGS | {"lr": 0.001}))
    (networks / "cta.npz").touch()
    with pytest.raises(InputError, match=r"cta\.npz: was trained with lr 0\.001, breast\.npz with"):
        import_networks(networks, tmp_path / "out")
