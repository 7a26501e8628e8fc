"""From prepared data to the tensors that reach the training step."""

import dataclasses
import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf

from mtseg.batches.balance import assign_classes
from mtseg.batches.patch_records import open_patches
from mtseg.batches.pipeline import make_dataset, open_balanced_samples, read_ahead
from mtseg.errors import InputError
from mtseg.records.reading import read_volumes
from mtseg.tasks.label_space import parse_tasks


def test_balanced_dataset_holds_the_classes_it_says(tiny_data):
    batches = tiny_data.batches(minibatches=range(4), size=27)
    expected = [
        tiny_data.label_space.to_combined(tiny_data.label_space.selections[task].task.name)[
            class_index
        ]
        for minibatch in range(4)
        for task, class_index, _ in zip(*assign_classes(minibatch, 27, (7, 2, 2)), strict=True)
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
        patches, combined = samples.read_minibatch(minibatch, 6)
        shown += [p.tobytes() for p, c in zip(patches, combined, strict=True) if c == 7]
    assert len(shown) == len(set(shown)) == size


@pytest.mark.parametrize("kind", ["patches", "volumes"])
@pytest.mark.parametrize("augmentations", [(), ("flip", "intensity")])
def test_a_share_of_a_minibatch_is_those_rows_of_it(tiny_data, kind, augmentations):
    samples = open_balanced_samples(
        str(tiny_data.data_dir), tiny_data.label_space, 0, kind=kind, augmentations=augmentations
    )
    patches, class_index = samples.read_minibatch(5, 12)
    some, some_class_index = samples.read_minibatch(5, 12, slice(3, 7))
    np.testing.assert_array_equal(some, patches[3:7])
    np.testing.assert_array_equal(some_class_index, class_index[3:7])


def test_volumes_give_the_patches_at_voxels_of_the_class(tiny_data):
    patches, combined = tiny_data.balanced(kind="volumes").read_minibatch(0, 90)
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


@pytest.mark.promise("defined numerics")
def test_a_class_without_a_patch_is_refused_by_name(tiny_data, monkeypatch):
    records = open_patches(tiny_data.data_dir, "breast", "phantom")
    only_background = dataclasses.replace(records, class_index=np.zeros_like(records.class_index))
    monkeypatch.setattr("mtseg.batches.patch_records.open_patches", lambda *_: only_background)
    with pytest.raises(InputError, match="pectoral_muscle"):
        open_balanced_samples(
            str(tiny_data.data_dir), parse_tasks("breast"), seed=0, kind="patches"
        )


def test_an_error_while_reading_is_kept_for_the_training_loop(tiny_data, monkeypatch):
    """TensorFlow hides its message."""
    samples = tiny_data.balanced()

    def refuse(*_):
        raise InputError("a shard was changed")

    monkeypatch.setattr(samples, "read_minibatch", refuse)
    assert samples.read_error is None
    with pytest.raises(tf.errors.OpError):
        next(iter(make_dataset(samples, 6, [(0, 1)])))
    assert str(samples.read_error) == "a shard was changed"


@pytest.mark.promise("bounded memory")
def test_the_volumes_of_a_run_go_with_it(tiny_data):
    """TensorFlow keeps the functions that it calls: the next run would find less memory."""
    samples = tiny_data.balanced(kind="volumes")
    elements = make_dataset(samples, 6, [(0, 1), (1, 2)]).as_numpy_iterator()
    assert len(next(elements)) == 2
    held = weakref.ref(samples)
    del samples
    gc.collect()
    assert len(next(elements)) == 2  # as long as somebody reads, they stay
    del elements
    gc.collect()
    assert held() is None


def test_read_ahead_gives_the_same_minibatches_without_tensorflow(tiny_data):
    samples = tiny_data.balanced(kind="volumes")
    calls = [(0, 2), (2, 4), (4, 5), (5, 7), (7, 8), (8, 10), (10, 11)]
    read = list(read_ahead(samples, 7, calls, lambda *batches: batches))
    expected = list(make_dataset(samples, 7, calls).as_numpy_iterator())
    for ours, theirs in zip(read, expected, strict=True):
        for array, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(array, other)


def test_an_error_of_read_ahead_is_raised_in_its_turn_and_ends_it(tiny_data, monkeypatch):
    samples = tiny_data.balanced(kind="volumes")
    read = samples.read_minibatch

    def refuse(n, *others):
        if n == 2:
            raise InputError("a shard was changed")
        return read(n, *others)

    monkeypatch.setattr(samples, "read_minibatch", refuse)
    calls = read_ahead(samples, 6, [(n, n + 1) for n in range(9)], lambda patches, _: len(patches))
    assert [next(calls), next(calls)] == [1, 1]
    with pytest.raises(InputError, match="a shard was changed"):
        next(calls)
    assert list(calls) == []


def test_a_call_gives_several_minibatches_to_each_replica_in_turn(tiny_data):
    samples = tiny_data.balanced()
    shares = [slice(0, 3), slice(3, 6)]
    elements = make_dataset(samples, 6, [(0, 2), (2, 3)], shares=shares).as_numpy_iterator()
    expected = [([0, 1], shares[0]), ([0, 1], shares[1]), ([2], shares[0]), ([2], shares[1])]
    for (patches, classes), (numbers, rows) in zip(elements, expected, strict=True):
        parts = [samples.read_minibatch(n, 6, rows) for n in numbers]
        np.testing.assert_array_equal(patches, np.stack([part[0] for part in parts]))
        np.testing.assert_array_equal(classes, np.stack([part[1] for part in parts]))
