"""Scans without labels are segmented once, by the network for all tasks."""

import dataclasses
import json
import os

import numpy as np
import pytest

from mtseg.errors import InputError
from mtseg.experiments import unlabelled
from mtseg.experiments.results import read_results
from mtseg.inference.verdict import ScanStatistics
from mtseg.runs.workdir import weights_path, write_config
from mtseg.tasks.label_space import parse_tasks


@pytest.fixture
def results(recorded, tmp_path):
    """Recorded results, the last weights of whose largest network exist."""
    results = read_results(recorded[0])
    weights_path(tmp_path, "last").write_bytes(b"weights")
    largest = dataclasses.replace(results[6], workdir=tmp_path)
    label_space = parse_tasks(largest.experiment.config.tasks)
    write_config(tmp_path, largest.experiment.config, label_space)
    return [*results[:6], largest, results[7]]


@pytest.fixture
def segmented(monkeypatch, results):
    """Names of the scans that were segmented; each gets 50 % breast, 0.1 % brain."""
    found = []
    statistics = ScanStatistics(results[6].label_space.num_classes)
    statistics.num_voxels[[0, 1, 7]] = 499, 1, 500
    statistics.confidence[:] = statistics.num_voxels * 0.75

    def segment_files(model, scans, out):
        found.extend(scan.name for scan in scans)
        outcome = type("Outcome", (), {"statistics": statistics})
        return [(scan, outcome) for scan in scans]

    monkeypatch.setattr(unlabelled, "segment_files", segment_files)
    monkeypatch.setattr(unlabelled, "export_weights", lambda workdir, out: out)
    monkeypatch.setattr(unlabelled, "load", lambda path: None)
    return found


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(b"scan")
    return path


def test_shares_are_of_the_own_task_and_of_others(results, segmented, scan, tmp_path):
    (found,) = unlabelled.segment_unlabelled(results, tmp_path, [("breast", scan)])
    assert found == unlabelled.UnlabelledScan(
        name="a.nii.gz", task="breast", recognised_as="breast", num_voxels=1000, own_share=0.5,
        cross_task_share=0.001, mean_confidence=0.75,
    )  # fmt: skip


def test_a_second_report_segments_only_what_has_changed(results, segmented, scan, tmp_path):
    first = unlabelled.segment_unlabelled(results, tmp_path, [("breast", scan)])
    assert unlabelled.segment_unlabelled(results, tmp_path, [("breast", scan)]) == first
    assert segmented == ["a.nii.gz"]
    os.utime(scan, ns=(1, 1))
    unlabelled.segment_unlabelled(results, tmp_path, [("breast", scan)])
    assert segmented == ["a.nii.gz"] * 2


def test_voxels_beside_their_header_are_part_of_a_scan(results, segmented, tmp_path):
    header, voxels = tmp_path / "a.mhd", tmp_path / "a.raw"
    header.write_text("NDims = 3\nElementDataFile = a.raw\n")
    voxels.write_bytes(b"voxels")
    unlabelled.segment_unlabelled(results, tmp_path, [("breast", header)])
    later_ns = header.stat().st_mtime_ns + 10**9
    os.utime(voxels, ns=(later_ns, later_ns))
    unlabelled.segment_unlabelled(results, tmp_path, [("breast", header)])
    assert segmented == ["a.mhd"] * 2


def test_an_unknown_task_is_refused_before_anything_is_segmented(
    results, segmented, scan, tmp_path
):
    with pytest.raises(InputError, match="task 'knee'"):
        unlabelled.segment_unlabelled(results, tmp_path, [("breast", scan), ("knee", scan)])
    assert segmented == []


def test_a_full_disk_is_one_line(results, segmented, scan, tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(unlabelled, "write_json", full)
    with pytest.raises(InputError, match=r"unlabelled\.json: cannot be written \(No space left"):
        unlabelled.segment_unlabelled(results, tmp_path, [("breast", scan)])


@pytest.mark.parametrize("text", ["{", "[]", '{"a": {"num_voxels": [1]}}'])
def test_a_damaged_file_says_that_it_may_be_removed(results, segmented, scan, tmp_path, text):
    (tmp_path / "unlabelled.json").write_text(text)
    with pytest.raises(InputError, match=r"unlabelled\.json: cannot be read\. Remove it"):
        unlabelled.segment_unlabelled(results, tmp_path, [("breast", scan)])


def test_the_stored_statistics_can_be_read_as_json(results, segmented, scan, tmp_path):
    unlabelled.segment_unlabelled(results, tmp_path, [("breast", scan)])
    (stored,) = json.loads((tmp_path / "unlabelled.json").read_text()).values()
    np.testing.assert_allclose(np.sum(stored["confidence"]), 750)
