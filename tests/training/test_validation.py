"""Which scans a run scores: validation scans during training, test scans at the end alone."""

import json
import shutil

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mtseg.cli.evaluate import main as evaluate
from mtseg.errors import InputError
from mtseg.evaluation.results import Evaluation
from mtseg.models.export import export_weights
from mtseg.records.prepared import prepared_dir
from mtseg.runs.config import TrainConfig, configure
from mtseg.runs.manifest import read_manifest
from mtseg.runs.weights import load_trained
from mtseg.runs.workdir import (
    BEST_EVALUATION,
    CONFIG,
    EVALUATION,
    LEARNING_CURVE,
    SPLITS,
    VALIDATION,
)
from mtseg.training import loop, reporting
from mtseg.training.callbacks import Callback
from mtseg.training.loop import train_and_evaluate
from tests.conftest import ONE_OF_THREE, prepare_breast

MUSCLE = ("breast", "pectoral_muscle", "dice")


def make_config(data_dir, **changes):
    settings = {
        "minibatches_per_task": 4,
        "global_batch_size": 4,
        "evaluate_every": 2,
        "checkpoint_every": 2,
        "curves_on": "auto",
    }
    return TrainConfig("breast:phantom", str(data_dir), **{**settings, **changes})


def test_shards(data_dir):
    return sorted(prepared_dir(data_dir, "breast", "phantom", "volumes").glob("*-test.*"))


test_shards.__test__ = False  # not a test


def read_json(path):
    return json.loads(path.read_text())


def read_tags(workdir):
    events = EventAccumulator(str(workdir / "tensorboard"))
    events.Reload()
    return set(events.Tags()["tensors"])


class HiddenTestScans:
    """Folders in place of the test shards, so that opening one fails, until `show` is called."""

    def __init__(self, data_dir, aside):
        self.shards = test_shards(data_dir)
        self.aside = aside
        aside.mkdir()
        for shard in self.shards:
            shard.rename(aside / shard.name)
            shard.mkdir()

    def show(self):
        for shard in self.shards:
            shard.rmdir()
            (self.aside / shard.name).rename(shard)


@pytest.fixture(scope="module")
def run(three_splits, tmp_path_factory):
    """A run with validation scans whose test scans cannot be opened before its end, and a line."""
    folder = tmp_path_factory.mktemp("run")
    shutil.copytree(three_splits, folder / "data")
    hidden = HiddenTestScans(folder / "data", folder / "hidden")
    assert len(hidden.shards) == 2

    class ShowAtTheEnd(Callback):
        def on_figures(self, step, figures):
            if step == 4:
                hidden.show()

    evaluation = train_and_evaluate(
        make_config(folder / "data"), folder / "run", is_complete=True, callbacks=[ShowAtTheEnd()]
    )
    return folder, evaluation


def test_test_scans_are_opened_at_the_end_alone(run):
    _, evaluation = run
    assert (evaluation.split, evaluation.points_from) == ("test", "validation")
    assert set(evaluation.values(*MUSCLE)) == {"phantom1000", "phantom1001"}
    assert evaluation.is_complete


@pytest.mark.slow
def test_in_the_papers_way_test_scans_are_opened_during_training(three_splits, tmp_path):
    shutil.copytree(three_splits, tmp_path / "data")
    HiddenTestScans(tmp_path / "data", tmp_path / "hidden")
    with pytest.raises((InputError, OSError), match="-test"):
        train_and_evaluate(make_config(tmp_path / "data", curves_on="test"), tmp_path / "run")
    assert not (tmp_path / "run" / LEARNING_CURVE).exists()


def test_the_files_of_a_run_say_of_which_scans_they_are(run):
    workdir = run[0] / "run"
    assert read_json(workdir / CONFIG)["curves_on"] == "validation"
    curve = read_json(workdir / LEARNING_CURVE)
    assert [(point["minibatch"], point["split"]) for point in curve] == [
        (2, "validation"),
        (4, "validation"),
    ]
    stored = {name: read_json(workdir / name) for name in (EVALUATION, BEST_EVALUATION, VALIDATION)}
    assert [one["split"] for one in stored.values()] == ["test", "validation", "validation"]
    assert {one["operating_points_from"] for one in stored.values()} == {"validation"}
    assert stored[EVALUATION]["operating_points"] == stored[VALIDATION]["operating_points"]
    splits = read_json(workdir / SPLITS)
    assert splits["curves_on"] == "validation"
    members = splits["sources"]["breast:phantom"]
    assert [len(members[side]) for side in ("train", "validation", "test")] == [2, 1, 2]
    scored = {row["subject"] for row in stored[VALIDATION]["rows"]}
    assert scored == set(members["validation"])


def test_the_curves_of_tensorboard_say_of_which_scans_they_are(run):
    tags = read_tags(run[0] / "run")
    assert {f"dice/{split}/breast/pectoral_muscle" for split in ("validation", "test")} <= tags
    assert "precision_recall/validation/breast/pectoral_muscle" in tags
    assert "breast, validation: scan, reference, prediction" in tags
    assert {"mean_dice/validation/all_tasks", "mean_dice/test/breast"} <= tags
    assert "dice/breast/pectoral_muscle" not in tags


def test_label_maps_are_those_of_test_scans(run):
    found = (run[0] / "run" / "labels" / "breast").iterdir()
    assert {path.stem for path in found} == {"phantom1000", "phantom1001"}


def test_a_model_has_its_operating_points_and_calibration_from_validation_scans(run, tmp_path):
    workdir = run[0] / "run"
    manifest = read_manifest(export_weights(workdir, tmp_path / "last"))
    assert manifest["operating_points_from"] == "validation"
    assert manifest["operating_points"] == read_json(workdir / VALIDATION)["operating_points"]
    assert "mean_dice_on_test_scans" in manifest
    trained = load_trained(tmp_path / "last")
    assert trained.operating_points == manifest["operating_points"]
    assert trained.points_from == "validation"
    manifest = read_manifest(export_weights(workdir, tmp_path / "best", "best"))
    assert "mean_dice_on_validation_scans" in manifest
    assert "mean_dice_on_test_scans" not in manifest


@pytest.mark.slow
@pytest.mark.parametrize(("split", "num_scans"), [("test", 2), ("validation", 1)])
def test_evaluate_scores_either_split_at_the_operating_points_of_validation_scans(
    run, tmp_path, capsys, split, num_scans
):
    flags = [] if split == "test" else ["--split", split]
    assert evaluate([str(run[0] / "run"), "--json", str(tmp_path / "e.json"), *flags]) == 0
    stored = read_json(tmp_path / "e.json")
    assert (stored["split"], stored["operating_points_from"]) == (split, "validation")
    assert stored["operating_points"] == run[1].operating_points
    assert len(Evaluation.from_json(stored).values(*MUSCLE)) == num_scans
    assert f"Figures of the {split} scans; operating points chosen on: validation scans." in (
        capsys.readouterr().out
    )


def scores_of(split, dice=0.5):
    from mtseg.evaluation.results import Row

    row = Row("breast", "pectoral_muscle", "a", "dice", dice)
    return Evaluation((row,), {"pectoral_muscle": 0.5}, split=split, points_from="validation")


@pytest.mark.slow
def test_a_run_killed_before_its_test_scans_were_scored_scores_them_when_resumed(
    three_splits, tmp_path, monkeypatch
):
    class Killed(Exception):
        pass

    scored = []

    def score(*_, split, **__):
        scored.append(split)
        if scored.count("test") == 1 and split == "test":
            raise Killed
        return scores_of(split)

    monkeypatch.setattr(reporting, "evaluate_model", score)
    config = make_config(three_splits)
    with pytest.raises(Killed):
        train_and_evaluate(config, tmp_path)
    assert train_and_evaluate(config, tmp_path).split == "test"
    assert scored == ["validation", "validation", "test", "validation", "test"]
    # Finished: nothing is scored again.
    assert train_and_evaluate(config, tmp_path).split == "test"
    assert len(scored) == 5


@pytest.mark.slow
@pytest.mark.promise("refused input")
def test_scans_that_are_prepared_again_meanwhile_are_not_scored(
    three_splits, tmp_path, monkeypatch
):
    class PrepareAgain(Callback):
        def on_evaluation(self, step, evaluation, pictures):
            if step == 2:
                changed = ONE_OF_THREE | {"split_seed": 2}
                prepare_breast(data_dir, num_test=2, is_update=True, **changed)

    data_dir = shutil.copytree(three_splits, tmp_path / "data")
    monkeypatch.setattr(reporting, "evaluate_model", lambda *_, split, **__: scores_of(split))
    config = make_config(data_dir)
    with pytest.raises(InputError, match=r"the validation scans were prepared again .*split of "):
        train_and_evaluate(config, tmp_path / "run", callbacks=[PrepareAgain()])
    assert [point["minibatch"] for point in read_json(tmp_path / "run" / LEARNING_CURVE)] == [2]
    with pytest.raises(InputError, match="trained on other data"):
        train_and_evaluate(config, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.promise("refused input")
@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("open_balanced_samples", "records were prepared again while this command read them"),
        ("hold_volumes", "the validation scans were prepared again"),
    ],
)
def test_scans_that_are_prepared_again_while_a_run_begins_are_not_scored(
    three_splits, tmp_path, monkeypatch, step, words
):
    """It may have read them as training scans."""
    data_dir = shutil.copytree(three_splits, tmp_path / "data")
    do = getattr(loop, step)

    def prepare_and_do(*arguments, **settings):
        changed = ONE_OF_THREE | {"split_seed": 2}
        prepare_breast(data_dir, num_test=2, is_update=True, **changed)
        return do(*arguments, **settings)

    monkeypatch.setattr(loop, step, prepare_and_do)
    monkeypatch.setattr(reporting, "evaluate_model", lambda *_, split, **__: scores_of(split))
    with pytest.raises(InputError, match=words):
        train_and_evaluate(make_config(data_dir), tmp_path / "run")
    assert (tmp_path / "run").exists() == (step == "hold_volumes")


@pytest.mark.slow
def test_a_finished_run_is_evaluated_again_if_other_scans_are_scored(
    three_splits, tmp_path, monkeypatch
):
    scored = []

    def score(*_, split, **__):
        scored.append(split)
        return scores_of(split)

    data_dir = shutil.copytree(three_splits, tmp_path / "data")
    monkeypatch.setattr(reporting, "evaluate_model", score)
    config = make_config(data_dir, minibatches_per_task=2)
    train_and_evaluate(config, tmp_path / "run")
    train_and_evaluate(config, tmp_path / "run")
    assert scored == ["validation", "test"]
    prepare_breast(data_dir, num_test=3, is_update=True, **ONE_OF_THREE)
    train_and_evaluate(config, tmp_path / "run")
    assert scored == ["validation", "test"] * 2
    # A file of an earlier version does not say which scans were scored.
    stored = read_json(tmp_path / "run" / EVALUATION)
    del stored["scored_sha256"]
    (tmp_path / "run" / EVALUATION).write_text(json.dumps(stored))
    prepare_breast(data_dir, num_test=2, is_update=True, **ONE_OF_THREE)
    train_and_evaluate(config, tmp_path / "run")
    assert len(scored) == 4


@pytest.mark.slow
def test_best_weights_are_chosen_on_validation_scans_and_a_class_not_found_in_the_end_is_named(
    three_splits, tmp_path, monkeypatch, capsys
):
    dice = iter([0.6, 0.0, 0.0])  # after two mini-batches, after four, and of the test scans
    monkeypatch.setattr(
        reporting, "evaluate_model", lambda *_, split, **__: scores_of(split, next(dice))
    )
    train_and_evaluate(make_config(three_splits), tmp_path)
    assert read_json(tmp_path / BEST_EVALUATION)["minibatch"] == 2
    said = capsys.readouterr().out
    assert said.count("warning: Dice is 0 for breast/pectoral_muscle") == 1


def test_the_papers_way_is_an_option_and_is_said(three_splits, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(reporting, "evaluate_model", lambda *_, split, **__: scores_of(split))
    config = make_config(three_splits, curves_on="test", minibatches_per_task=2)
    assert train_and_evaluate(config, tmp_path).split == "test"
    said = capsys.readouterr().out
    assert "2 train, 1 validation, 2 test subjects" in said
    assert (
        "chosen on: 2 test scans (the paper's way). The validation scans (1) are not used" in said
    )
    assert read_json(tmp_path / CONFIG)["curves_on"] == "test"


def test_without_validation_and_test_scans_the_last_weights_are_taken(
    only_training, tmp_path, capsys
):
    evaluation = train_and_evaluate(make_config(only_training), tmp_path / "run")
    said = capsys.readouterr().out
    assert "neither validation nor test scans" in said
    assert (evaluation.split, evaluation.points_from) == ("train", "train")
    assert len(evaluation.values(*MUSCLE)) == 3
    assert not (tmp_path / "run" / LEARNING_CURVE).exists()
    assert train_and_evaluate(make_config(only_training), tmp_path / "run") == evaluation
    manifest = read_manifest(export_weights(tmp_path / "run", tmp_path / "model"))
    assert manifest["operating_points_from"] == "train"
    assert np.isfinite(manifest["trained_spacing_mm"]["breast"])
    with pytest.raises(InputError, match="no best weights"):
        load_trained(tmp_path / "run", "best")
    capsys.readouterr()
    assert evaluate([str(tmp_path / "run")]) == 2
    assert "there is no test set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("preset", "curves_on"), [("paper", "test"), ("fast", "auto"), ("demo", "auto")]
)
def test_the_preset_paper_keeps_the_papers_way(preset, curves_on):
    assert configure(preset, "breast", "data").curves_on == curves_on


def test_runs_from_before_there_were_validation_scans_are_the_papers_way():
    stored = json.loads(TrainConfig("breast:phantom", "data").to_json())
    del stored["curves_on"]
    assert TrainConfig.from_json(json.dumps(stored)).curves_on == "test"
