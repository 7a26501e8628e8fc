"""Sheets of pictures: outlines that a person can check, and PNG files that show every subject."""

import dataclasses

import numpy as np
import pytest
from matplotlib import image as mpl_image

from mtseg.cli import check
from mtseg.sources.checks import check_subject
from mtseg.sources.find import find_subjects
from mtseg.sources.overlay_sheets import (
    SubjectPicture,
    class_colours,
    draw_subject,
    outline_labels,
    write_sheets,
)
from tests.layout_files import write, write_folder, write_task

COLOURS = [(230, 159, 0), (86, 180, 233)]
"""Of the first two classes of a task that gives none."""


@pytest.fixture
def task(tmp_path):
    return write_task(tmp_path / "renal.toml")


def test_outlines_have_the_full_colour_and_insides_a_tint():
    classes = np.zeros((5, 5), np.uint8)
    classes[1:4, 1:4] = 1
    colours = class_colours([(200, 100, 0)])
    rgb = outline_labels(np.zeros((5, 5)), classes, colours)
    assert rgb[..., 0].tolist() == [
        [0, 0, 0, 0, 0],
        [0, 200, 200, 200, 0],
        [0, 200, 50, 200, 0],
        [0, 200, 200, 200, 0],
        [0, 0, 0, 0, 0],
    ]
    background = outline_labels(np.full((2, 2), 0.5), np.zeros((2, 2), np.uint8), colours)
    assert background.tolist() == [[[127] * 3] * 2] * 2


def test_each_class_has_its_colour_and_ignored_voxels_are_white():
    colours = class_colours(COLOURS)
    assert colours[:4].tolist() == [[0, 0, 0], [230, 159, 0], [86, 180, 233], [0, 0, 0]]
    assert colours[255].tolist() == [255, 255, 255]


def test_the_planes_are_chosen_by_what_is_annotated(tmp_path):
    """Where a source has one class alone, all other voxels may be of another."""
    task = write_task(
        tmp_path / "renal.toml",
        '[sources.folder]\nlabels = { background = [0], kidney = [1] }\nnot_annotated = ["cyst"]\n',
    )
    image = np.arange(20 * 30 * 10, dtype=np.int16).reshape(20, 30, 10)
    labels = np.zeros(image.shape, np.uint8)
    labels[17, 4, 8] = 1
    for name in "ab":
        write(tmp_path / f"data/images/{name}.nii.gz", image + ord(name))
        write(tmp_path / f"data/labels/{name}.nii.gz", labels)
    found = find_subjects(task, "folder", tmp_path / "data")
    report = check_subject(task, found.labels, found.subjects[0])
    picture = draw_subject(task, found.labels, class_colours(COLOURS), report)
    for panel in np.split(picture.rgb, 3, axis=1):
        assert (panel == COLOURS[0]).all(-1).any()


def test_planes_are_upright_and_show_the_label_map_where_it_is(task, tmp_path):
    """One labelled voxel: left, front and top of a scan that is stored in another order."""
    image = np.ones((20, 30, 10), np.int16)
    image[0, 0, 0] = 2
    labels = np.zeros(image.shape, np.uint8)
    labels[17, 4, 8] = 1  # LPS: i grows to the left, j to the back
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    write(tmp_path / "data/images/a.nii.gz", image, affine)
    write(tmp_path / "data/labels/a.nii.gz", labels, affine)
    write(tmp_path / "data/images/b.nii.gz", image + 1, affine)
    write(tmp_path / "data/labels/b.nii.gz", labels, affine)
    found = find_subjects(task, "folder", tmp_path / "data")
    subject = next(s for s in found.subjects if s.name == "a")
    report = check_subject(task, found.labels, subject)
    colours = class_colours(COLOURS)
    picture = draw_subject(task, found.labels, colours, report)
    assert picture.title == f"a ({subject.split})"
    colour = COLOURS[0]
    centres = []
    for panel in np.split(picture.rgb, 3, axis=1):
        assert panel.shape[0] == panel.shape[1]
        rows, columns = np.nonzero((panel == colour).all(-1))
        half = panel.shape[0] / 2
        centres.append((rows.mean() < half, columns.mean() < half))
    axial, coronal, sagittal = centres
    assert axial == (True, True)  # front is up, left is left
    assert coronal == (True, True)  # top is up, left is left
    assert sagittal == (True, False)  # top is up, front is right
    assert (
        draw_subject(task, found.labels, colours, dataclasses.replace(report, figures=None)) is None
    )


def test_sheets_show_twenty_subjects_each(task, tmp_path):
    pictures = [
        SubjectPicture(f"s{n}", np.full((22, 66, 3), (n * 5, 200, 10), np.uint8)) for n in range(21)
    ]
    paths = list(write_sheets(tmp_path / "out", task, "folder", class_colours(COLOURS), pictures))
    assert [path.name for path in paths] == ["renal_folder_1.png", "renal_folder_2.png"]
    assert sorted(paths) == sorted((tmp_path / "out").iterdir())
    shown = [
        {tuple(c) for c in (255 * mpl_image.imread(path)[..., :3]).round().reshape(-1, 3)[::7]}
        for path in paths
    ]
    assert all((n * 5, 200, 10) in shown[0] for n in range(20))
    assert (100, 200, 10) in shown[1]


def test_a_name_with_dollar_signs_is_no_formula(task, tmp_path):
    pictures = [SubjectPicture(r"$\frac$", np.zeros((22, 66, 3), np.uint8))]
    (path,) = write_sheets(tmp_path / "out", task, "folder", class_colours(COLOURS), pictures)
    assert path.is_file()


def test_the_command_writes_sheets_and_says_who_is_missing(task, tmp_path, capsys):
    folder = write_folder(tmp_path / "data")
    (folder / "labels" / "a2.nii.gz").write_text("not a label map")
    command = [f"{task.path}:folder", str(folder), "--num-processes", "1"]
    assert check.main([*command, "--pictures", str(tmp_path / "sheets")]) == 2
    output = capsys.readouterr().out
    assert f"Pictures: {tmp_path}/sheets/renal_folder_1.png. 1 subjects cannot be drawn" in output
    picture = mpl_image.imread(tmp_path / "sheets" / "renal_folder_1.png")[..., :3]
    colours = {tuple(c) for c in (255 * picture).round().astype(int).reshape(-1, 3)}
    assert set(COLOURS) <= colours


@pytest.mark.promise("refused input")
def test_a_folder_that_cannot_be_made_is_one_line(task, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    command = [f"{task.path}:folder", str(write_folder(tmp_path / "data")), "--num-processes", "1"]
    assert check.main([*command, "--pictures", str(tmp_path / "file" / "sheets")]) == 2
    assert "give mtseg-check --pictures another folder" in capsys.readouterr().err
