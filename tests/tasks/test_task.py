"""A task: its voxel size, and labels to classes, on arrays small enough to check by eye."""

import dataclasses
import doctest

import numpy as np
import pytest

from mtseg.tasks import label_space, task, task_file
from mtseg.tasks.label_space import parse_tasks
from mtseg.tasks.task import IGNORED, did_you_mean, first_ten
from mtseg.tasks.task_file import read_task, shipped_path
from tests.tasks.kidney_task import refused


def test_fixed_spacing_is_the_tasks():
    task = parse_tasks("cta").selections[0].task
    assert task.target_spacing_mm((0.4, 0.4, 0.9)) == 0.45


@pytest.mark.parametrize(
    ("spacing_mm", "expected"),
    [
        ((1.33, 1.33, 3.99), 1.33),
        ((3.0, 0.9, 0.9), 0.9),
        ((1.0, 0.7, 1.0), 1.0),  # slices thinner than the plane
        ((1.0, 1.0, 1.0), 1.0),
        ((1.25, 1.75, 3.0), 1.5),
        ((3.0, 2.0, 1.0), 1.5),  # the finer pair of two that are equally alike
    ],
)
def test_in_plane_spacing_is_that_of_the_two_axes_most_alike(spacing_mm, expected):
    task = parse_tasks("breast").selections[0].task
    assert task.target_spacing_mm(spacing_mm) == pytest.approx(expected)


def test_labels_and_ranges_become_class_indices(write_task):
    task = read_task(write_task())
    label_map = np.array([[0, 1, 20], [22, 5, 9]], np.int16)
    mapped = task.map_labels(label_map, task.source("miccai2012"), "a_glm.nii.gz")
    assert mapped.tolist() == [[0, 1, 1], [1, 2, 0]]
    assert mapped.dtype == np.uint8


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64, np.uint64])
def test_any_integer_type_and_memory_order_gives_the_same(write_task, dtype):
    task = read_task(write_task())
    label_map = np.asfortranarray(np.array([0, 1, 5, 7, 21, 0] * 4, dtype).reshape(2, 3, 4))
    mapped = task.map_labels(label_map, task.source("miccai2012"), "a_glm.nii.gz")
    expected = np.array([0, 1, 2, 0, 1, 0] * 4).reshape(2, 3, 4)
    np.testing.assert_array_equal(mapped, expected)


def test_labels_that_are_not_listed_are_refused_by_value(write_task):
    path = write_task()
    task = read_task(path)
    source = task.source("miccai2012")
    for label_map in (np.array([1, -3, 23, 6]), np.array([1, -3, 70_000, 6])):
        message = refused(task.map_labels, label_map, source, "scans/a_glm.nii.gz")
        assert message.startswith("scans/a_glm.nii.gz: ")
        assert str(path) in message
        assert f"-3, 6, {label_map[2]} are not" in message


def test_at_most_ten_unlisted_labels_are_named(write_task):
    task = read_task(write_task())
    message = refused(task.map_labels, np.arange(30, 45), task.source("miccai2012"), "a")
    assert "30, 31, 32, 33, 34, 35, 36, 37, 38, 39 and 5 more are" in message


@pytest.mark.parametrize("label_map", [np.array([0, 7, 9]), np.zeros((2, 0, 3), int)])
def test_a_label_map_without_any_class_is_refused(write_task, label_map):
    task = read_task(write_task())
    source = task.source("miccai2012")
    message = refused(task.map_labels, label_map, source, "a_glm.nii.gz")
    assert message.startswith("a_glm.nii.gz: empty label map")


def test_labels_of_an_unknown_class_get_the_ignore_label(write_task):
    task = read_task(write_task("cyst = [5]", "cyst = [5]\nignore = [6]"))
    mapped = task.map_labels(np.array([0, 1, 5, 6]), task.source("miccai2012"), "a")
    assert mapped.tolist() == [0, 1, 2, IGNORED]


def test_background_may_hide_a_class_that_is_not_annotated(write_task):
    path = write_task("cyst = [5]\n", "")
    text = path.read_text().replace(
        "[sources.miccai2012.labels]",
        '[sources.miccai2012]\nnot_annotated = ["cyst"]\n\n[sources.miccai2012.labels]',
    )
    path.write_text(text)
    task = read_task(path)
    source = task.source("miccai2012")
    assert task.map_labels(np.array([0, 1, 7]), source, "a").tolist() == [IGNORED, 1, IGNORED]
    assert "empty label map" in refused(task.map_labels, np.array([0, 7]), source, "a")
    path.write_text(text.replace('["cyst"]', '["cist"]'))
    assert "did you mean cyst?" in refused(read_task, path)


def test_lists_in_messages_end_after_ten_items():
    assert first_ten([]) == ""
    assert first_ten("abc") == "a, b, c"
    assert first_ten(range(12)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"


def test_a_guess_is_made_only_at_a_similar_name():
    assert did_you_mean("brian", ["breast", "brain"]) == " (did you mean brain?)"
    assert did_you_mean("liver", ["breast", "brain"]) == ""


@pytest.mark.parametrize("module", [task, task_file, label_space])
def test_examples_in_docstrings_are_right(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize(
    ("modality", "expected"),
    [
        ("CT", True),
        ("CT angiography", True),
        ("Cardiac CTA", True),
        ("MR", False),
        ("T1-weighted MRI", False),
        ("ultrasound", None),
        ("PET/CT and MR", None),
        ("PET/CT", None),
        ("SPECT-CT", None),
    ],
)
def test_the_words_of_a_modality_say_whether_it_is_ct(modality, expected):
    task = read_task(shipped_path("brain"))
    assert dataclasses.replace(task, modality=modality).is_ct is expected
