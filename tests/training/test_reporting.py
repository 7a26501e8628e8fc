"""What is said of an evaluation, and of a folder that cannot have one."""

import errno
from types import SimpleNamespace

import pytest

from mtseg.errors import InputError
from mtseg.evaluation.results import Evaluation, Row
from mtseg.runs.config import TrainConfig
from mtseg.training import reporting
from mtseg.training.reporting import describe_missed, evaluate_run


def dice_row(name, subject, value):
    return Row("brain", name, subject, "dice", value)


def test_classes_that_are_not_found_are_named():
    rows = (
        dice_row("white_matter", "a", 0.0),
        dice_row("white_matter", "b", 0.0002),
        dice_row("brain_stem", "a", 0.0),
        dice_row("brain_stem", "b", 0.3),
        dice_row("cerebellum", "a", None),  # absent from the test scans
    )
    line = describe_missed(Evaluation(rows, {}))
    assert line.startswith("warning: Dice is 0 for brain/white_matter: the network does not find")
    assert "mtseg-check" in line
    assert "\n" not in line
    assert describe_missed(Evaluation(rows[2:], {})) == ""


def test_a_run_on_a_disk_that_is_read_only_is_one_line(tmp_path, monkeypatch):
    def lock(folder, refusal):
        raise OSError(errno.EROFS, "Read-only file system", str(folder / ".lock"))

    monkeypatch.setattr(reporting, "lock_folder", lock)
    trained = SimpleNamespace(config=TrainConfig("breast:phantom", "data"))
    with pytest.raises(InputError, match=r"\.lock: cannot be written \(Read-only file system\)"):
        evaluate_run(tmp_path, trained, "data")
