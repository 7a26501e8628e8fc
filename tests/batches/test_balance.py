"""Balance over tasks, classes and sources, counted by hand on small mini-batches."""

import numpy as np
import pytest

from mtseg.batches.balance import BalancedSamples, assign_classes
from mtseg.tasks.label_space import parse_tasks


class NumberedStore:
    """A store whose patches say what they are: the source, the class and the turn."""

    def __init__(self, number, num_samples, num_scans=1):
        self.number, self.num_samples = number, np.array(num_samples)
        self.num_scans = np.minimum(self.num_samples, num_scans)

    def take(self, class_index, turn, draw, key, out, transforms=None):
        self.draw, self.key, self.transforms = draw, key, transforms
        for patches, c, t in zip(out, class_index, turn, strict=True):
            patches[...] = 0
            patches[0, 0, :3] = self.number, c, t


def read(samples, n, size, rows=slice(None)):
    """Source, class and turn of each sample of a mini-batch, and the network outputs."""
    patches, score_index = samples.read_minibatch(n, size, rows)
    return patches[:, 0, 0, :3].astype(int).tolist(), score_index.tolist()


def two_tasks(**settings):
    stores = [[NumberedStore(0, [9, 9])], [NumberedStore(1, [9, 9])]]
    return BalancedSamples(parse_tasks("breast,cta"), stores, 0, **settings)


def test_seven_samples_of_two_tasks_by_hand():
    """Breast and CTA take turns, then background and tissue; the next mini-batch continues."""
    first, second = (read(two_tasks(), n, 7) for n in (0, 1))
    assert first == (
        [[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1], [1, 0, 1], [0, 1, 1]],
        [0, 0, 1, 2, 0, 0, 1],  # background, muscle, arteries
    )
    assert second == (
        [[1, 1, 1], [0, 0, 2], [1, 0, 2], [0, 1, 2], [1, 1, 2], [0, 0, 3], [1, 0, 3]],
        [2, 0, 0, 1, 2, 0, 0],
    )


@pytest.mark.parametrize(
    ("size", "num_classes"),
    [(210, (7, 2, 2)), (36, (7, 2, 2)), (35, (7,)), (10, (3, 4)), (1, (2,))],
)
def test_counts_of_a_minibatch_differ_by_at_most_one(size, num_classes):
    for minibatch in range(60):
        task, class_index, _ = assign_classes(minibatch, size, num_classes)
        assert np.ptp(np.bincount(task, minlength=len(num_classes))) <= 1
        for t, count in enumerate(num_classes):
            assert np.ptp(np.bincount(class_index[task == t], minlength=count)) <= 1


def test_a_task_is_drawn_as_often_as_its_weight_says():
    parts = [assign_classes(n, 6, (2, 2), (1, 3)) for n in range(4)]
    task, class_index, ordinal = (np.concatenate(part) for part in zip(*parts, strict=True))
    assert task[:8].tolist() == [1, 0, 1, 1, 1, 0, 1, 1]
    assert np.bincount(task).tolist() == [6, 18]
    for t, count in enumerate((6, 18)):
        mine = task == t
        assert np.bincount(class_index[mine]).tolist() == [count / 2, count / 2]
        assert ordinal[mine].tolist() == [n // 2 for n in range(count)]


def test_the_remainder_rotates_so_that_the_run_is_balanced_too():
    """10 samples of 3 tasks: 4, 3 and 3, and each task is the one with 4 in turn."""
    counts = [np.bincount(assign_classes(n, 10, (2, 2, 2))[0], minlength=3) for n in range(3)]
    assert np.sum(counts, axis=0).tolist() == [10, 10, 10]
    assert [int(np.argmax(of_minibatch)) for of_minibatch in counts] == [0, 1, 2]


def test_samples_of_a_class_are_counted_without_a_gap():
    seen = {}
    for minibatch in range(20):
        for key in zip(*assign_classes(minibatch, 11, (3, 2)), strict=True):
            seen.setdefault(key[:2], []).append(key[2])
    for ordinals in seen.values():
        assert ordinals == list(range(len(ordinals)))


def test_sources_that_show_a_class_take_turns():
    """Both sources have background; only the second has muscle."""
    stores = [NumberedStore(0, [5]), NumberedStore(1, [5, 5])]
    samples = BalancedSamples(parse_tasks("breast:phantom+folder"), [stores], 0)
    assert samples.num_samples == [[10, 5]]
    taken, _ = read(samples, 0, 8)
    background, muscle = taken[0::2], taken[1::2]
    assert background == [[0, 0, 0], [1, 0, 0], [0, 0, 1], [1, 0, 1]]
    assert muscle == [[1, 1, 0], [1, 1, 1], [1, 1, 2], [1, 1, 3]]


def test_sources_are_drawn_in_proportion_to_their_scans():
    """Three scans of background against one, and one of muscle against one."""
    stores = [NumberedStore(0, [9, 9], [3, 1]), NumberedStore(1, [9, 9], [1, 1])]
    samples = BalancedSamples(parse_tasks("breast:phantom+folder"), [stores], 0)
    taken, _ = read(samples, 0, 16)
    background, muscle = taken[0::2], taken[1::2]
    assert [source for source, _, _ in background] == [0, 0, 1, 0, 0, 0, 1, 0]
    assert [source for source, _, _ in muscle] == [0, 1, 0, 1, 0, 1, 0, 1]
    for source in (0, 1):  # The turns of a source have no gap.
        turns = [turn for s, _, turn in background if s == source]
        assert turns == list(range(len(turns)))


def test_sources_are_drawn_by_their_weights():
    stores = [NumberedStore(0, [9, 9], [3, 1]), NumberedStore(1, [9, 9], [1, 1])]
    weights = {("breast", "phantom"): 1, ("breast", "folder"): 2}
    samples = BalancedSamples(parse_tasks("breast:phantom+folder"), [stores], 0, weights=weights)
    taken, _ = read(samples, 0, 12)
    assert [source for source, _, _ in taken[0::2]] == [1, 0, 1, 1, 0, 1]
    assert [source for source, _, _ in taken[1::2]] == [1, 0, 1, 1, 0, 1]


def test_a_run_says_how_often_it_draws_a_sample():
    """480 samples of two classes from 3 of 4 scans: the 5 muscle voxels of one scan come most."""
    stores = [NumberedStore(0, [60, 5], [3, 1]), NumberedStore(1, [20, 15], [1, 3])]
    samples = BalancedSamples(parse_tasks("breast:phantom+folder"), [stores], 0)
    assert samples.describe_draws(40, 12, "patches") == [
        "breast: each of 100 stored patches is drawn 4.8 times on average, of pectoral_muscle 12 "
        "times."
    ]


def test_each_tasks_background_may_have_an_output_of_its_own():
    taken, outputs = read(two_tasks(backgrounds="by-task"), 0, 7)
    assert taken == read(two_tasks(), 0, 7)[0]
    assert outputs == [0, 1, 2, 3, 0, 1, 2]  # backgrounds of breast and CTA, muscle, arteries


def test_rows_are_those_of_the_whole_minibatch():
    whole, part = two_tasks(), two_tasks()
    taken, outputs = read(whole, 5, 12)
    assert read(part, 5, 12, slice(3, 7)) == (taken[3:7], outputs[3:7])
    draws = np.empty(12)
    for store in (of_task[0] for of_task in whole.stores):
        draws[store.number :: 2] = store.draw  # Tasks take turns.
    for store in (of_task[0] for of_task in part.stores):
        np.testing.assert_array_equal(store.draw, draws[3:7][(store.number + 1) % 2 :: 2])


def test_a_minibatch_does_not_depend_on_those_before_it():
    run, resumed = two_tasks(), two_tasks()
    for n in range(5):
        last = read(run, n, 6)
    assert read(resumed, 4, 6) == last
    for before, after in zip(run.stores, resumed.stores, strict=True):
        np.testing.assert_array_equal(before[0].draw, after[0].draw)
        assert before[0].key == after[0].key
