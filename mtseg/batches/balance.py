"""Which class and which voxel each sample of a run has, so that every mini-batch is balanced.

Every sample of a run has a number. The numbers go through the tasks in turn, and within a task
through its classes in turn. So any consecutive samples are balanced over tasks, and within a task
over classes, to within one sample; the remainder rotates.

Which patch record a sample is follows from a permutation of (seed, task, source, class, pass);
which voxel of a volume, from numbers drawn for (seed, n). So mini-batch n is a function of (data,
seed, n): resuming needs no replay, and every replica reads its own samples only.

Reference: Moeskops et al., MICCAI 2016, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mtseg.batches.augmentation import augment
from mtseg.batches.stores import PatchStore
from mtseg.errors import InputError
from mtseg.scans.patches import PATCH_SIZE, PLANES
from mtseg.tasks.label_space import LabelSpace


def assign_slots(
    minibatch: int, global_batch_size: int, num_classes: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Says which task and class each sample of a mini-batch has.

    Args:
        minibatch: the mini-batch's number, from 0.
        global_batch_size: samples in a mini-batch.
        num_classes: classes of each task, background included.

    Returns:
        `(task, class_index, ordinal)`, int64 (global_batch_size,) each; `ordinal` counts the
        samples of that task and class since the start of the run.

    Example:
        >>> task, class_index, _ = assign_slots(0, 6, (3, 2))
        >>> task.tolist(), class_index.tolist()
        ([0, 1, 0, 1, 0, 1], [0, 0, 1, 1, 2, 0])
    """
    sample = minibatch * global_batch_size + np.arange(global_batch_size, dtype=np.int64)
    sample_of_task, task = np.divmod(sample, len(num_classes))
    ordinal, class_index = np.divmod(sample_of_task, np.asarray(num_classes, np.int64)[task])
    return task, class_index, ordinal


class BalancedSamples:
    """Mini-batches by number from the training data of several tasks.

    The sources of a task that show a class take turns in giving its samples.

    Args:
        label_space: the tasks.
        data: for each task, the store of each of its sources.
        seed: seed of the order of samples.
        augmentations: names of `mtseg.batches.augmentation`.
        backgrounds: `shared` or `by-task` (see `mtseg.training.config.TrainConfig`).

    Attributes:
        num_samples: for each task, the number of different samples of each of its classes.
        refusal: why a mini-batch could not be read. TensorFlow's datasets replace the exception
            by one of their own, which hides the message.
    """

    refusal: InputError | None = None

    def __init__(
        self,
        label_space: LabelSpace,
        data: Sequence[Sequence[PatchStore]],
        seed: int,
        augmentations: tuple[str, ...] = (),
        backgrounds: str = "shared",
    ) -> None:
        tasks = [selection.task for selection in label_space.selections]
        self._data, self._seed, self._augmentations = data, seed, augmentations
        self._num_classes = tuple(task.num_classes for task in tasks)
        self._to_scores = [label_space.to_scores(task.name, backgrounds) for task in tasks]
        self._is_symmetric = np.array([task.is_symmetric for task in tasks])
        self._sizes = [
            np.stack([_pad(source.num_samples, count) for source in of_task])
            for of_task, count in zip(data, self._num_classes, strict=True)
        ]  # for each task, int64 (sources, classes)
        self.num_samples = [sizes.sum(axis=0).tolist() for sizes in self._sizes]

    def minibatch(
        self, n: int, global_batch_size: int, rows: slice = slice(None)
    ) -> tuple[np.ndarray, np.ndarray]:
        """The samples of mini-batch n.

        Args:
            n: its number, from 0.
            global_batch_size: number of samples in it.
            rows: the samples that are wanted.

        Returns:
            `(patches, score_index)`: float16 (rows, 3, 51, 51), and int32 (rows,), the output that
            should be the most probable; with a shared background it is the combined class index.
        """
        task, class_index, ordinal = assign_slots(n, global_batch_size, self._num_classes)
        draws = np.random.default_rng([self._seed, n]).random(global_batch_size)[rows]
        is_symmetric = self._is_symmetric[task]
        task, class_index, ordinal = task[rows], class_index[rows], ordinal[rows]
        patches = np.empty((len(task), len(PLANES), PATCH_SIZE, PATCH_SIZE), np.float16)
        score_index = np.empty(len(task), np.int32)
        for t, of_task in enumerate(self._data):
            of_this = np.flatnonzero(task == t)
            score_index[of_this] = self._to_scores[t][class_index[of_this]]
            source, turn = self._take_turns(t, class_index[of_this], ordinal[of_this])
            for s, data in enumerate(of_task):
                mine, turns = of_this[source == s], turn[source == s]
                out = [patches[sample] for sample in mine]
                data.take(class_index[mine], turns, draws[mine], (self._seed, t, s), out)
        if self._augmentations:
            rng = np.random.default_rng([self._seed, n, 1])
            augment(patches, is_symmetric, rows, self._augmentations, rng)
        return patches, score_index

    def _take_turns(
        self, task: int, class_index: np.ndarray, ordinal: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The source of each sample, and how many samples of its class that source gave before."""
        source, turn = np.zeros((2, len(ordinal)), np.int64)
        for c in np.unique(class_index):
            showing = np.flatnonzero(self._sizes[task][:, c])
            mine = class_index == c
            turn[mine], which = np.divmod(ordinal[mine], len(showing))
            source[mine] = showing[which]
        return source, turn


def _pad(counts: npt.NDArray[np.int64], num_classes: int) -> npt.NDArray[np.int64]:
    """Appends zeros for the classes that a source does not show."""
    return np.pad(counts, (0, num_classes - len(counts)))
