"""Balance over tasks and classes, order from a seed, and the tensors that reach the step."""

import os
import shutil

import numpy as np
import pytest

from mtseg.batches.balance import assign_slots
from mtseg.batches.pipeline import open_balanced_samples
from mtseg.errors import InputError
from mtseg.records.reading import read_volumes
from mtseg.tasks.label_space import parse_tasks


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
    patches, _ = batches[0]
    assert patches.shape == (27, 3, 51, 51)
    assert patches.dtype == np.float16


def test_a_minibatch_depends_on_its_number_and_the_seed_alone(tiny_data):
    run = tiny_data.batches(minibatches=range(6), size=11)
    resumed = tiny_data.batches(minibatches=range(4, 6), size=11)
    for (patches, classes), (again, classes_again) in zip(run[4:], resumed, strict=True):
        np.testing.assert_array_equal(classes, classes_again)
        np.testing.assert_array_equal(patches, again)
    other = tiny_data.batches(minibatches=range(6), size=11, seed=1)
    assert any((a[0] != b[0]).any() for a, b in zip(run, other, strict=True))


def test_a_pass_shows_every_patch_of_a_class_once(tiny_data):
    samples = tiny_data.balanced()
    size = samples.num_samples[1][1]  # breast, pectoral muscle
    # One of every 6 samples is of this class: 3 tasks, 2 classes.
    shown = []
    for minibatch in range(size):
        patches, combined = samples.minibatch(minibatch, 6)
        shown += [p.tobytes() for p, c in zip(patches, combined, strict=True) if c == 7]
    assert len(shown) == len(set(shown)) == size


def test_each_tasks_background_may_have_a_score_of_its_own(tiny_data):
    data_dir, space = str(tiny_data.data_dir), tiny_data.label_space
    shared = open_balanced_samples(data_dir, space, 0)
    by_task = open_balanced_samples(data_dir, space, 0, backgrounds="by-task")
    (patches, combined), (same, scores) = shared.minibatch(2, 27), by_task.minibatch(2, 27)
    np.testing.assert_array_equal(patches, same)
    of_task = 27 * 2 + np.arange(27)  # Samples go through the tasks in turn.
    np.testing.assert_array_equal(scores, np.where(combined == 0, of_task % 3, combined + 2))


@pytest.mark.parametrize("kind", ["patches", "volumes"])
@pytest.mark.parametrize("augmentations", [(), ("flip", "intensity")])
def test_a_share_of_a_minibatch_is_those_rows_of_it(tiny_data, kind, augmentations):
    samples = open_balanced_samples(
        str(tiny_data.data_dir), tiny_data.label_space, 0, kind=kind, augmentations=augmentations
    )
    patches, class_index = samples.minibatch(5, 12)
    some, some_class_index = samples.minibatch(5, 12, slice(3, 7))
    np.testing.assert_array_equal(some, patches[3:7])
    np.testing.assert_array_equal(some_class_index, class_index[3:7])


def test_volumes_give_the_patches_at_voxels_of_the_class(tiny_data):
    patches, combined = tiny_data.balanced(kind="volumes").minibatch(0, 90)
    centres = patches[:, :, 25, 25]
    assert (centres == centres[:, :1]).all()  # The three planes meet in the voxel.
    assert (centres > 0).all()
    values = {c: [] for c in range(9)}
    for selection in tiny_data.label_space.selections:
        name = selection.task.name
        to_combined = tiny_data.label_space.to_combined(name)
        for subject in read_volumes(tiny_data.data_dir, name, "phantom", "train"):
            of_voxels = to_combined[subject.class_index_map[subject.image > 0]]
            inside = subject.image[subject.image > 0].astype(np.float16)
            for c in np.unique(of_voxels):
                values[c] += inside[of_voxels == c].tolist()
    for centre, c in zip(centres[:, 0], combined, strict=True):
        assert centre in values[c]


def test_volumes_are_balanced_like_patches_and_depend_on_number_and_seed_alone(tiny_data):
    run = tiny_data.batches(minibatches=range(4), size=27, kind="volumes")
    resumed = tiny_data.batches(minibatches=range(2, 4), size=27, kind="volumes")
    of_patches = tiny_data.batches(minibatches=range(4), size=27)
    for (_, classes), (_, classes_of_patches) in zip(run, of_patches, strict=True):
        np.testing.assert_array_equal(classes, classes_of_patches)
    for (patches, _), (again, _) in zip(run[2:], resumed, strict=True):
        np.testing.assert_array_equal(patches, again)
    other = tiny_data.batches(minibatches=range(1), size=27, kind="volumes", seed=1)
    assert (other[0][0] != run[0][0]).any()


def test_a_shard_that_shrinks_in_use_is_one_clear_line(tiny_data, tmp_path):
    data_dir = tmp_path / "data"
    shutil.copytree(tiny_data.data_dir, data_dir)
    samples = open_balanced_samples(str(data_dir), parse_tasks("breast"), 0)
    shard, *_ = data_dir.glob("mtseg_breast/phantom_patches/*/*.tfrecord-*")
    os.truncate(shard, 1000)
    with pytest.raises(InputError, match="was changed while it was in use"):
        samples.minibatch(0, 48)
