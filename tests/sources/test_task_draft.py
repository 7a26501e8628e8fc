"""Task files that are drafted from a data set, and then check that data set cleanly."""

import numpy as np
import pytest

from mtseg.cli import check
from mtseg.tasks.task_file import read_task
from tests.layout_files import subject, write, write_bids, write_folder, write_msd, write_nnunet


def draft(path, layout, folder):
    return check.main(["--write-task-file", str(path), layout, str(folder)])


@pytest.mark.parametrize(
    ("layout", "write_data", "names"),
    [
        ("nnunet", write_nnunet, ("kidney", "cyst")),
        ("msd", write_msd, ("kidney", "cyst")),
        ("bids", write_bids, ("kidney", "cyst")),
        ("folder", write_folder, ("label_1", "label_2")),
    ],
)
def test_a_drafted_task_checks_its_data_set(tmp_path, capsys, layout, write_data, names):
    folder = write_data(tmp_path / "data")
    path = tmp_path / "My Kidney-2.toml"
    assert draft(path, layout, folder) == 0
    task = read_task(path)
    assert (task.name, task.modality, task.spacing_mm) == ("my_kidney_2", "MR", 1.0)
    assert task.class_names == ("background", *names)
    assert check.main([f"{path}:{layout}", str(folder), "--num-processes", "1"]) == 0
    assert "5 subjects read: 0 errors, 0 warnings" in capsys.readouterr().out


def test_odd_names_thick_slices_and_labels_below_0(tmp_path):
    labels = {"background": 0, "Left Kidney": 1, "left-kidney": 2, "3rd": 3, "ignore": 4}
    folder = write_nnunet(tmp_path / "nn", labels=labels)
    assert draft(tmp_path / "a.toml", "nnunet", folder) == 0
    task = read_task(tmp_path / "a.toml")
    assert task.class_names[1:] == ("left_kidney", "left_kidney_2", "label_3rd")
    assert dict(task.source("nnunet").values)["left_kidney_2"] == ("left-kidney",)
    assert task.source("nnunet").ignore == ("ignore",)
    image, label_map = subject(0)
    for kind, array in (("images", image), ("labels", label_map.astype(np.int16) - 1)):
        write(tmp_path / "f" / kind / "a.nii.gz", array, np.diag([1.0, 1, 8, 1]))
    assert draft(tmp_path / "b.toml", "folder", tmp_path / "f") == 0
    task = read_task(tmp_path / "b.toml")
    assert task.spacing_rule == "in_plane"
    assert task.source("folder").ignore == (-1,)


@pytest.mark.promise("refused input")
def test_nothing_is_overwritten_or_half_written(tmp_path, capsys):
    folder = write_nnunet(tmp_path / "data")
    (tmp_path / "t.toml").write_text("mine")
    for path, layout, words in (
        ("t.toml", "nnunet", "exists already"),
        ("t.txt", "nnunet", "End it in .toml"),
        ("u.toml", "brain:nnunet", "is not a layout"),
        ("u.toml", "msd", "lacks modality and training"),
        ("no/u.toml", "nnunet", "cannot be written"),
    ):
        assert draft(tmp_path / path, layout, folder) == 2
        assert words in capsys.readouterr().err
    assert (tmp_path / "t.toml").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "t.toml"]


def test_the_draft_names_its_data_set_also_in_the_present_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(write_folder(tmp_path / "renal_data"))
    assert draft(tmp_path / "task.toml", "folder", ".") == 0
    assert "Drafted from 'renal_data'" in (tmp_path / "task.toml").read_text()
