"""Checks: every issue that a test puts into a data set is reported, and no other."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from mtseg.cli import check
from mtseg.sources.checks import check_subject
from mtseg.sources.subject import IssueKind, Subject
from mtseg.tasks.task_file import read_task
from tests.dicom_files import write_series
from tests.layout_files import AFFINE, SHAPE, subject, write, write_folder, write_nnunet, write_task

NAMES = [f"s{n:02d}" for n in range(30)]
TRAIN, TEST = NAMES[:24], NAMES[24:]

REMEDIES = "Add|Convert|Copy|Correct|Export|Give|Keep|List|prefer|Resample|Take"
"""How the part of a message begins that says what to do."""


@pytest.fixture
def task(tmp_path):
    write_task(tmp_path / "renal.toml")
    return tmp_path / "renal.toml"


@pytest.fixture
def data(tmp_path):
    """A sound data set of thirty subjects."""
    folder = write_folder(tmp_path / "data", NAMES)
    write_split(folder, TRAIN, TEST)
    return folder


def write_split(folder, train, test):
    lines = [f"{n},train" for n in train] + [f"{n},test" for n in test]
    (folder / "split.csv").write_text("\n".join(["subject,split", *lines]) + "\n")


def run(capsys, *arguments):
    code = check.main([str(a) for a in arguments])
    return code, capsys.readouterr()


def issues_of(capsys, task, folder):
    code, output = run(capsys, f"{task}:folder", folder, "--json", "--num-processes", 1)
    result = json.loads(output.out)
    return code, {(f["kind"], f["subject"], f["is_error"]) for f in result["flaws"]}, result


def test_a_sound_data_set_has_no_issue(task, data, capsys):
    code, issues, result = issues_of(capsys, task, data)
    assert (code, issues, result["subjects"]) == (0, set(), 30)


def test_planted_issues_are_all_reported(task, data, capsys):
    """One issue of every kind, each in another subject."""

    def image(n):
        return data / "images" / f"s{n:02d}.nii.gz"

    def labels(n):
        return data / "labels" / f"s{n:02d}.nii.gz"

    def set_image(n, change, affine=AFFINE):
        write(image(n), change(subject(n)[0].astype(np.float32)), affine)

    def set_labels(n, change, affine=AFFINE):
        write(labels(n), change(subject(n)[1].copy()), affine)

    def with_value(value):
        def change(array):
            array[1, 2, 3] = value
            return array

        return change

    def dark(array, label_map):
        """The scan with three labelled voxels set to 0: 0.5 % of those with a class."""
        places = np.argwhere(label_map > 0)[:3]
        array[tuple(places.T)] = 0
        return array

    moved = AFFINE.copy()
    moved[0, 3] = 2
    thick = np.diag([-1.0, -1.0, 9.0, 1.0])
    huge = np.diag([-30.0, -30.0, 30.0, 1.0])

    image(0).unlink()  # 1 a scan is missing
    labels(1).unlink()  # 2 a label map is missing
    shutil.copy(image(2), data / "images" / "s02.nii")  # 3 a second scan
    (data / "images" / "s02.nii").write_bytes(b"")
    shutil.copy(image(3), data / "images" / "other.nii.gz")  # 4 a scan of no subject
    image(4).write_bytes(image(4).read_bytes()[:-500])  # 5 a truncated scan
    labels(5).write_text("not a label map")  # 6 an unreadable label map
    set_labels(6, lambda a: a[:-1])  # 7 another shape
    set_labels(7, lambda a: a, moved)  # 8 another affine
    set_labels(8, lambda a: a, np.diag([-1.1, -1.0, 1.0, 1.0]))  # 9 another spacing
    set_image(9, with_value(np.nan))  # 10 a voxel that is NaN
    set_image(10, with_value(np.inf))  # 11 one that is infinite
    set_image(11, lambda a: a * 0)  # 12 every voxel is 0
    set_labels(12, with_value(77))  # 13 a label that is not listed
    set_labels(13, lambda a: a + np.float32(0.5))  # 14 labels that are not whole numbers
    set_labels(14, lambda a: a * 0)  # 15 an empty label map
    set_labels(15, lambda a: np.where(a == 2, 0, a))  # 16 a class that is absent
    set_image(16, lambda a: a, huge)  # 17 an implausible voxel size
    set_labels(16, lambda a: a, huge)
    set_image(17, lambda a: a, thick)  # 18 thick slices
    set_labels(17, lambda a: a, thick)
    shutil.copy(image(25), image(18))  # 19 the same scan on both sides of the split
    write_split(
        data, [*TRAIN, "s26", "ghost"], TEST
    )  # 20 a subject on both sides, 21 one without files
    set_image(19, lambda a: np.where(subject(19)[1] == 1, 0, a))  # 22 a class outside the scan
    set_image(20, lambda a: dark(a, subject(20)[1]))  # 23 a few voxels outside it

    code, issues, result = issues_of(capsys, task, data)
    assert code == 2
    assert issues == {
        ("missing", "s00", True),
        ("missing", "s01", True),
        ("extra", "s02", True),
        ("extra", "", False),
        ("unreadable", "s04", True),
        ("unreadable", "s05", True),
        ("grid", "s06", True),
        ("grid", "s07", True),
        ("grid", "s08", True),
        ("not_finite", "s09", True),
        ("not_finite", "s10", True),
        ("blank", "s11", True),
        ("labels", "s12", True),
        ("labels", "s13", True),
        ("empty", "s14", True),
        ("absent", "s15", False),
        ("spacing", "s16", True),
        ("anisotropy", "s17", False),
        ("duplicate", "s18", True),
        ("split", "", True),
        ("missing", "", True),
        ("outside", "s19", True),
        ("outside", "s20", False),
    }
    assert {kind for kind, _, _ in issues} == set(get_args(IssueKind))
    by_subject = {f["subject"]: f["message"] for f in result["flaws"]}
    assert "77" in by_subject["s12"]
    assert "s18, s25" in by_subject["s18"]
    assert "(8, 10, 11)" in by_subject["s06"]
    assert "(9, 10, 11)" in by_subject["s06"]
    for flaw in result["flaws"]:
        message = flaw["message"]
        assert "\n" not in message
        assert str(data) in message  # which file or folder
        assert re.search(rf"[.;] ({REMEDIES}) ", message), message  # what to do
        assert "--" not in message, message  # no option, because not every command has it


def test_all_issues_of_one_subject_are_reported(task, data, capsys):
    array = subject(3)[0].astype(np.float32)
    array[0, 0, 0] = np.nan
    write(data / "images" / "s03.nii.gz", array)
    write(data / "labels" / "s03.nii.gz", np.zeros((2, 2, 2), np.uint8))
    _, issues, _ = issues_of(capsys, task, data)
    assert {kind for kind, _, _ in issues} == {"not_finite", "empty", "grid"}


def test_a_class_that_no_training_subject_has_is_an_error(task, data, capsys):
    for n in range(24):
        labels = subject(n)[1]
        write(data / "labels" / f"s{n:02d}.nii.gz", np.where(labels == 2, 0, labels))
    code, issues, _ = issues_of(capsys, task, data)
    assert code == 2
    assert ("absent", "", True) in issues


def test_the_table_is_for_people(task, data, capsys):
    (data / "images" / "s00.nii.gz").unlink()
    code, output = run(capsys, f"{task}:folder", data, "--num-processes", 1)
    assert code == 2
    lines = output.out.splitlines()
    assert any(line.startswith("error") and "missing" in line and "s00" in line for line in lines)
    assert lines[-1] == "29 subjects read: 1 errors, 0 warnings."


def test_a_folder_of_another_layout_is_one_issue(task, data, capsys):
    code, output = run(capsys, f"{task}:msd", data)
    assert code == 2
    assert "dataset.json" in output.out
    code, output = run(capsys, f"{task}:folder", data / "nowhere")
    assert code == 2
    assert "nowhere" in output.out


def test_several_processes_report_the_same(task, data, capsys):
    (data / "labels" / "s05.nii.gz").write_text("not a label map")
    _, one = run(capsys, f"{task}:folder", data, "--json", "--num-processes", 1)
    _, two = run(capsys, f"{task}:folder", data, "--json", "--num-processes", 2)
    assert one.out == two.out


def test_preparing_checks_first_and_writes_nothing(task, data, tmp_path, capsys):
    from mtseg.cli import prepare

    (data / "labels" / "s05.nii.gz").write_text("not a label map")
    write(data / "images" / "s06.nii.gz", np.zeros(SHAPE, np.int16))
    flags = ["--manual-dir", data, "--data-dir", tmp_path / "out", "--num-processes", 1]
    code = prepare.main([str(a) for a in (f"{task}:folder", *flags)])
    output = capsys.readouterr()
    assert code == 2
    assert "s05" in output.out
    assert "s06" in output.out
    assert len(output.err.strip().splitlines()) == 1
    assert "2 errors" in output.err
    assert not [p for p in (tmp_path / "out").rglob("*") if p.is_file()]


def test_nnunet_data_are_checked_too(task, tmp_path, capsys):
    folder = write_nnunet(tmp_path / "nn")
    code, output = run(capsys, f"{task}:nnunet", folder, "--num-processes", 1)
    assert (code, output.out.splitlines()[-1]) == (0, "5 subjects read: 0 errors, 0 warnings.")


def test_phantoms_and_several_sources_are_refused(capsys):
    assert run(capsys, "brain:phantom", ".")[0] == 2
    assert run(capsys, "brain:miccai2012+freesurfer", ".")[0] == 2


def test_the_real_scans_pass(real_data, tmp_path, capsys):
    folder = tmp_path / "four"
    folder.mkdir()
    split = ["subject,split"]
    for n, label_map in enumerate(
        sorted((real_data / "brain_miccai2012").glob("*_glm.nii.gz"))[:4]
    ):
        for path in label_map.parent.glob(f"{label_map.name[:4]}*"):
            (folder / path.name).symlink_to(Path(path).resolve())
        split.append(f"{label_map.name[:4]},{'test' if n == 3 else 'train'}")
    (folder / "split.csv").write_text("\n".join(split))
    code, output = run(capsys, "brain:miccai2012", folder, "--num-processes", 1)
    assert code == 0, output.out
    assert output.out.splitlines()[-1] == "4 subjects read: 0 errors, 0 warnings."


def test_labels_outside_the_foreground_are_an_error_that_names_the_likely_cause(task, data, capsys):
    """The scan has an offset that is also its value in most of the label map."""
    array = np.full(SHAPE, 50, np.float32)
    array[3:6, 3:6, 3:6] = np.random.default_rng(0).integers(60, 900, (3, 3, 3))
    write(data / "images" / "s03.nii.gz", array)
    code, issues, result = issues_of(capsys, task, data)
    assert (code, issues) == (2, {("outside", "s03", True)})
    (flaw,) = result["flaws"]
    assert "its background is 50, not 0" in flaw["message"]


def test_the_modality_of_the_task_decides_what_is_outside(task, data, capsys):
    """Values of a CT in a task of MR: what the task says is used, and the cause is named."""
    image, labels = subject(3)
    array = np.where(labels > 0, -700, image).astype(np.float32)
    write(data / "images" / "s03.nii.gz", array)
    code, issues, result = issues_of(capsys, task, data)
    assert (code, issues) == (2, {("outside", "s03", True)})
    (flaw,) = result["flaws"]
    assert "look like CT in Hounsfield units, but its modality is given as MR" in flaw["message"]


@pytest.mark.parametrize("value", [0, 65535])
def test_a_scan_without_foreground_is_an_error_before_it_is_prepared(task, data, capsys, value):
    """65535 at an edge is padding, so beside it only background is left."""
    array = np.zeros(SHAPE, np.float32)
    array[0, 0, 0] = value
    write(data / "images" / "s03.nii.gz", array)
    code, issues, result = issues_of(capsys, task, data)
    assert (code, issues) == (2, {("blank", "s03", True)})
    assert str(data / "images" / "s03.nii.gz") in result["flaws"][0]["message"]


def test_a_constant_ct_is_an_error_before_it_is_prepared(task, data, capsys):
    task.write_text(task.read_text().replace('modality = "MR"', 'modality = "CT"'))
    write(data / "images" / "s03.nii.gz", np.full(SHAPE, 40, np.float32))
    code, issues, _ = issues_of(capsys, task, data)
    assert (code, issues) == (2, {("blank", "s03", True)})


def test_a_ct_whose_values_are_no_hounsfield_units_is_an_error(task, data, capsys):
    """Shifted by 1024, all of a scan that is scaled to 0 … 1 would have one intensity."""
    task.write_text(task.read_text().replace('modality = "MR"', 'modality = "CT"'))
    array = np.random.default_rng(0).random(SHAPE, np.float32)
    write(data / "images" / "s03.nii.gz", array)
    code, issues, result = issues_of(capsys, task, data)
    assert (code, issues) == (2, {("blank", "s03", True)})
    assert "too few for Hounsfield units" in result["flaws"][0]["message"]


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_without_a_modality_of_the_task_that_of_a_dicom_series_counts(tmp_path, modality):
    """As when the scan is prepared; the values alone look like MR."""
    path = tmp_path / "renal.toml"
    write_task(path)
    path.write_text(path.read_text().replace('modality = "MR"', 'modality = "CT and MR"'))
    task = read_task(path)
    image, labels = subject(0)
    folder = write_series(tmp_path / "series", image, AFFINE, modality=modality)
    write(tmp_path / "labels.nii.gz", labels)
    found = Subject("s0", "train", str(folder), str(tmp_path / "labels.nii.gz"), None)
    labels_of = replace(task.source("folder"), values=(("kidney", (1,)), ("cyst", (2,))))
    report = check_subject(task, replace(labels_of, background=(0,)), found)
    assert report.figures is not None
    assert report.figures.is_ct == (modality == "CT")
