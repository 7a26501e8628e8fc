"""What the process that computes writes for the page, with a network of one threshold."""

import io
import json

import nibabel as nib
import numpy as np
import pytest

from mtseg.errors import InputError
from mtseg.viewer.worker import Worker, _begin
from tests.prediction.test_postprocessing import model  # noqa: F401  (a fixture)


def test_labels_of_before_post_processing_are_beside_those_of_after(model, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)  # the worker changes to the scan's folder
    image = np.full((9, 8, 7), 10, np.int16)
    image[2:7, 2:7, 1:6] = 100
    image[0, 0, 6] = 100  # a stray voxel
    nib.save(nib.Nifti1Image(image, np.eye(4)), "scan.nii")
    answers = io.StringIO()
    order = {"do": "segment", "folder": str(tmp_path), "scan": "scan.nii", "options": {}}
    result = Worker(model, answers).obey(order | {"out": str(tmp_path / "out")})
    after, before = result["label_maps"]
    assert (after["title"], before["title"]) == ("After post-processing", "Before")
    assert after["classes"]["pectoral_muscle"] == {"num_voxels": 125, "volume_ml": 0.125}
    assert before["classes"]["pectoral_muscle"]["num_voxels"] == 126
    assert {after["file"], before["file"]} <= set(result["files"])
    shown = nib.load(tmp_path / "out" / "unprocessed.nii").get_fdata()
    np.testing.assert_array_equal(shown > 0, image == 100)
    # A reference is compared with both.
    order = {
        "do": "compare", "folder": str(tmp_path / "out" / "results"), "reference": before["file"],
        "out": str(tmp_path / "out"), "task": "breast",
        "label_maps": {of["key"]: of["file"] for of in (after, before)},
    }  # fmt: skip
    dice = Worker(model, answers).obey(order)["dice"]
    assert dice["unprocessed"]["pectoral_muscle"] == 1
    assert dice["labels"]["pectoral_muscle"] == 250 / 251
    events = [json.loads(line)["event"] for line in answers.getvalue().splitlines()]
    assert events[:2] == ["shown", "computing"]


@pytest.mark.promise("refused input")
def test_a_task_that_the_model_does_not_have_is_refused_before_the_first_scan(model, monkeypatch):  # noqa: F811
    monkeypatch.setattr("mtseg.cli.command.start_engine", lambda *_: None)
    monkeypatch.setattr("mtseg.models.loading.load", lambda *_, **__: model)
    settings, answers = {"model": None, "devices": None}, io.StringIO()
    with pytest.raises(
        InputError, match=r"task brest: .* \(did you mean breast\?\)\. Give one of br"
    ):
        _begin({**settings, "task": "brest"}, answers)
    assert answers.getvalue() == ""


def test_a_scan_whose_folder_is_gone_is_one_line_and_the_process_goes_on(model, tmp_path):  # noqa: F811
    order = {"do": "segment", "folder": str(tmp_path / "gone"), "scan": "scan.nii", "options": {}}
    with pytest.raises(InputError, match="gone: cannot be opened any more"):
        Worker(model, io.StringIO()).obey(order | {"out": str(tmp_path / "out")})


def test_a_scan_without_foreground_says_nothing_of_the_speed(model, tmp_path, monkeypatch):  # noqa: F811
    """The next scan's progress is a share of its operations, and their speed must not be 0."""
    monkeypatch.chdir(tmp_path)
    image = np.zeros((9, 8, 7), np.int16)
    image[4, 4, 4] = 100
    nib.save(nib.Nifti1Image(image, np.diag([0.4, 0.4, 0.4, 1])), "scan.nii")
    answers = io.StringIO()
    worker = Worker(model, answers)
    order = {"do": "segment", "folder": str(tmp_path), "scan": "scan.nii", "options": {}}
    for name in ("first", "second"):
        worker.obey(order | {"out": str(tmp_path / name)})
    events = [json.loads(line) for line in answers.getvalue().splitlines()]
    first, second = (e["flop_per_second"] for e in events if e["event"] == "computing")
    assert first == second > 0
