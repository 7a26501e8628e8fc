"""Phantoms of many voxel sizes are written as a data set that preparation reads."""

import sys

import nibabel as nib
import numpy as np

from mtseg.phantoms.scanner import make_phantom
from mtseg.sources.find import find_subjects
from mtseg.tasks.task_file import read_task, shipped_path
from tests.benchmarks.test_benchmarks import load  # noqa: F401


def test_phantoms_of_many_voxel_sizes_are_a_data_set(load, tmp_path, monkeypatch, capsys):  # noqa: F811
    words = ["brain", "--out", str(tmp_path / "scans"), "--train", "3", "--test", "1"]
    words += ["--size", "32"]
    monkeypatch.setattr(sys, "argv", ["phantom_scans.py", *words])
    module = load("phantom_scans")
    module.main()
    task = read_task(shipped_path("brain"))
    found = find_subjects(task, "folder", tmp_path / "scans").require_sound()
    assert found.names_of_split("train") == ["phantom5000", "phantom5001", "phantom5002"]
    assert found.names_of_split("test") == ["phantom6000"]
    scans = [nib.load(subject.image_path) for subject in found.subjects]
    # A brain's voxels are 1 x 1 x 1.25 mm.
    expected = np.outer([0.5, 1, 2, 0.5], [1, 1, 1.25])
    np.testing.assert_allclose([scan.header.get_zooms() for scan in scans], expected)
    own = make_phantom("brain", 5001, 32)
    np.testing.assert_array_equal(scans[1].dataobj, own.image)
    labels = nib.load(found.subjects[1].label_path)
    np.testing.assert_array_equal(labels.dataobj, own.label_map)
    # The values of the label maps are the classes that the source takes them for.
    mapped = task.map_labels(np.asarray(labels.dataobj), found.labels, "labels")
    assert set(np.unique(mapped)) == set(np.unique(own.label_map))
    assert capsys.readouterr().out.count("voxels") == 4
    (tmp_path / "scans" / "images" / "phantom5001.nii.gz").unlink()
    module.main()
    assert "phantom5001: voxels 1.00 times" in (out := capsys.readouterr().out)
    assert out.count("voxels") == 1
