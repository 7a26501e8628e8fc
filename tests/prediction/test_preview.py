"""The preview: three planes the right way round, in true proportions, with outlines and volumes."""

import importlib.util
import os

import numpy as np
import pytest
from matplotlib.image import imread

from mtseg.errors import InputError
from mtseg.prediction import preview
from mtseg.prediction.preview import centre_index, draw_preview, make_picture
from mtseg.scans.volume import Volume, from_ras
from mtseg.tasks.label_table import make_label_table
from mtseg.tasks.task import TissueClass

TABLE = make_label_table(
    [
        ("t", TissueClass("right", "On the right", label=2, color="#FF0000")),
        ("t", TissueClass("left", "On the left", label=7, color="#00FF00")),
        ("t", TissueClass("absent", "Absent", label=9, color="#0000FF")),
    ]
)


def make_scan():
    """20 × 30 × 10 voxels of 1 × 1 × 3 mm; a label at the right front top, one at the left back.

    The right half is brighter.
    """
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    image = np.full((20, 30, 10), 50, np.float32)
    image[10:] = 100
    labels = np.zeros(image.shape, np.uint8)
    labels[12:18, 18:28, 4:9] = 2
    labels[2:8, 8:22, 1:6] = 7
    return Volume(image, affine), Volume(labels, affine)


def panels(image, labels):
    figure = draw_preview(image, labels, TABLE, "scan")
    return {axes.get_title(): axes.images[0].get_array() for axes in figure.axes}, figure


def is_color(rgb, color):
    return (np.asarray(rgb) == color).all(axis=-1)


RED, GREEN = (255, 0, 0), (0, 255, 0)


def test_right_is_left_front_and_head_are_up_and_front_is_left_in_the_sagittal_plane():
    shown, _ = panels(*make_scan())
    for plane in ("Axial", "Coronal"):
        red = np.argwhere(is_color(shown[plane], RED)).mean(axis=0)
        green = np.argwhere(is_color(shown[plane], GREEN)).mean(axis=0)
        assert (red < green).all(), plane  # red is further up, and further to the left
    grey = shown["Axial"][:, :, 0].astype(int)
    row = grey[int(0.9 * len(grey))]  # behind the labels
    assert (
        row[len(row) // 4] > row[-len(row) // 4] > 0
    )  # the right half is brighter, and on the left
    image, labels = make_scan()
    labels.array[:10] = 0  # only the right front
    shown, _ = panels(image, labels)
    rows, columns = np.argwhere(is_color(shown["Sagittal"], RED)).mean(axis=0)
    height, width = shown["Sagittal"].shape[:2]
    assert columns < width / 2
    assert rows < height / 2


def test_proportions_are_those_of_the_world():
    shown, figure = panels(*make_scan())
    for plane, ratio in (("Axial", 30 / 20), ("Coronal", 30 / 20), ("Sagittal", 30 / 30)):
        height, width = shown[plane].shape[:2]
        assert height / width == pytest.approx(ratio, rel=0.02), plane
    for axes in figure.axes:  # and a pixel of the array is a pixel of the picture
        box = axes.get_window_extent()
        height, width = axes.images[0].get_array().shape[:2]
        assert (box.width, box.height) == pytest.approx((width, height), abs=0.01)


def test_the_axes_of_the_file_do_not_matter():
    image, labels = make_scan()
    expected, _ = panels(image, labels)
    # Stored as P, S, R with its own origin.
    affine = np.array([[0, 0, 1.0, 0], [-1.0, 0, 0, 29], [0, 3.0, 0, 0], [0, 0, 0, 1]])
    turned = Volume(from_ras(labels.array, affine), affine)
    shown, _ = panels(image, turned)
    for plane, rgb in expected.items():
        np.testing.assert_array_equal(shown[plane], rgb)


def test_only_the_rim_of_a_label_is_coloured_and_neighbours_keep_theirs():
    image, labels = make_scan()
    labels.array[:] = 0
    labels.array[5:10, 5:25, :] = 2
    labels.array[10:15, 5:25, :] = 7
    shown, _ = panels(image, labels)
    axial = shown["Axial"]
    row = axial[axial.shape[0] // 2]
    red, green = np.flatnonzero(is_color(row, RED)), np.flatnonzero(is_color(row, GREEN))
    # Left and right rim of each; the two that touch are side by side.
    assert len(red) == len(green) == 4
    assert red.min() == green.max() + 1
    assert not is_color(axial[axial.shape[0] // 2, red.min() + 3], RED)


def test_the_legend_has_found_classes_with_their_volumes():
    _, figure = panels(*make_scan())
    texts = [text.get_text() for text in figure.texts]
    voxels = (6 * 10 * 5, 6 * 14 * 5)
    assert texts == [
        "scan",
        *("■", "On the right", f"{voxels[0] * 3 / 1000:.2g} ml"),
        *("■", "On the left", f"{voxels[1] * 3 / 1000:.1f} ml"),
    ]


def test_a_scan_without_labels_and_a_warning_are_shown_too(tmp_path):
    image, labels = make_scan()
    labels.array[:] = 0
    assert centre_index(labels.array) == (10, 15, 5)
    warning = "do not trust this " * 20
    make_picture(image, labels, TABLE, "scan", warning).save(tmp_path / "a.png")
    picture = imread(tmp_path / "a.png")
    assert picture.shape[0] > 500
    assert list(tmp_path.iterdir()) == [tmp_path / "a.png"]
    figure = draw_preview(image, labels, TABLE, "scan", "look at it")
    assert [text.get_text() for text in figure.texts][1:] == [
        "background only",
        "",
        "Warning: look at it",
    ]


def test_the_centre_is_the_middle_labelled_voxel_along_each_axis():
    labels = np.zeros((9, 5, 3), np.uint8)
    labels[0, 0, 0] = labels[6, 1, 2] = labels[7, 4, 2] = 1
    assert centre_index(labels) == (6, 1, 2)


def test_the_same_labels_give_the_same_bytes_which_a_notebook_shows():
    image, labels = make_scan()
    one, other = (make_picture(image, labels, TABLE, "scan") for _ in range(2))
    assert one.png == other.png == one._repr_png_()


def test_without_matplotlib_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs Matplotlib.*pip install 'mtseg\[report\]'"):
        preview.require_matplotlib()


def test_any_name_of_a_file_is_a_title(tmp_path):
    """Dollar signs are no formula, and a name need not be text."""
    for name in ("a$^$b.nii", os.fsdecode(b"scan\xff.nii")):
        warning = "50 $ or $_$ more"
        figure = draw_preview(*make_scan(), TABLE, name, warning)
        assert figure.texts[0].get_text() == name.replace("\udcff", "\ufffd")
        make_picture(*make_scan(), TABLE, name, warning).save(tmp_path / "picture.png")
