"""What is missing, and whether memory and disk are enough for it."""

import shutil

import pytest

from mtseg.errors import InputError
from mtseg.records import planning
from mtseg.records.builder import RecordConfig
from mtseg.records.planning import Plan, choose_num_processes, find_missing
from mtseg.records.writing import prepare
from mtseg.sources.find import find_subjects
from mtseg.tasks.task_file import read_task


def configs(**settings):
    return [
        RecordConfig(name=f"folder_{kind}", source="folder", kind=kind, **settings)
        for kind in ("patches", "volumes")
    ]


def test_only_what_does_not_exist_is_missing(task, whole, tmp_path, capsys):
    wanted = configs(patches_per_class=20)
    assert find_missing(task, tmp_path, wanted, is_overwrite=False) == wanted
    assert capsys.readouterr().out == ""
    assert find_missing(task, whole, wanted, is_overwrite=False) == []
    assert "renal:folder: patches already exist in" in capsys.readouterr().out
    assert find_missing(task, whole, wanted, is_overwrite=True) == wanted


def test_records_with_other_settings_are_refused(task, whole):
    with pytest.raises(InputError, match=r"patches_per_class: 20 / 6\)\. Give another --data-dir"):
        find_missing(task, whole, configs(patches_per_class=6), is_overwrite=False)


def test_records_with_other_classes_are_refused(whole, tmp_path):
    """The task file was edited after its records were prepared."""
    text = (whole.parent / "renal.toml").read_text()
    (tmp_path / "renal.toml").write_text(text.replace('"cyst"', '"tumour"'))
    task = read_task(tmp_path / "renal.toml")
    with pytest.raises(InputError, match=r"background, kidney, cyst, .* kidney, tumour\. Prepare"):
        find_missing(task, whole, configs(patches_per_class=20), is_overwrite=False)
    assert len(find_missing(task, whole, configs(), is_overwrite=True)) == 2


@pytest.mark.parametrize(
    ("free_gb", "expected"),
    [(100, 8), (10, 3), (0.1, 1)],  # cores; 0.7 × 10 / 2; never none
)
def test_processes_fit_in_the_memory(task, scans, tmp_path, monkeypatch, free_gb, expected):
    monkeypatch.setattr(planning, "num_cores", lambda: 8)
    monkeypatch.setattr(planning, "free_bytes", lambda: free_gb * 1e9)
    monkeypatch.setattr(planning, "preparation_bytes", lambda path, spacing_mm: 2e9)
    plan = Plan(task, find_subjects(task, "folder", scans), tuple(configs()), tmp_path)
    assert choose_num_processes(plan) == expected


@pytest.mark.promise("scarcity is one line")
def test_a_disk_without_room_is_refused_before_anything_is_written(
    task, scans, tmp_path, monkeypatch
):
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match="Make room"):
        prepare(task, "folder", tmp_path / "data", manual_dir=scans, num_processes=1)
    assert not [p for p in (tmp_path / "data").rglob("*") if p.is_file()]


def test_the_estimate_is_near_what_is_written(task, scans, tmp_path, capsys):
    prepare(
        task, "folder", tmp_path / "data", manual_dir=scans, num_processes=1, patches_per_class=100
    )
    line = next(x for x in capsys.readouterr().out.splitlines() if "up to" in x)
    estimate = float(line.split("up to ")[1].split(" MB")[0])
    written = sum(p.stat().st_size for p in (tmp_path / "data").rglob("*record-*")) / 1e6
    assert written == pytest.approx(estimate, rel=0.1)
