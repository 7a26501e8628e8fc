"""Post-processing, on label maps that a person can check by eye."""

import tracemalloc

import numpy as np
import pytest

from mtseg.inference.postprocessing import (
    ClassRule,
    class_rules,
    postprocess,
    postprocessing_bytes,
)
from mtseg.tasks.label_space import parse_tasks
from tests.tasks.kidney_task import KIDNEY

LARGEST = ClassRule(1, "a", largest_component=True, fill_holes=False)
FILLED = ClassRule(1, "a", largest_component=False, fill_holes=True)
FULL = "11111 11111 11111 11111 11111"
HOLE = "11111 11111 11.11 11111 11111"


def slices(*texts):
    """A label map (I, J, K) from a text for each k; its words are the rows i, `.` is background."""
    parts = [[[int(c.replace(".", "0")) for c in row] for row in text.split()] for text in texts]
    return np.moveaxis(np.array(parts, np.uint8), 0, -1)


def assert_becomes(before, after, *rules):
    """Checks the labels, and that what is counted is the difference."""
    labels = before.copy()
    changes = postprocess(labels, rules)
    np.testing.assert_array_equal(labels, after)
    for rule, change in zip(rules, changes, strict=True):
        was, became = before == rule.class_index, after == rule.class_index
        assert change.num_filled - change.num_removed == became.sum() - was.sum()
    return changes


def test_only_the_largest_component_stays_and_other_classes_are_untouched():
    (change,) = assert_becomes(
        slices("11..1 11... ..2..", "11... ..... 2...1"),
        slices("11... 11... ..2..", "11... ..... 2...."),
        LARGEST,
    )
    assert (change.num_removed, change.num_filled) == (2, 0)
    assert change.to_json() == {
        "class": "a",
        "largest_component": True,
        "fill_holes": False,
        "removed_voxels": 2,
        "filled_voxels": 0,
    }


def test_voxels_that_share_a_corner_are_connected():
    labels = slices("1... .... ....", ".... .1.. ....", ".... .... ..1.")
    assert_becomes(labels, labels, LARGEST)


def test_of_equally_large_components_the_one_with_the_lowest_first_voxel_stays():
    before = slices("..11 .... 11.. ....", ".... .... .... ...1")
    after = slices("..11 .... .... ....", ".... .... .... ....")
    assert_becomes(before, after, LARGEST)


def test_what_is_enclosed_is_filled_and_what_is_open_is_not():
    (change,) = assert_becomes(slices(FULL, HOLE, FULL), slices(FULL, FULL, FULL), FILLED)
    assert (change.num_removed, change.num_filled) == (0, 1)
    # The same hole at the border of the volume is open there.
    assert_becomes(slices(HOLE, HOLE, FULL), slices(HOLE, HOLE, FULL), FILLED)
    # A gap that is open along an edge only is closed: paths go from face to face.
    gap = "11111 1.111 11.11 11111 11111"
    assert_becomes(slices(FULL, gap, FULL), slices(FULL, FULL, FULL), FILLED)


def test_a_hole_is_filled_around_another_class_that_is_in_it():
    before = "111111 1....1 1.22.1 1....1 111111"
    after = "111111 111111 112211 111111 111111"
    full = "111111 111111 111111 111111 111111"
    assert_becomes(slices(full, before, full), slices(full, after, full), FILLED)
    # A hole that is another class has no background to fill.
    labels = slices(FULL, HOLE.replace(".", "2"), FULL)
    assert_becomes(labels, labels, FILLED)


def test_a_stray_component_inside_a_structure_is_removed_and_then_filled():
    """Class 1 comes first, and yet fills where class 2 was removed."""
    stray = FULL[:12] + "11211 11111 11111"
    beside = slices(".2222 .2222 .2222 .2222 .2222").repeat(3, axis=2)
    before = np.concatenate([slices(FULL, stray, FULL), beside], axis=1)
    after = before.copy()
    after[2, 2, 1] = 1
    second = ClassRule(2, "b", largest_component=True, fill_holes=False)
    changes = assert_becomes(before, after, FILLED, second)
    assert [(change.num_removed, change.num_filled) for change in changes] == [(0, 1), (1, 0)]


def test_nested_holes_go_to_the_class_that_comes_first():
    rings = "1111111 1.....1 1.222.1 1.2.2.1 1.222.1 1.....1 1111111"
    lid1, lid2 = "1111111 " * 7, "1111111 1.....1 1.222.1 1.222.1 1.222.1 1.....1 1111111"
    before = slices(lid1, lid2, rings, lid2, lid1)
    after = np.where(before == 0, 1, before)
    second = ClassRule(2, "b", largest_component=False, fill_holes=True)
    assert_becomes(before, after, FILLED, second)
    only_second = before.copy()
    only_second[3, 3, 2] = 2
    assert_becomes(before, only_second, second)


@pytest.mark.parametrize("labels", [slices("..2 ...", "... .2."), np.zeros((3, 4, 2), np.uint8)])
def test_a_class_without_voxels_stays_so(labels):
    (change,) = assert_becomes(labels, labels, ClassRule(1, "a", True, True))
    assert (change.num_removed, change.num_filled) == (0, 0)


def test_without_rules_nothing_is_done():
    labels = slices("1.1", "...")
    assert postprocess(labels, ()) == ()
    assert postprocessing_bytes(labels.shape, ()) == 0


def test_a_random_volume_by_a_plain_flood_fill():
    """Components found voxel by voxel, and the tie rule spelled out."""
    rng = np.random.default_rng(3)
    labels = (rng.random((9, 8, 7)) < 0.08).astype(np.uint8)
    components = []
    left = {tuple(index) for index in np.argwhere(labels)}
    while left:
        component, front = set(), [min(left)]
        while front:
            voxel = front.pop()
            if voxel in left:
                left.remove(voxel)
                component.add(voxel)
                i, j, k = voxel
                front += [(i + a - 1, j + b - 1, k + c - 1) for a, b, c in np.ndindex(3, 3, 3)]
        components.append(component)
    largest = max(components, key=lambda found: (len(found), [-n for n in min(found)]))
    expected = np.zeros_like(labels)
    expected[tuple(np.transpose(sorted(largest)))] = 1
    assert len(components) > 3
    assert_becomes(labels, expected, LARGEST)


def test_rules_are_those_of_the_task_files_in_the_order_of_the_network(tmp_path):
    text = KIDNEY.replace('title = "Cyst"', 'title = "Cyst"\nlargest_component = true')
    (tmp_path / "kidney.toml").write_text(text)
    space = parse_tasks(f"brain,{tmp_path / 'kidney.toml'},breast")
    rules = class_rules([selection.task for selection in space.selections])
    assert rules == (ClassRule(8, "cyst", True, False),)
    assert space.class_names[8] == "cyst"


def test_memory_is_bounded_by_the_estimate():
    labels = np.ones((90, 80, 70), np.uint8)
    labels[::2, ::2, ::2] = 0
    labels[0, 0, 0] = 1
    rules = (ClassRule(1, "a", True, True),)
    postprocess(labels[:3].copy(), rules)  # what is imported at the first call
    tracemalloc.start()
    postprocess(labels, rules)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < postprocessing_bytes(labels.shape, rules)
