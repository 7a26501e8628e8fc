"""The input of training: balanced mini-batches as a `tf.data.Dataset`.

`open_balanced_samples` opens the prepared data of all tasks, `make_dataset` turns them into
mini-batches. Which samples a mini-batch has is decided in `mtseg.batches.balance`.

Reference: Moeskops et al., MICCAI 2016, section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from mtseg.batches.balance import BalancedSamples
from mtseg.batches.stores import PatchStore, open_patches, open_volumes
from mtseg.errors import InputError
from mtseg.scans.patches import PATCH_SIZE, PLANES
from mtseg.tasks.label_space import LabelSpace


def open_balanced_samples(
    data_dir: str,
    label_space: LabelSpace,
    seed: int,
    *,
    kind: str = "patches",
    augmentations: tuple[str, ...] = (),
    backgrounds: str = "shared",
) -> BalancedSamples:
    """Opens the prepared training data of every task of a label space.

    Args:
        data_dir: folder of prepared records.
        label_space: the tasks.
        seed: seed of the order of samples.
        kind: `patches` or `volumes`.
        augmentations: names of `mtseg.batches.augmentation`.
        backgrounds: `shared` or `by-task` (see `mtseg.training.config.TrainConfig`).

    Raises:
        InputError: if a task is not prepared, a shard is damaged, or a class has no sample.
    """
    openers: dict[str, Callable[..., PatchStore]] = {
        "patches": open_patches,
        "volumes": open_volumes,
    }
    open_data = openers[kind]
    data = [
        [open_data(data_dir, s.task.name, source, s.task.own_file) for source in s.sources]
        for s in label_space.selections
    ]
    samples = BalancedSamples(label_space, data, seed, augmentations, backgrounds)
    for selection, sizes in zip(label_space.selections, samples.num_samples, strict=True):
        for name, size in zip(selection.task.class_names, sizes, strict=True):
            if size == 0:
                raise InputError(
                    f"{data_dir}: no training scan of {selection.spec} has a voxel of class "
                    f"{name}. Add scans that show it, or take the class out of "
                    f"{selection.task.file_to_edit}."
                )
    return samples


def make_dataset(
    samples: BalancedSamples,
    global_batch_size: int,
    calls: Sequence[tuple[int, int]],
    *,
    shares: Sequence[slice] = (slice(None),),
) -> tf.data.Dataset:
    """Mini-batches as a dataset, several to an element.

    Args:
        samples: where they come from.
        global_batch_size: samples in a mini-batch.
        calls: `(start, stop)` of the mini-batches in each element; all but the last few are
            equally many.
        shares: for each replica of this process its rows of a mini-batch, equally many. Every
            call gives one element for each of them in turn.

    Returns:
        Elements `(patches, score_index)`: float16 (mini-batches, rows, 3, 51, 51), of the three
        planes in the order of `PLANES`, and int32 (mini-batches, rows), as `minibatch` gives them.
    """
    num_rows = len(range(*shares[0].indices(global_batch_size)))
    of_element = [(start, stop, rows) for start, stop in calls for rows in shares]

    def compute(element: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        start, stop, rows = of_element[int(element)]
        try:
            parts = [samples.minibatch(n, global_batch_size, rows) for n in range(start, stop)]
        except InputError as error:
            samples.refusal = error
            raise
        patches, score_index = zip(*parts, strict=True)
        # One mini-batch to a call is the rule, and is spared a copy.
        is_one = len(parts) == 1
        return patches[0][np.newaxis] if is_one else np.stack(patches), np.stack(score_index)

    def read(element: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        patches, score_index = tf.numpy_function(compute, [element], (tf.float16, tf.int32))
        # Fixed shapes spare the training step a second trace.
        patches.set_shape([None, num_rows, len(PLANES), PATCH_SIZE, PATCH_SIZE])
        score_index.set_shape([None, num_rows])
        return patches, score_index

    return (
        tf.data.Dataset.range(len(of_element))
        .map(read, num_parallel_calls=2, deterministic=True)
        .prefetch(4)
    )
