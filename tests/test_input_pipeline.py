"""Balance over tasks and classes, order from a seed, and the tensors that reach the step."""

import numpy as np
import pytest

from mtseg.input_pipeline import assign_slots


@pytest.mark.parametrize(
    ("size", "num_classes"),
    [(210, (7, 2, 2)), (36, (7, 2, 2)), (35, (7,)), (10, (3, 4)), (1, (2,))],
)
def test_every_minibatch_is_balanced_to_within_one(size, num_classes):
    for minibatch in range(60):
        task, class_index, _ = assign_slots(minibatch, size, num_classes)
        per_task = np.bincount(task, minlength=len(num_classes))
        assert np.ptp(per_task) <= 1
        for t, count in enumerate(num_classes):
            assert np.ptp(np.bincount(class_index[task == t], minlength=count)) <= 1


def test_the_remainder_rotates_so_that_the_run_is_balanced_too():
    totals = np.zeros(3, int)
    for minibatch in range(100):
        totals += np.bincount(assign_slots(minibatch, 10, (2, 2, 2))[0], minlength=3)
    assert np.ptp(totals) <= 1


def test_ordinals_count_each_class_without_a_gap():
    seen = {}
    for minibatch in range(20):
        for key in zip(*assign_slots(minibatch, 11, (3, 2)), strict=True):
            seen.setdefault(key[:2], []).append(key[2])
    for ordinals in seen.values():
        assert ordinals == list(range(len(ordinals)))


def test_balanced_dataset_holds_the_classes_it_says(tiny_data):
    batches = tiny_data.batches(minibatches=range(4), size=27)
    expected = [
        tiny_data.label_space.to_combined(tiny_data.label_space.selections[task].task.name)[
            class_index
        ]
        for minibatch in range(4)
        for task, class_index, _ in zip(*assign_slots(minibatch, 27, (7, 2, 2)), strict=True)
    ]
    np.testing.assert_array_equal(np.concatenate([c for _, c in batches]), expected)
    planes, _ = batches[0]
    assert list(planes) == ["axial", "coronal", "sagittal"]
    assert all(p.shape == (27, 51, 51, 1) and p.dtype == np.float32 for p in planes.values())


def test_a_minibatch_depends_on_its_number_and_the_seed_alone(tiny_data):
    run = tiny_data.batches(minibatches=range(6), size=11)
    resumed = tiny_data.batches(minibatches=range(4, 6), size=11)
    for (planes, classes), (again, classes_again) in zip(run[4:], resumed, strict=True):
        np.testing.assert_array_equal(classes, classes_again)
        np.testing.assert_array_equal(planes["coronal"], again["coronal"])
    other = tiny_data.batches(minibatches=range(6), size=11, seed=1)
    assert any((a[0]["axial"] != b[0]["axial"]).any() for a, b in zip(run, other, strict=True))


def test_a_pass_shows_every_patch_of_a_class_once(tiny_data):
    patches = tiny_data.balanced()
    size = patches.rows[1][1].size  # breast, pectoral muscle
    # One of every 6 samples is of this class: 3 tasks, 2 classes.
    shown = []
    for minibatch in range(size):
        examples, combined = patches.minibatch(minibatch, 6)
        shown += [e for e, c in zip(examples, combined, strict=True) if c == 7]
    assert len(shown) == len(set(shown)) == size
