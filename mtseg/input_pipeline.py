"""Balanced mini-batches: prepared patch records come in, batches for the training step leave.

Every sample of a run has a number. Counting samples through the tasks in turn, and each task's
samples through its classes in turn, makes any run of consecutive samples equally balanced over
tasks, and within a task over its classes, to within one; the remainder rotates by itself. Which
record a sample is follows from a permutation that depends on (seed, task, class, pass) only. So
mini-batch n is a function of (data, seed, n): resuming costs no replay.

Reference: Moeskops et al., MICCAI 2016, section 3.2.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from mtseg.errors import InputError
from mtseg.prepared import PatchRecords, open_patches
from mtseg.records import parse_patches
from mtseg.sampling import PLANES
from mtseg.tasks import LabelSpace


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


@dataclasses.dataclass(frozen=True)
class BalancedPatches:
    """Mini-batches by number from the patch records of several tasks.

    Attributes:
        records: the records of each task, in the label space's order.
        rows: for each task, the rows of each of its classes.
        num_classes: classes of each task, background included.
        offsets: what is added to a task's own foreground class to get the combined class.
        seed: decides the order of the records.
    """

    records: tuple[PatchRecords, ...]
    rows: tuple[tuple[np.ndarray, ...], ...]
    num_classes: tuple[int, ...]
    to_combined: tuple[np.ndarray, ...]
    seed: int

    def minibatch(self, n: int, global_batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Serialised examples (bytes objects) and combined class index (int32) of mini-batch n."""
        slots = assign_slots(int(n), global_batch_size, self.num_classes)
        examples = np.empty(global_batch_size, object)
        combined = np.empty(global_batch_size, np.int32)
        for slot, (task, class_index, ordinal) in enumerate(zip(*slots, strict=True)):
            rows = self.rows[task][class_index]
            epoch, position = divmod(int(ordinal), rows.size)
            order = _permutation(self.seed, int(task), int(class_index), epoch, rows.size)
            examples[slot] = self.records[task].read(int(rows[order[position]]))
            combined[slot] = self.to_combined[task][class_index]
        return examples, combined


@functools.lru_cache(maxsize=256)
def _permutation(seed: int, task: int, class_index: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, task, class_index, epoch]).permutation(size)


def open_balanced_patches(data_dir: str, label_space: LabelSpace, seed: int) -> BalancedPatches:
    """Opens the prepared patches of every task of a label space.

    Raises:
        InputError: if a task is not prepared, a shard is damaged, or a class has no patch.
    """
    records, rows = [], []
    for selection in label_space.selections:
        task = selection.task
        patches = open_patches(data_dir, task.name, selection.source)
        rows_of_class = tuple(
            np.flatnonzero(patches.class_index == c) for c in range(task.num_classes)
        )
        for name, of_class in zip(task.class_names, rows_of_class, strict=True):
            if of_class.size == 0:
                raise InputError(
                    f"{data_dir}: no training scan of {selection.spec} has a voxel of class "
                    f"{name}. Add scans that show it, or take the class out of the task file."
                )
        records.append(patches)
        rows.append(rows_of_class)
    return BalancedPatches(
        records=tuple(records),
        rows=tuple(rows),
        num_classes=tuple(s.task.num_classes for s in label_space.selections),
        to_combined=tuple(label_space.to_combined(s.task.name) for s in label_space.selections),
        seed=seed,
    )


def make_dataset(
    patches: BalancedPatches, global_batch_size: int, *, start: int, stop: int
) -> tf.data.Dataset:
    """Mini-batches `start` to `stop` as a dataset.

    Returns:
        Elements `(planes, class_index)`: a dictionary of float32 (global_batch_size, 51, 51, 1)
        for each of `PLANES`, and int32 (global_batch_size,) in the combined label space.
    """

    def read(n: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        examples, class_index = tf.numpy_function(
            lambda m: patches.minibatch(m, global_batch_size), [n], (tf.string, tf.int32)
        )
        # Fixed shapes spare the training step a second trace.
        examples.set_shape([global_batch_size])
        class_index.set_shape([global_batch_size])
        stacked, _ = parse_patches(examples)
        planes = {name: stacked[:, p, :, :, tf.newaxis] for p, name in enumerate(PLANES)}
        return planes, class_index

    return (
        tf.data.Dataset.range(start, stop)
        .map(read, num_parallel_calls=2, deterministic=True)
        .prefetch(4)
    )
