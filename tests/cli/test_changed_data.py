"""Training and evaluation notice that scans, split or task are not those of the records or the run.

Preparation does too: see `tests/records/test_updating.py`.
"""

import json
import shutil

import pytest

from mtseg.cli import evaluate, prepare, train
from mtseg.provenance.fingerprint import FINGERPRINT
from mtseg.provenance.training_data import TRAINING_DATA
from tests.changed_data import CHANGES, LABELS, TASK_CHANGES, change_split, replace_scan, split_of
from tests.layout_files import subject, write, write_folder, write_task

TRAIN = (
    "--tasks renal.toml:folder --data-dir data --workdir run --preset demo --precision float32 "
    "--minibatches-per-task 1 --global-batch-size 3 --input patches"
)
PREPARE = (
    "renal.toml:folder --manual-dir scans --data-dir data --kinds patches,volumes "
    "--patches-per-class 5 --num-processes 1"
)


def run(command, capsys, text):
    code = command.main(text.split())
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with scans, a task file, records of both, and a run that was trained on them."""
    place = tmp_path_factory.mktemp("changed") / "place"
    place.mkdir()
    split_of(write_folder(place / "scans"), train="a1 a2 a3 a4", test="a5")
    write_task(place / "renal.toml", LABELS)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(place)
        assert prepare.main(PREPARE.split()) == 0
        assert train.main(TRAIN.split()) == 0
    shutil.copytree(place, place.with_name("untouched"))
    return place


@pytest.fixture(autouse=True)
def _at_place(place, monkeypatch):
    """Each test begins with what `place` made, under the same paths."""
    shutil.rmtree(place)
    shutil.copytree(place.with_name("untouched"), place)
    monkeypatch.chdir(place)


def refused(outcome, *texts):
    code, _, err = outcome
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for text in texts:
        assert text in err


NOT_RESUMED = TRAIN + " --seed 3"
"""Ends early: the folder holds a run with another seed."""


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_training_says_that_the_data_changed_since_it_was_prepared(place, capsys, change):
    text = change(place / "scans")
    _, out, _ = run(train, capsys, NOT_RESUMED)
    assert f"Warning: renal:folder: the data in {place}/scans has changed since the" in out
    assert f" prepared: {text}. " in out


def test_training_says_nothing_of_data_that_is_the_same_or_gone(place, capsys):
    assert "Warning" not in run(train, capsys, NOT_RESUMED)[1]
    shutil.rmtree(place / "scans")
    assert "Warning" not in run(train, capsys, NOT_RESUMED)[1]


@pytest.mark.parametrize("name", TASK_CHANGES)
def test_training_refuses_records_of_another_definition(place, capsys, name):
    change, text = TASK_CHANGES[name]
    file = place / "renal.toml"
    file.write_text(change(file.read_text()))
    refused(run(train, capsys, TRAIN), text, "mtseg-prepare with --update")


def update(capsys, flags="--update", command=PREPARE):
    code, _, err = run(prepare, capsys, f"{command} {flags}")
    assert code == 0, err


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_run_is_not_resumed_with_other_training_data(place, capsys, change):
    text = change(place / "scans")
    update(capsys)
    refused(run(train, capsys, TRAIN), "trained on other data", text.split("; ")[0])


def test_a_run_is_resumed_with_other_test_data(place, capsys):
    split_of(place / "scans", train="a1 a2 a3 a4", test="a5 a6")
    write_folder(place / "scans", names=["a6"], first=6)
    update(capsys)
    assert run(train, capsys, TRAIN)[0] == 0


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_evaluation_says_how_the_records_differ_from_those_of_the_run(place, capsys, change):
    text = change(place / "scans")
    update(capsys)
    code, out, err = run(evaluate, capsys, "run")
    if change is change_split:
        refused((code, out, err), "a1 (test in renal:folder) and a1 (train in renal:folder)")
    else:
        assert code == 0, err
        assert f"differ from those that the run was trained on: {text}." in out


def test_evaluation_notices_records_of_another_folder(place, capsys):
    split_of(write_folder(place / "other", first=20), train="a1 a2 a3 a4", test="a5")
    update(capsys, "--overwrite", PREPARE.replace("scans", "other"))
    _, out, _ = run(evaluate, capsys, "run")
    assert f"another folder: {place}/other, was {place}/scans; scan of a1, a2, a3, a4, a5" in out
    refused(run(train, capsys, TRAIN), f"another folder: {place}/other, was {place}/scans")


@pytest.mark.parametrize("name", TASK_CHANGES)
def test_evaluation_refuses_records_of_another_definition(place, capsys, name):
    change, text = TASK_CHANGES[name]
    file = place / "renal.toml"
    file.write_text(change(file.read_text()))
    update(capsys)
    refused(run(evaluate, capsys, "run"), text)
    # Labels are no part of the network, only of what it is trained on.
    is_of_labels = name == "swapped labels"
    refused(run(train, capsys, TRAIN), text if is_of_labels else "the task files have changed")


def test_a_scan_that_was_trained_on_is_not_scored_unless_asked_for(place, capsys):
    """Records replaced with another split: only the run knows what it was trained on."""
    change_split(place / "scans")
    update(capsys, "--overwrite")
    refused(run(evaluate, capsys, "run"), "a1 (test", "--allow-training-scans")
    code, _, err = run(evaluate, capsys, "run --allow-training-scans --json figures.json")
    assert code == 0, err
    rows = json.loads((place / "figures.json").read_text())["rows"]
    assert {row["subject"] for row in rows} == {"a1"}


def test_a_copy_under_another_name_is_known(place, capsys):
    """Also in another file format, and as another subject."""
    write(place / "scans" / "images" / "b1.nii", subject(0)[0])  # that of a1
    write(place / "scans" / "labels" / "b1.nii", subject(0)[1])
    split_of(place / "scans", train="a2 a3 a4", test="a5 b1")
    update(capsys)
    refused(
        run(evaluate, capsys, "run"), "b1 (test in renal:folder) and a1 (train in renal:folder)"
    )


def test_training_refuses_a_scan_on_both_sides_of_the_split_across_sources(place, capsys):
    text = (place / "renal.toml").read_text()
    south = '\n[sources.south]\nlayout = "folder"\n' + LABELS.replace("folder", "south")
    (place / "renal.toml").write_text(text + south)
    write_folder(place / "south", names=["s1", "s2"], first=30)
    image, label_map = subject(4)  # a5, the test scan
    write(place / "south" / "images" / "s1.nii.gz", image)
    write(place / "south" / "labels" / "s1.nii.gz", label_map)
    split_of(place / "south", train="s1", test="s2")
    flags = "--data-dir data --kinds patches,volumes --patches-per-class 5 --num-processes 1"
    message = "a5 (test in renal:folder) and s1 (train in renal:south)"
    refused(run(prepare, capsys, f"renal.toml:south --manual-dir south {flags}"), message)
    # Prepared apart from each other, they meet in training.
    split_of(place / "south", train="s2", test="s1")
    assert run(prepare, capsys, f"renal.toml:south --manual-dir south {flags}")[0] == 0
    for kind in ("patches", "volumes"):
        path = place / "data" / "mtseg_renal" / f"south_{kind}" / "1.0.0" / FINGERPRINT
        stored = json.loads(path.read_text())
        for item in stored["subjects"]:
            item["split"] = {"s1": "train", "s2": "test"}[item["name"]]
        path.write_text(json.dumps(stored))
    tasks = TRAIN.replace("renal.toml:folder", "renal.toml:folder+south")
    refused(run(train, capsys, tasks), message)


def test_patches_and_volumes_of_different_data_are_refused(place, capsys):
    replace_scan(place / "scans")
    shutil.copytree(place / "data", place / "old")
    update(capsys)
    shutil.rmtree(place / "data" / "mtseg_renal" / "folder_patches")
    shutil.copytree(
        place / "old" / "mtseg_renal" / "folder_patches",
        place / "data" / "mtseg_renal" / "folder_patches",
    )
    refused(run(train, capsys, TRAIN), "patches and volumes were prepared from different data")


def test_records_and_runs_without_memory_are_used_and_said_to_have_none(place, capsys):
    (place / "run" / TRAINING_DATA).unlink()
    assert run(evaluate, capsys, "run")[0] == 0
    for path in (place / "data").rglob(FINGERPRINT):
        path.unlink()
    code, out, err = run(train, capsys, TRAIN.replace("--workdir run", "--workdir new"))
    assert code == 0, err
    assert out.count("carry no fingerprint") == 1
    assert not (place / "new" / TRAINING_DATA).exists()
    code, out, err = run(evaluate, capsys, "new")
    assert code == 0, err
    assert out.count("carry no fingerprint") == 1


@pytest.mark.parametrize("content", ["", "{", "[3]", '{"records": 3}', "[" * 100_000])
def test_a_damaged_memory_is_named(place, capsys, content):
    (place / "run" / TRAINING_DATA).write_text(content)
    refused(run(evaluate, capsys, "run"), TRAINING_DATA)
    refused(run(train, capsys, TRAIN), TRAINING_DATA)
