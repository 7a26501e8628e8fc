"""Drawing as the paper does: from all voxels above 0 of all training images (section 3.2)."""

import collections

import numpy as np
import pytest
from scipy.stats import chisquare, poisson

from mtseg.batches.pipeline import open_balanced_samples
from mtseg.batches.volume_patches import VolumePatches
from mtseg.records.reading import read_volumes
from mtseg.records.writing import prepare
from mtseg.runs.config import configure
from mtseg.tasks.label_space import parse_tasks

TASKS = ("brain", "cta")
NUM_MINIBATCHES = 100  # 21,000 samples, more than 20,000
CHANCE = 1e-4
"""Probability of a failure by chance, in each comparison; the seed is fixed."""

LARGE = 1000
"""A class is large if it has at least this many voxels."""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Five training phantoms of each task; those of a task differ in size and shape."""
    folder = tmp_path_factory.mktemp("paper")
    for selection in parse_tasks(",".join(TASKS)).selections:
        prepare(
            selection.task, "phantom", folder, kinds=("volumes",), size=40, num_train=5,
            num_test=1, num_processes=1,
        )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def drawn(data_dir):
    """Task -> counts of what the preset draws: (class, number of the voxel) -> times."""
    config = configure("paper", ",".join(TASKS), str(data_dir))
    label_space = parse_tasks(config.tasks)
    samples = open_balanced_samples(config.data_dir, label_space, config.seed, kind=config.records)
    counts = {task: collections.Counter() for task in TASKS}
    with pytest.MonkeyPatch.context() as patch:
        of_store = {
            id(store): counts[task] for task, (store,) in zip(TASKS, samples.stores, strict=True)
        }

        def note(self, class_index, number, transforms):
            of_store[id(self)].update(zip(class_index.tolist(), number.tolist(), strict=True))
            return np.zeros((len(number), 1, 1, 1), np.float16)

        patch.setattr(VolumePatches, "cut", note)
        for n in range(NUM_MINIBATCHES):
            samples.read_minibatch(n, config.global_batch_size)
    return counts


def voxels_of_scans(data_dir, task):
    """(scans, classes): the foreground voxels of each class in each training scan."""
    num_classes = parse_tasks(task).selections[0].task.num_classes
    return np.stack(
        [
            np.bincount(scan.class_index_map[scan.image > 0], minlength=num_classes)
            for scan in read_volumes(data_dir, task, "phantom", "train")
        ]
    )


def test_the_preset_of_the_paper_draws_from_volumes():
    assert configure("paper", "brain", "data").records == "volumes"


def test_mini_batches_are_balanced_over_tasks_and_their_classes(data_dir, drawn):
    for task in TASKS:
        assert drawn[task].total() == NUM_MINIBATCHES * 105
        of_class = collections.Counter()
        for (c, _), times in drawn[task].items():
            of_class[c] += times
        assert len(of_class) == voxels_of_scans(data_dir, task).shape[1]
        assert max(of_class.values()) - min(of_class.values()) <= 1


@pytest.mark.parametrize("task", TASKS)
def test_no_voxel_of_a_large_class_is_drawn_more_often_than_chance_allows(data_dir, drawn, task):
    """With n draws from V voxels, a voxel is drawn about Poisson(n / V) times.

    The bound is the number that no one of the V voxels exceeds, but with a probability of 1e-4.
    """
    total = voxels_of_scans(data_dir, task).sum(axis=0)
    assert (total >= LARGE).any()
    for c in np.flatnonzero(total >= LARGE):
        times = [count for (class_index, _), count in drawn[task].items() if class_index == c]
        bound = poisson.isf(CHANCE / total[c], sum(times) / total[c])
        assert max(times) <= bound
        # Nor is a part of the voxels left out: as many are drawn as chance expects.
        expected = total[c] * (1 - np.exp(-sum(times) / total[c]))
        assert len(times) == pytest.approx(expected, abs=4 * np.sqrt(expected))


@pytest.mark.parametrize("task", TASKS)
def test_scans_are_drawn_in_proportion_to_their_voxels_of_the_class(data_dir, drawn, task):
    voxels = voxels_of_scans(data_dir, task)
    for c, of_scans in enumerate(voxels.T):
        ends = np.cumsum(of_scans)
        times = np.zeros(len(ends))
        for (class_index, number), count in drawn[task].items():
            if class_index == c:
                times[np.searchsorted(ends, number, side="right")] += count
        is_shown = of_scans > 0
        assert not times[~is_shown].any()
        expected = times.sum() * of_scans[is_shown] / ends[-1]
        assert chisquare(times[is_shown], expected).pvalue > CHANCE
