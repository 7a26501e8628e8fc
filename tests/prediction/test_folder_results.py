"""The files of a folder of results: names of the labels, and the volumes of all scans."""

import csv
import json
import os
import shutil
from pathlib import Path

import pytest

from mtseg.errors import InputError
from mtseg.prediction.folder_results import (
    LABEL_TABLES,
    VOLUMES,
    refuse_other_labels,
    write_folder_results,
    write_label_tables,
)
from mtseg.prediction.pipeline import segment_files
from mtseg.prediction.results import label_path, verdict_path
from mtseg.scans.discovery import list_scans
from mtseg.tasks.label_space import parse_tasks
from tests.prediction.test_pipeline import model, save_scan, segment  # noqa: F401 - the fixture

CTA = parse_tasks("cta").label_table
BREAST = parse_tasks("breast").label_table


def write_verdict(stem, warning=None, **volumes_ml):
    stem.parent.mkdir(parents=True, exist_ok=True)
    label_path(stem).write_bytes(b"")
    classes = [
        {"class": name, "task": "cta", "label": 8, "num_voxels": 1, "volume_ml": ml}
        for name, ml in volumes_ml.items()
    ]
    status = "not assessed" if warning is None else "warning"
    content = {"scan": f"{stem.name}.nii", "status": status, "warning": warning}
    content["classes"] = classes
    verdict_path(stem).write_text(json.dumps(content))


def read_volumes(out):
    with (out / VOLUMES).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return [(row["scan"], row["class"], row["volume_ml"]) for row in csv.DictReader(file)]


@pytest.fixture
def stems(tmp_path):
    for name, ml in (("a", 1.5), ("sub/b", 0.0)):
        write_verdict(tmp_path / name, coronary_arteries=ml)
    return [Path(name) for name in ("a", "sub/b", "failed")]


def test_a_scan_whose_name_is_a_formula_stays_in_the_table_as_text(tmp_path):
    for name in ("=1+1", "-b"):
        write_verdict(tmp_path / name, coronary_arteries=1.5)
        write_folder_results(tmp_path, [Path(name)], CTA)
    ml = ("coronary_arteries", "1.5")
    assert read_volumes(tmp_path) == [("'-b.nii", *ml), ("'=1+1.nii", *ml)]


def test_every_scan_with_results_has_its_rows(stems, tmp_path):
    write_folder_results(tmp_path, stems, CTA)
    assert read_volumes(tmp_path) == [
        ("a.nii", "coronary_arteries", "1.5"),
        ("b.nii", "coronary_arteries", "0.0"),
    ]
    (_, second) = csv.DictReader((tmp_path / VOLUMES).read_text().splitlines())
    assert second == {
        "scan": "b.nii", "task": "cta", "class": "coronary_arteries", "label": "8",
        "num_voxels": "1", "volume_ml": "0.0", "label_file": "sub/b_labels.nii.gz",
        "status": "not assessed", "warning": "",
    }  # fmt: skip


def test_a_second_command_adds_its_scans_and_keeps_the_others(stems, tmp_path):
    """So do two jobs that share a folder, each with scans of its own."""
    write_folder_results(tmp_path, stems[:1], CTA)
    write_folder_results(tmp_path, stems[1:], CTA)
    assert [scan for scan, *_ in read_volumes(tmp_path)] == ["a.nii", "b.nii"]
    write_verdict(tmp_path / "a", warning="unlike the others", coronary_arteries=2.0)
    label_path(tmp_path / "sub/b").unlink()  # its results were removed
    write_folder_results(tmp_path, stems[:1], CTA)
    assert read_volumes(tmp_path) == [("a.nii", "coronary_arteries", "2.0")]
    assert "unlike the others" in (tmp_path / VOLUMES).read_text()


def test_results_of_an_earlier_version_have_their_volumes(tmp_path):
    label_path(tmp_path / "old").write_bytes(b"")
    content = {"scan": "old.nii", "volumes_ml": {"coronary_arteries": 1.23456}}
    verdict_path(tmp_path / "old").write_text(json.dumps(content))
    write_folder_results(tmp_path, [Path("old")], CTA)
    assert read_volumes(tmp_path) == [("old.nii", "coronary_arteries", "1.235")]


def test_a_name_that_is_no_text_is_kept(tmp_path):
    name = os.fsdecode(b"scan\xff")
    write_verdict(tmp_path / name, coronary_arteries=1.0)
    for _ in range(2):
        write_folder_results(tmp_path, [Path(name)], CTA)
    assert read_volumes(tmp_path) == [(f"{name}.nii", "coronary_arteries", "1.0")]


def test_without_results_nothing_is_written(tmp_path):
    write_folder_results(tmp_path / "none", [Path("a")], CTA)
    write_folder_results(tmp_path, [Path("a")], CTA)
    assert not list(tmp_path.iterdir())


def test_volumes_of_labels_that_are_gone_do_not_stay(tmp_path):
    """So are labels that --strict withholds, also if there are no others."""
    write_verdict(tmp_path / "a", coronary_arteries=1.5)
    write_folder_results(tmp_path, [Path("a")], CTA)
    label_path(tmp_path / "a").unlink()
    write_folder_results(tmp_path, [Path("a")], BREAST)
    assert read_volumes(tmp_path) == []
    refuse_other_labels(tmp_path, CTA)  # the names stay those of the labels that there were


def test_another_models_labels_are_refused(stems, tmp_path):
    refuse_other_labels(tmp_path / "new", CTA)
    write_folder_results(tmp_path, stems, CTA)
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} >= {*LABEL_TABLES, VOLUMES}
    refuse_other_labels(tmp_path, CTA)
    with pytest.raises(
        InputError, match=r"labels_dseg\.tsv: describes other labels than those of this"
    ):
        refuse_other_labels(tmp_path, BREAST)
    refuse_other_labels(tmp_path, BREAST, may_replace=True, stems=stems)


def test_labels_of_scans_that_stay_are_not_explained_anew(stems, tmp_path):
    write_folder_results(tmp_path, stems, CTA)
    with pytest.raises(InputError, match=r"sub/b_labels\.nii\.gz: has other labels than those of"):
        refuse_other_labels(tmp_path, BREAST, may_replace=True, stems=stems[:1])
    refuse_other_labels(tmp_path, BREAST, may_replace=True, stems=stems)
    both = parse_tasks("breast,cta").label_table  # they explain the labels of both
    refuse_other_labels(tmp_path, both, may_replace=True, stems=stems[:1])


@pytest.mark.promise("atomic outputs")
def test_labels_are_explained_before_a_command_can_be_killed(model, tmp_path):  # noqa: F811
    paths = [save_scan(tmp_path / f"{name}.nii", (12, 9, 10)) for name in ("a", "b")]
    outcomes = segment_files(model, paths, tmp_path / "out", is_explained=True)
    next(outcomes)
    with pytest.raises(InputError, match="describes other labels"):
        refuse_other_labels(tmp_path / "out", CTA)
    outcomes.close()


def test_labels_that_another_command_explains_meanwhile_stay(model, tmp_path):  # noqa: F811
    path = save_scan(tmp_path / "scan.nii", (12, 9, 10))

    def other_command(*_):
        write_label_tables(tmp_path / "out", CTA, may_replace=False)

    how = {"is_explained": True, "may_replace": False, "on_start": other_command}
    ((_, refusal),) = segment_files(model, [path], tmp_path / "out", **how)
    assert "describes other labels" in str(refusal)
    refuse_other_labels(tmp_path / "out", CTA)
    assert not label_path(tmp_path / "out" / "scan").exists()


def test_a_scan_of_the_same_name_that_another_command_segments_meanwhile_keeps_its_results(
    model,  # noqa: F811
    tmp_path,
):
    scans = []
    for number, folder in enumerate(("first", "second")):
        (tmp_path / folder).mkdir()
        scans.append(save_scan(tmp_path / folder / "scan.nii", (12, 9, 10), seed=number))

    def other_command(*_):
        segment(model, scans[1:], tmp_path / "out")

    how = {"may_replace": False, "on_start": other_command}
    ((_, refusal),) = segment_files(model, scans[:1], tmp_path / "out", **how)
    assert f"belongs to another scan, {scans[1]}" in str(refusal)
    verdict = json.loads(verdict_path(tmp_path / "out" / "scan").read_text())
    assert verdict["scan"] == str(scans[1])


def test_a_table_of_the_users_own_is_not_replaced(tmp_path):
    (tmp_path / VOLUMES).write_text("patient,volume\n1,2\n")
    with pytest.raises(InputError, match=r"not a table that mtseg-predict wrote\. Move it"):
        refuse_other_labels(tmp_path, CTA, may_replace=True)


def test_no_file_of_a_folder_of_results_is_a_scan(model, tmp_path):  # noqa: F811
    path = save_scan(tmp_path / "scan.nii", (12, 9, 10))
    segment(model, [path], tmp_path)
    write_folder_results(tmp_path, [Path("scan")], model.label_table)
    shutil.copy(tmp_path / "scan_labels.nii.gz", tmp_path / "scan_preview.png")
    assert len(list(tmp_path.iterdir())) == 2 + 1 + len(LABEL_TABLES) + 2
    assert [scan.path for scan in list_scans([tmp_path])] == [path]


def test_segment_files_leaves_the_folder_to_the_command(model, tmp_path):  # noqa: F811
    path = save_scan(tmp_path / "scan.nii", (12, 9, 10))
    list(segment_files(model, [path], tmp_path / "out"))
    assert len(list((tmp_path / "out").iterdir())) == 2
