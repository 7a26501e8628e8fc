"""mtseg models: what comes with the package, by name; and names wherever a model is given."""

import json
import shutil
from pathlib import Path

import pytest

import mtseg
from mtseg.__main__ import main
from mtseg.cli import evaluate, predict
from mtseg.errors import InputError
from mtseg.gateway import command as gateway
from mtseg.models import listing
from mtseg.models.listing import describe_choice
from mtseg.runs import manifest
from mtseg.runs.manifest import PACKAGED, locate_model, packaged_models
from mtseg.viewer import command as viewer


@pytest.fixture
def two_models(tmp_path, monkeypatch):
    """A package with two models: the default, and one called second."""
    folder = tmp_path / "package" / "packaged"
    shutil.copytree(PACKAGED, folder, ignore=lambda at, names: {"research"} & set(names))
    shutil.copytree(folder, folder / "second")
    about = json.loads((folder / "about.json").read_text())
    (folder / "second" / "about.json").write_text(json.dumps(about | {"summary": "another"}))
    for module in (manifest, listing):
        monkeypatch.setattr(module, "PACKAGED", folder)
    monkeypatch.chdir(tmp_path)
    return folder


def test_json_has_what_the_manifest_and_the_texts_say(capsys):
    assert main(["models", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)[0]
    stored = json.loads((PACKAGED / "manifest.json").read_text())
    assert (first["name"], first["is_default"], first["path"]) == ("packaged", True, str(PACKAGED))
    assert first["model_id"] == stored["model_id"]
    assert first["size_bytes"] == (PACKAGED / "model.weights.h5").stat().st_size
    assert [task["name"] for task in first["tasks"]] == ["brain", "hippocampus", "breast", "cta"]
    assert [task["is_synthetic"] for task in first["tasks"]] == [False, False, True, True]
    classes = [tissue for task in first["tasks"] for tissue in task["classes"]]
    assert [tissue["name"] for tissue in classes] == stored["classes"][1:]
    assert [tissue["label"] for tissue in classes] == stored["labels"][1:]
    dice = stored["mean_dice_on_test_scans"]
    assert [tissue["mean_dice_on_test_scans"] for tissue in classes] == list(dice.values())
    assert first["settings"] == stored["training"]
    assert "CC BY-NC" in first["licence"]
    assert Path(first["card"]).is_file()


def test_several_models_are_listed_the_default_first(two_models, capsys):
    assert list(packaged_models()) == ["packaged", "second"]
    assert main(["models"]) == 0
    first, second = capsys.readouterr().out.split("\n\nsecond, ")
    assert first.startswith("packaged (the default), 1.4 MB: ")
    assert second.startswith("1.4 MB: another\n")
    assert "pectoral_muscle            7               0.972" in first
    assert "\nTraining: the average of research and two networks that were trained on" in first


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (predict, ["scan.nii", "--model", "second"]),
        (predict, ["scan.nii", "--ensemble", "packaged", "second"]),
        (evaluate, ["second"]),
        (viewer, ["--model", "second"]),
        (gateway, ["spool", "--allow", "A", "--out", "out", "--model", "second"]),
    ],
)
def test_a_folder_of_the_same_name_is_no_guess(two_models, command, arguments, capsys):
    Path("scan.nii").touch()
    Path("second").mkdir()
    assert command.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "second: is the name of a model that comes with mtseg, and of a folder here" in line
    assert line.endswith(f"give its whole path: {Path('second').absolute()}")


def test_evaluate_finds_a_model_by_its_name(two_models, capsys):
    assert evaluate.main(["second", "--data-dir", "none"]) == 2
    assert "none" in capsys.readouterr().err  # its records, which come after the model


def test_python_takes_names(two_models):
    assert locate_model("second") == two_models / "second"
    assert mtseg.load("second").path == two_models / "second"
    Path("second").mkdir()
    with pytest.raises(InputError, match=r"give its whole path: .*second"):
        mtseg.load("second")


def test_a_name_that_no_model_has_is_answered_with_where_to_look(tmp_path, capsys):
    (tmp_path / "scan.nii").touch()
    assert predict.main([str(tmp_path / "scan.nii"), "--model", "secnd"]) == 2
    assert "secnd: no such folder. Give a model, one that mtseg models lists" in (
        capsys.readouterr().err
    )


def test_what_a_packaged_model_is_for_is_said_however_it_is_named(two_models):
    default = describe_choice(None)
    second = describe_choice("second")
    assert describe_choice(str(two_models / "second")) == second
    assert describe_choice("mtseg_runs/second") == ""
    assert default.startswith("No model given: using the one that comes with mtseg. For research")
    assert second.startswith("The model second comes with mtseg. For research only; it was trained")
