"""A network for several tasks becomes a run for some of them, whose outputs are unchanged."""

import json
import sys

import numpy as np
import pytest

from mtseg.errors import InputError
from tests.benchmarks.test_benchmarks import load  # noqa: F401
from tests.benchmarks.test_import_networks import SETTINGS, VOXELS


@pytest.fixture
def cut_tasks(load, tiny_data, monkeypatch, tmp_path):  # noqa: F811
    """A function that cuts a network for breast and cta with random weights, and its arrays."""
    from mtseg.runs.building import build_model
    from mtseg.runs.config import TrainConfig
    from mtseg.tasks.label_space import parse_tasks

    module = load("cut_tasks")
    tasks = "breast,cta"
    model = build_model(TrainConfig(tasks, "d", backgrounds="by-task"), parse_tasks(tasks))
    rng = np.random.default_rng(0)
    model.get_layer("logits").bias.assign(rng.normal(size=4).astype(np.float32))
    named = zip(model.weights, model.get_weights(), strict=True)
    arrays = {f"{n:03}|{weight.path}": array for n, (weight, array) in enumerate(named)}
    np.savez(tmp_path / "both.npz", **arrays)
    (tmp_path / "both.json").write_text(json.dumps(SETTINGS))
    (tmp_path / "voxels.json").write_text(json.dumps(VOXELS))

    def run(kept, workdir):
        flags = {"trained": tasks, "tasks": kept, "data-dir": tiny_data.data_dir}
        words = [str(part) for name, value in flags.items() for part in (f"--{name}", value)]
        words += ["--workdir", str(workdir)]
        monkeypatch.setattr(sys, "argv", ["cut_tasks.py", str(tmp_path / "both.npz"), *words])
        module.main()

    return run, list(arrays.values())


def test_the_outputs_that_stay_are_those_of_the_network(cut_tasks, tmp_path, capsys):
    from mtseg.models.export import export_weights
    from mtseg.runs.manifest import read_manifest
    from mtseg.runs.weights import load_trained

    run, arrays = cut_tasks
    run("cta", tmp_path / "run")
    trained = load_trained(tmp_path / "run")
    *inner, kernel, bias = trained.model.get_weights()
    assert all(np.array_equal(*pair) for pair in zip(inner, arrays[:-2], strict=True))
    # Of the outputs backgrounds of breast and cta, muscle, arteries.
    np.testing.assert_array_equal(kernel, arrays[-2][..., [1, 3]])
    shift = bias - arrays[-1][[1, 3]]
    np.testing.assert_allclose(shift, np.log([0.99 * 2, 0.01 * 2]), atol=1e-6)  # natural priors
    assert "mean_dice_cta: " in capsys.readouterr().out
    export_weights(tmp_path / "run", tmp_path / "model")
    manifest = read_manifest(tmp_path / "model")
    assert manifest["classes"] == ["background", "coronary_arteries"]
    assert set(manifest["operating_points"]) == {"coronary_arteries"}


@pytest.mark.parametrize("kept", ["brain", "breast,cta:imagecas"])
def test_tasks_that_it_was_not_trained_for_are_refused(cut_tasks, tmp_path, kept):
    run, _ = cut_tasks
    with pytest.raises(InputError, match=r"is not one of breast:phantom,cta:phantom, which"):
        run(kept, tmp_path / "run")
    assert not (tmp_path / "run").exists()
