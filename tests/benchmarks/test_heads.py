"""Heads are painted around the brains of a data set, and compared with brains without a head."""

import sys
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from mtseg.errors import InputError
from mtseg.sources.find import find_subjects
from mtseg.tasks.task_file import read_task, shipped_path
from tests.benchmarks.test_benchmarks import load  # noqa: F401

GRID = np.diag([4.0, 4.0, 4.0, 1.0])


@pytest.fixture
def brains(tmp_path):
    """Two brains in the layout `folder`, one for training and one for testing."""
    x, y, z = np.indices((37, 45, 35))
    radius = np.hypot(np.hypot((x - 18) / 17, (y - 22) / 21), (z - 17) / 15)
    labels = (radius < 1).astype(np.uint8) + (radius < 0.7)
    image = np.array([0, 600, 900], np.float32)[labels]
    for folder, array in (("images", image), ("labels", labels)):
        (tmp_path / "brains" / folder).mkdir(parents=True)
        for name in ("a", "b"):
            path = tmp_path / "brains" / folder / f"{name}.nii.gz"
            nib.save(nib.Nifti1Image(array, GRID), path)
    (tmp_path / "brains" / "split.csv").write_text("subject,split\na,train\nb,test\n")
    return tmp_path / "brains"


@pytest.fixture
def paint(load, brains, monkeypatch):  # noqa: F811
    """A function that paints heads around the brains, and their folder."""
    module, out = load("paint_heads"), brains.parent / "heads"

    def run(*words):
        words = ["paint_heads.py", str(brains), "--out", str(out), *words]
        monkeypatch.setattr(sys, "argv", words)
        module.main()
        return out

    return run


def test_heads_are_a_data_set_with_the_split_of_the_brains(paint, capsys):
    out = paint("--task", "brain:folder")
    found = find_subjects(read_task(shipped_path("brain")), "folder", out).require_sound()
    assert found.names_of_split("train") == ["a_head0"]
    assert found.names_of_split("test") == ["b_head0"]
    first, second = (nib.load(subject.image_path).get_fdata() for subject in found.subjects)
    assert first.shape != second.shape or (first != second).any()  # each has a head of its own
    labels = nib.load(found.subjects[0].label_path).get_fdata()
    assert set(np.unique(labels)) == {0, 1, 2}
    assert np.count_nonzero(first) > 1.5 * np.count_nonzero(labels)
    assert "a_head0: " in capsys.readouterr().out
    paint("--task", "brain:folder")
    assert "a_head0: " not in capsys.readouterr().out  # it is there already


@pytest.mark.parametrize("task", ["brain", "brain:folder+bids", "brain:folder,breast"])
def test_one_source_is_named(paint, task):
    with pytest.raises(InputError, match="give one task with one source"):
        paint("--task", task)


def test_a_scan_on_another_grid_is_not_compared(load, brains, monkeypatch):  # noqa: F811
    module, moved = load("heads"), GRID.copy()
    moved[0, 3] = 40
    nib.save(nib.Nifti1Image(np.ones((37, 45, 35), np.float32), moved), brains / "moved.nii.gz")
    paths = [str(brains / "images" / "a.nii.gz"), str(brains / "moved.nii.gz")]
    monkeypatch.setattr(sys, "argv", ["heads.py", *paths])
    with pytest.raises(InputError, match=r"moved\.nii\.gz: is not on the grid of"):
        module.main()


def test_a_class_that_neither_scan_has_is_undefined(load, brains, monkeypatch, capsys):  # noqa: F811
    module = load("heads")
    entries = [SimpleNamespace(task="brain", label=n, name=f"class{n}") for n in (1, 2, 3)]
    model = SimpleNamespace(label_table=entries)
    monkeypatch.setattr(module.mtseg, "load", lambda path: model)
    volumes = {f"class{n}": 1.0 for n in (1, 2, 3)}

    def segment(model, paths, out):
        label_path = brains / "labels" / paths[0].name
        yield paths[0], SimpleNamespace(label_path=label_path, notes=["n"], volumes_ml=volumes)

    monkeypatch.setattr(module, "segment_files", segment)
    paths = [str(brains / "images" / f"{name}.nii.gz") for name in "ab"]
    monkeypatch.setattr(sys, "argv", ["heads.py", *paths])
    module.main()
    printed = capsys.readouterr().out
    assert "class3                  undefined" in printed
    assert "mean_overlap: 1\n" in printed
