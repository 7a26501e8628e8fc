"""Label files scored against references, on arrays small enough to check by hand."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import mtseg
from mtseg.__main__ import main
from mtseg.errors import InputError
from mtseg.scans.label_files import write_label_map
from mtseg.scans.volume import Volume
from mtseg.tasks.label_space import parse_tasks
from mtseg.tasks.task_file import shipped_path


def save(path, labels, affine=None):
    labels = np.asarray(labels, np.int16).reshape(-1, 1, 1)
    nib.save(nib.Nifti1Image(labels, np.eye(4) if affine is None else affine), path)
    return path


def value(evaluation, class_name, metric, subject=None):
    (found,) = [
        row.value
        for row in evaluation.rows
        if (row.class_name, row.metric) == (class_name, metric) and subject in (None, row.subject)
    ]
    return found


def test_figures_of_two_labels_by_hand(tmp_path):
    reference = save(tmp_path / "r.nii", [0, 1, 1, 2, 2, 0])
    predicted = save(tmp_path / "p.nii", [1, 1, 1, 0, 2, 3], np.eye(4))
    evaluation = mtseg.evaluate_files(predicted, str(reference), names={1: "one", 2: "two"})
    assert evaluation.mean_dice() == {
        "labels/one": pytest.approx(4 / 5),
        "labels/two": pytest.approx(2 / 3),
        "labels/label 3": None,  # the reference has none: undefined, not 0
    }
    assert value(evaluation, "one", "precision") == pytest.approx(2 / 3)
    assert value(evaluation, "two", "recall") == 0.5
    assert value(evaluation, "one", "volume_reference_ml") == pytest.approx(0.002)
    assert value(evaluation, "label 3", "volume_predicted_ml") == pytest.approx(0.001)


def test_a_reference_with_flipped_axes_is_turned_and_another_grid_is_refused(tmp_path):
    predicted = save(tmp_path / "p.nii", [1, 1, 0, 2])
    flipped = np.diag([-1.0, 1, 1, 1])
    flipped[0, 3] = 3
    reference = save(tmp_path / "r.nii", [2, 0, 1, 1], flipped)
    assert mtseg.evaluate_files(predicted, reference).overall_dice() == 1
    other = save(tmp_path / "other.nii", [1, 1, 0, 2], np.diag([1.0, 1, 1.1, 1]))
    with pytest.raises(InputError, match=r"p\.nii: is on another grid than .*other\.nii"):
        mtseg.evaluate_files(predicted, other)


def test_names_are_those_in_the_header_of_the_prediction(tmp_path):
    labels = np.array([0, 5, 6]).reshape(-1, 1, 1)
    table = parse_tasks("brain").label_table
    path = tmp_path / "scan_labels.nii.gz"
    write_label_map(path, labels, Volume(labels, np.eye(4)), table)
    evaluation = mtseg.evaluate_files(path, path)
    assert evaluation.mean_dice() == {"labels/cerebellum": 1.0, "labels/brain_stem": 1.0}
    assert {row.subject for row in evaluation.rows} == {"scan"}


@pytest.fixture
def task_file(tmp_path):
    """Writes the file of a task whose class has no number of its own."""

    def write(name):
        path = tmp_path / f"{name}.toml"
        path.write_text(
            f'name = "{name}"\ntitle = "{name}"\nmodality = "CT"\ncitation = "none"\n'
            '[spacing]\nrule = "fixed"\nmm = 1.0\n[decision]\nrule = "argmax"\n'
            f'[[classes]]\nname = "{name}"\ntitle = "{name}"\n'
        )
        return str(path)

    return write


def test_a_class_without_a_number_of_its_own_is_found_by_its_name(task_file, tmp_path):
    """In a network of two tasks it is 2, on its own 1, as in its references."""
    liver, spleen = task_file("liver"), task_file("spleen")
    labels = np.array([0, 1, 2, 2]).reshape(-1, 1, 1)
    path, reference = tmp_path / "p_labels.nii.gz", save(tmp_path / "r.nii", [0, 0, 1, 1])
    grid = Volume(labels, np.eye(4))
    write_label_map(path, labels, grid, parse_tasks(f"{liver},{spleen}").label_table)
    assert mtseg.evaluate_files(path, reference, task=spleen).mean_dice() == {"spleen/spleen": 1.0}
    write_label_map(path, labels, grid, parse_tasks("brain").label_table)
    with pytest.raises(
        InputError, match=r"p_labels\.nii\.gz: has the classes .*none of the task s"
    ):
        mtseg.evaluate_files(path, reference, task=spleen)


def save_with_extension(path, code, content):
    image = nib.Nifti1Image(np.ones((2, 1, 1), np.int16), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension(code, content))
    nib.save(image, path)
    return path


def test_names_are_those_of_connectome_workbench_too(tmp_path):
    """Its extension has code 30; others, such as code 18, have nothing to do with labels."""
    table = b'<LabelTable><Label Key="1">liver</Label></LabelTable>'
    for code, content, name in ((30, table, "liver"), (18, b"text", "label 1")):
        path = save_with_extension(tmp_path / f"{code}.nii", code, content)
        assert mtseg.evaluate_files(path, path).mean_dice() == {f"labels/{name}": 1.0}


def test_a_label_table_that_is_not_sound_names_nothing(tmp_path):
    path = tmp_path / "p.nii"
    for table in (
        b'<?xml version="1.0" encoding="none"?><LabelTable></LabelTable>',
        b"<LabelTable><Label>x</LabelTable>",
        b'<LabelTable><Label Key="x">y</Label></LabelTable>',
    ):
        save_with_extension(path, 0, table)
        assert mtseg.evaluate_files(path, path).mean_dice() == {"labels/label 1": 1.0}


def test_a_source_of_a_task_says_what_the_labels_of_the_references_mean(tmp_path):
    predicted = save(tmp_path / "p.nii", [5, 5, 6, 0])
    reference = save(tmp_path / "r.nii", [38, 39, 35, 0])  # cerebellum and brain stem there
    evaluation = mtseg.evaluate_files(predicted, reference, task="brain:miccai2012")
    dice = evaluation.mean_dice()
    assert dice["brain/cerebellum"] == dice["brain/brain_stem"] == 1
    assert dice["brain/white_matter"] is None
    with pytest.raises(InputError, match="--task brain:bids"):
        mtseg.evaluate_files(predicted, reference, task="brain:bids")


def test_folders_are_paired_by_name_and_lists_by_order(tmp_path):
    for folder in ("predictions", "references"):
        (tmp_path / folder).mkdir()
    for number, name in enumerate(("1010", "1015")):
        save(tmp_path / "predictions" / f"{name}_SS_labels.nii.gz", [number, 1])
        (tmp_path / "predictions" / f"{name}_SS_verdict.json").touch()
        save(tmp_path / "references" / f"{name}_glm.nii.gz", [1, 1])
        save(tmp_path / "references" / f"{name}_SS.nii.gz", [70, 80])
    folders = tmp_path / "predictions", tmp_path / "references"
    endings = {"prediction_ending": "_SS_labels.nii.gz", "reference_ending": "_glm.nii.gz"}
    evaluation = mtseg.evaluate_files(*folders, **endings)
    assert value(evaluation, "label 1", "dice", "1010") == pytest.approx(2 / 3)
    assert value(evaluation, "label 1", "dice", "1015") == 1
    with pytest.raises(InputError, match="has no reference for 1010_SS_labels, 1015_SS_labels"):
        mtseg.evaluate_files(*folders, prediction_ending=".nii.gz", reference_ending="_glm.nii.gz")
    files = [sorted(folders[0].glob("*.nii.gz")), sorted(folders[1].glob("*_glm.nii.gz"))]
    assert mtseg.evaluate_files(*files).mean_dice() == evaluation.mean_dice()
    with pytest.raises(InputError, match="2 predictions and 1 references"):
        mtseg.evaluate_files(files[0], files[1][:1])


def test_files_of_one_name_in_several_folders_keep_their_own_figures(tmp_path):
    lists = [], []
    for subject, labels in (("s1", [0, 0, 0, 1]), ("s2", [1, 1, 0, 0])):
        (tmp_path / subject).mkdir()
        lists[0].append(save(tmp_path / subject / "labels.nii.gz", labels))
        lists[1].append(save(tmp_path / subject / "truth.nii.gz", [1, 1, 0, 0]))
    evaluation = mtseg.evaluate_files(*lists)
    assert value(evaluation, "label 1", "dice", str(lists[0][0])) == 0
    assert value(evaluation, "label 1", "dice", str(lists[0][1])) == 1
    # One prediction and the references of two readers.
    evaluation = mtseg.evaluate_files([lists[0][0]] * 2, [lists[1][0], lists[0][0]])
    assert [row.value for row in evaluation.rows if row.metric == "dice"] == [0, 1]


def test_a_damaged_prediction_is_named(tmp_path):
    """Its label table is in the header, which is as damaged."""
    reference = save(tmp_path / "r.nii", [0, 1, 1, 2])
    for ending, place, value in ((".nii", 70, 3), (".nii", 110, 0), (".nii.gz", 17, 255)):
        damaged = save(tmp_path / f"p{ending}", [0, 1, 1, 2])
        content = bytearray(damaged.read_bytes())
        content[place] = value
        damaged.write_bytes(content)
        with pytest.raises(InputError, match=rf"p{ending}: "):
            mtseg.evaluate_files(damaged, reference)


def test_labels_that_only_the_data_set_numbers_are_refused(tmp_path):
    path = save(tmp_path / "p.nii", [0, 1, 1])
    text = shipped_path("breast")
    text = Path(text).read_text().split("[sources")[0]
    for number, labels in enumerate(('background = [0, "Unknown"]', 'ignore = ["Void"]')):
        more = "" if "background" in labels else "background = [0]\n"
        task = tmp_path / f"own{number}.toml"
        task.write_text(f"{text}[sources.own.labels]\n{labels}\n{more}pectoral_muscle = [1]\n")
        with pytest.raises(InputError, match="does not list the numbers of this source's labels"):
            mtseg.evaluate_files(path, path, task=f"{task}:own")


def test_arguments_that_would_do_nothing_are_refused(tmp_path):
    path = save(tmp_path / "p.nii", [0, 1])
    with pytest.raises(InputError, match="are in place of a task"):
        mtseg.evaluate_files(path, path, task="breast", names={1: "muscle"})
    with pytest.raises(InputError, match=r"--prediction-ending _x\.nii: is for folders"):
        mtseg.evaluate_files(path, path, prediction_ending="_x.nii")
    with pytest.raises(InputError, match=r"--reference-ending _x\.nii: is for folders"):
        mtseg.evaluate_files([path], [path], reference_ending="_x.nii")
    with pytest.raises(InputError, match="are empty lists"):
        mtseg.evaluate_files([], [])


def test_a_name_that_is_no_text_is_written_as_it_is(tmp_path):
    path, figures = save(tmp_path / "caf\udce9.nii", [1]), tmp_path / "figures.csv"
    assert main(["evaluate", str(path), str(path), "--csv", str(figures)]) == 0
    assert b",caf\xe9,dice,1.0\n" in figures.read_bytes()


def test_the_command_prints_the_pairs_and_writes_all_figures(tmp_path, capsys):
    predicted = save(tmp_path / "scan_labels.nii", [0, 1, 1, 2])
    reference = save(tmp_path / "scan.nii", [0, 1, 1, 1])
    figures = tmp_path / "figures.json"
    assert main(["evaluate", str(predicted), str(reference), "--json", str(figures)]) == 0
    printed = capsys.readouterr().out
    assert f"scan: {predicted} with {reference}" in printed
    assert "0.800" in printed
    rows = json.loads(figures.read_text())["rows"]
    (dice,) = [r for r in rows if (r["class"], r["metric"]) == ("label 1", "dice")]
    assert dice["value"] == pytest.approx(0.8)
    assert dice["subject"] == "scan"
