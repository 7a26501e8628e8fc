"""Balanced mini-batches: the class, the source and the order of every sample of a run.

All samples of a run are numbered. Sample after sample, the tasks take turns, and within a task its
classes take turns. So in any consecutive samples, and in every mini-batch, the numbers of samples
of two tasks differ by at most one, and so do those of two classes of the same task. What does not
divide evenly rotates from one mini-batch to the next, so the whole run is balanced too. With
`--task-weights`, some tasks have more turns than others, spread evenly.

Mini-batch n depends on the data, the seed and n alone: nothing is drawn from a generator that runs
on from one mini-batch to the next. A resumed run therefore continues at once with the right
mini-batch, and each replica reads only its own samples.

Patches come from a `PatchStore`, one for each source: `mtseg.batches.volume_patches` or
`mtseg.batches.patch_records`.

Reference: Moeskops et al., MICCAI 2016, section 3.2 (balanced mini-batches). Taking turns is this
project's way to balance them exactly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mtseg.batches.augmentation import augment, draw_transforms
from mtseg.batches.draws import describe_draws, order_sources
from mtseg.errors import InputError
from mtseg.scans.patches import PATCH_SIZE, PLANES
from mtseg.tasks.label_space import LabelSpace


class PatchStore(Protocol):
    """The training samples of one source. A store only has to count them and to read them."""

    @property
    def num_samples(self) -> npt.NDArray[np.int64]:
        """Number of different samples of each of the task's own classes.

        Classes after the last one that the source shows may be left out.
        """

    @property
    def num_scans(self) -> npt.NDArray[np.int64]:
        """Number of scans that show each of these classes."""

    def take(
        self,
        class_index: npt.NDArray[np.int64],
        turn: npt.NDArray[np.int64],
        draw: npt.NDArray[np.float64],
        key: tuple[int, ...],
        out: Sequence[npt.NDArray[np.float16]],
        transforms: npt.NDArray[np.float64] | None = None,
    ) -> None:
        """Reads the patches of n samples. A store uses either `turn` or `draw` to choose them.

        Args:
            class_index: (n,), the task's own class of each sample.
            turn: (n,), how many samples of that class this source has given before in this run.
            draw: (n,), random numbers, at least 0 and less than 1.
            key: numbers that identify this source in this run; the seed is one of them.
            out: n arrays, float16 (3, 51, 51), to fill: the axial, coronal and sagittal patch.
            transforms: (n, 3, 3), see `mtseg.batches.augmentation.draw_transforms`; None turns
                none.

        Raises:
            InputError: if the patches can no longer be read.
            ValueError: if patches are to be turned that were cut before.
        """


def assign_classes(
    minibatch: int,
    global_batch_size: int,
    num_classes: tuple[int, ...],
    task_weights: tuple[int, ...] | None = None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Decides the task and the class of each sample of a mini-batch.

    Args:
        minibatch: number of the mini-batch, from 0.
        global_batch_size: samples in a mini-batch.
        num_classes: number of classes of each task, background included.
        task_weights: how often each task is drawn; None for equally often.

    Returns:
        `(task, class_index, ordinal)`, int64 (global_batch_size,) each: the task's number, the
        task's own class, and how many samples of that task and class came before in the run.

    Example:
        >>> task, class_index, _ = assign_classes(0, 6, (3, 2))
        >>> task.tolist(), class_index.tolist()
        ([0, 1, 0, 1, 0, 1], [0, 0, 1, 1, 2, 0])
    """
    sample = minibatch * global_batch_size + np.arange(global_batch_size, dtype=np.int64)
    order = order_sources(task_weights or (1,) * len(num_classes))
    task, sample_of_task = order.find(sample)
    ordinal, class_index = np.divmod(sample_of_task, np.asarray(num_classes, np.int64)[task])
    return task, class_index, ordinal


@dataclasses.dataclass(frozen=True, eq=False)
class DrawnPart:
    """The samples of a mini-batch that one source of a task gives.

    Attributes:
        task: number of the task.
        source: number of the source in the task.
        samples: int64 (n,), their places among the samples that were asked for.
        class_index: int64 (n,), the task's own class of each of them.
        turn: int64 (n,), see `PatchStore.take`.
        draw: float64 (n,), likewise.
    """

    task: int
    source: int
    samples: npt.NDArray[np.int64]
    class_index: npt.NDArray[np.int64]
    turn: npt.NDArray[np.int64]
    draw: npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class DrawnMinibatch:
    """Which samples a mini-batch has, before their patches are read.

    Attributes:
        task: int64 (global_batch_size,), the task of each sample of the whole mini-batch.
        is_symmetric: booleans (global_batch_size,), whether left and right may be exchanged in
            the anatomy of that task.
        score_index: int32 (rows,), of the samples that were asked for, the network output that
            should be the most probable.
        parts: for each source of each task, its samples among these.
    """

    task: npt.NDArray[np.int64]
    is_symmetric: npt.NDArray[np.bool_]
    score_index: npt.NDArray[np.int32]
    parts: tuple[DrawnPart, ...]


class BalancedSamples:
    """The mini-batches of a run, which can be read in any order by their numbers.

    If a task has several sources, its samples come from all of them (see `mtseg.batches.draws`).

    Args:
        label_space: the tasks.
        stores: for each task, the store of each of its sources.
        seed: seed of the order of samples.
        augmentations: names of `mtseg.batches.augmentation`.
        backgrounds: `shared` or `by-task` (see `mtseg.runs.config.TrainConfig`).
        weights: `(task, source)` -> weight; without one, the weight of a source is the number of
            its scans that show the class.
        task_weights: how often each task is drawn; None for equally often.

    Attributes:
        stores: for each task, the store of each of its sources.
        seed: seed of the order of samples.
        augmentations: names of `mtseg.batches.augmentation`.
        num_samples: for each task, the number of different samples of each of its classes.
        read_error: why a mini-batch could not be read. `mtseg.batches.pipeline` sets it, because
            TensorFlow replaces an exception in a dataset by one that hides the message.
    """

    read_error: InputError | None = None

    def __init__(
        self,
        label_space: LabelSpace,
        stores: Sequence[Sequence[PatchStore]],
        seed: int,
        augmentations: tuple[str, ...] = (),
        backgrounds: str = "shared",
        weights: Mapping[tuple[str, str], int] | None = None,
        task_weights: tuple[int, ...] | None = None,
    ) -> None:
        tasks = [selection.task for selection in label_space.selections]
        self._tasks = tasks
        self.stores, self.seed, self.augmentations = stores, seed, augmentations
        self._task_weights = task_weights or (1,) * len(tasks)
        self._num_classes = tuple(task.num_classes for task in tasks)
        self._to_scores = [label_space.to_scores(task.name, backgrounds) for task in tasks]
        self._is_symmetric = np.array([task.is_symmetric for task in tasks])
        self._is_mr = np.array([task.is_ct is False for task in tasks])
        self._sizes = [
            np.stack([_pad(store.num_samples, count) for store in of_task])
            for of_task, count in zip(stores, self._num_classes, strict=True)
        ]  # for each task, int64 (sources, classes)
        self._orders = []  # for each task and class, of its sources
        for selection, of_task, sizes in zip(
            label_space.selections, stores, self._sizes, strict=True
        ):
            weighed = np.stack([_pad(s.num_scans, selection.task.num_classes) for s in of_task])
            for row, source in zip(weighed, selection.sources, strict=True):
                row[:] = (weights or {}).get((selection.task.name, source), row)
            weighed[sizes == 0] = 0
            orders = [order_sources(tuple(of_class)) for of_class in weighed.T.tolist()]
            self._orders.append(orders)
        self.num_samples: list[list[int]] = [sizes.sum(axis=0).tolist() for sizes in self._sizes]

    def read_minibatch(
        self, n: int, global_batch_size: int, rows: slice = slice(None)
    ) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.int32]]:
        """Reads the samples of mini-batch n, or some of them.

        Args:
            n: number of the mini-batch, from 0.
            global_batch_size: samples in the whole mini-batch.
            rows: the samples that are wanted. They are the same as those rows of the whole.

        Returns:
            `(patches, score_index)`: float16 (rows, 3, 51, 51), and int32 (rows,), the network
            output that should be the most probable. With a shared background this is the combined
            class index.

        Raises:
            InputError: if a store can no longer be read.
        """
        drawn = self.draw_minibatch(n, global_batch_size, rows)
        key = (self.seed, n)
        transforms = draw_transforms(rows, global_batch_size, self.augmentations, key)
        count = len(drawn.score_index)
        patches = np.empty((count, len(PLANES), PATCH_SIZE, PATCH_SIZE), np.float16)
        for part in drawn.parts:
            store = self.stores[part.task][part.source]
            out = [patches[sample] for sample in part.samples]
            turned = None if transforms is None else transforms[part.samples]
            of_source = (self.seed, part.task, part.source)
            store.take(part.class_index, part.turn, part.draw, of_source, out, turned)
        if self.augmentations:
            is_mr = self._is_mr[drawn.task]
            augment(patches, drawn.is_symmetric, is_mr, rows, self.augmentations, key)
        return patches, drawn.score_index

    def draw_minibatch(
        self, n: int, global_batch_size: int, rows: slice = slice(None)
    ) -> DrawnMinibatch:
        """Decides which samples of which stores mini-batch n has, or some of them.

        Args:
            n: number of the mini-batch, from 0.
            global_batch_size: samples in the whole mini-batch.
            rows: the samples that are wanted.
        """
        task, class_index, ordinal = assign_classes(
            n, global_batch_size, self._num_classes, self._task_weights
        )
        draw = np.random.default_rng([self.seed, n]).random(global_batch_size)[rows]
        whole, task, class_index, ordinal = task, task[rows], class_index[rows], ordinal[rows]
        score_index = np.empty(len(task), np.int32)
        parts = []
        for t, of_task in enumerate(self.stores):
            of_this = np.flatnonzero(task == t)
            score_index[of_this] = self._to_scores[t][class_index[of_this]]
            source, turn = np.empty((2, len(of_this)), np.int64)
            for c in np.unique(class_index[of_this]):
                mine = class_index[of_this] == c
                source[mine], turn[mine] = self._orders[t][c].find(ordinal[of_this][mine])
            for s in range(len(of_task)):
                mine, turns = of_this[source == s], turn[source == s]
                parts.append(DrawnPart(t, s, mine, class_index[mine], turns, draw[mine]))
        return DrawnMinibatch(whole, self._is_symmetric[whole], score_index, tuple(parts))

    def describe_draws(self, num_minibatches: int, global_batch_size: int, kind: str) -> list[str]:
        """Says of each task how often a run draws its samples.

        Args:
            num_minibatches: length of the run.
            global_batch_size: samples in a mini-batch.
            kind: what the samples are, `patches` or `volumes`.
        """
        lines = []
        num_samples = num_minibatches * global_batch_size
        for task, weight, sizes, orders in zip(
            self._tasks, self._task_weights, self._sizes, self._orders, strict=True
        ):
            num_draws = num_samples * weight / sum(self._task_weights)
            shares = np.stack([order.per_cycle / len(order.source) for order in orders], axis=1)
            said = describe_draws(task.class_names, sizes, shares, num_draws, kind)
            lines.append(f"{task.name}: {said}.")
        return lines


def _pad(counts: npt.NDArray[np.int64], num_classes: int) -> npt.NDArray[np.int64]:
    """Appends zeros for the last classes, which a source need not count."""
    return np.pad(counts, (0, num_classes - len(counts)))
