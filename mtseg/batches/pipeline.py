"""The input of training: balanced mini-batches of prepared data, read ahead in other threads.

`open_balanced_samples` opens the data of all tasks. `make_dataset` reads ahead for TensorFlow, as a
`tf.data.Dataset`, and `read_ahead` without TensorFlow. `mtseg.batches.balance` decides which
samples a mini-batch has.
"""

from __future__ import annotations

import collections
import itertools
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mtseg.batches.balance import BalancedSamples, PatchStore
from mtseg.batches.draws import read_source_weights, read_task_weights
from mtseg.batches.placed_samples import PlacedSamples, Places
from mtseg.batches.volume_patches import open_volumes
from mtseg.errors import InputError
from mtseg.records.reading import require_same_task
from mtseg.scans.patches import PATCH_SIZE, PLANES
from mtseg.system.hardware import num_cores
from mtseg.tasks.label_space import LabelSpace

if TYPE_CHECKING:
    import tensorflow as tf

_NUM_READERS = max(2, min(num_cores(), 16))
"""Calls of the training step that are read at the same time. All augmentations together take a core
about 1 ms per sample, a GPU's step far less."""

_NUM_READY = 2
"""Calls beside these that are ready before they are needed."""


def open_balanced_samples(
    data_dir: str,
    label_space: LabelSpace,
    seed: int,
    *,
    kind: str = "volumes",
    augmentations: tuple[str, ...] = (),
    backgrounds: str = "shared",
    source_weights: str = "",
    task_weights: str = "",
) -> BalancedSamples:
    """Opens the prepared training data of every task of a label space.

    Args:
        data_dir: folder of prepared records.
        label_space: the tasks.
        seed: seed of the order of samples.
        kind: `volumes` draws from all voxels as the paper does, `patches` from stored patches.
        augmentations: names of `mtseg.batches.augmentation`.
        backgrounds: `shared` or `by-task` (see `mtseg.runs.config.TrainConfig`).
        source_weights: as `mtseg.batches.draws.read_source_weights` reads them.
        task_weights: as `mtseg.batches.draws.read_task_weights` reads them.

    Raises:
        InputError: if a task is not prepared, a shard is damaged, a class has no sample, or the
            records were prepared for another definition of the task.
    """
    open_store: Callable[..., PatchStore] = open_volumes
    if kind == "patches":
        from mtseg.batches.patch_records import open_patches

        open_store = open_patches
    weights = read_source_weights(source_weights, label_space)
    of_tasks = read_task_weights(task_weights, label_space)
    for selection in label_space.selections:
        for source in selection.sources:
            require_same_task(data_dir, selection.task, source, kind)
    stores = [
        [open_store(data_dir, s.task.name, source, s.task.own_file) for source in s.sources]
        for s in label_space.selections
    ]
    samples = BalancedSamples(
        label_space, stores, seed, augmentations, backgrounds, weights, of_tasks
    )
    for selection, counts in zip(label_space.selections, samples.num_samples, strict=True):
        for name, count in zip(selection.task.class_names, counts, strict=True):
            if count == 0:
                raise InputError(
                    f"{data_dir}: no training scan of {selection.spec} has a voxel of class "
                    f"{name}. Add scans that show it, or take the class out of "
                    f"{selection.task.file_to_edit}."
                )
    return samples


def make_dataset(
    samples: BalancedSamples | PlacedSamples,
    global_batch_size: int,
    calls: Sequence[tuple[int, int]],
    *,
    shares: Sequence[slice] = (slice(None),),
) -> tf.data.Dataset:
    """Makes a dataset whose elements are one call of the training step each.

    Args:
        samples: the samples of all tasks, or their places in a buffer.
        global_batch_size: samples in a mini-batch.
        calls: `(start, stop)` for each call: it trains on the mini-batches start, …, stop - 1. Most
            calls have equally many.
        shares: for each replica of this process, its rows of a mini-batch, equally many. Every
            call gives one element for each replica in turn.

    Returns:
        Elements `(patches, score_index)`: float16 (mini-batches, rows, 3, 51, 51), the axial,
        coronal and sagittal patch of each sample, and int32 (mini-batches, rows); see
        `BalancedSamples.read_minibatch`. Of `PlacedSamples`, the first are `Places` with tensors
        int64 (mini-batches, rows, 4) and float16 (mini-batches, rows). If a store can no longer be
        read, TensorFlow raises an error of its own, and `samples.read_error` is the real one.
    """
    import tensorflow as tf

    num_rows = len(range(*shares[0].indices(global_batch_size)))
    of_element = [(start, stop, rows) for start, stop in calls for rows in shares]
    is_placed = isinstance(samples, PlacedSamples)
    patch_shape = (len(PLANES), PATCH_SIZE, PATCH_SIZE)
    # Of each tensor of an element, its type and its shape without mini-batches and rows.
    tensors: list[tuple[Any, tuple[int, ...]]] = [(tf.float16, patch_shape), (tf.int32, ())]
    if is_placed:
        tensors[:1] = [(tf.int64, (4,)), (tf.float16, ())]

    def compute(element: int) -> tuple[npt.NDArray[Any], ...]:
        start, stop, rows = of_element[element]
        try:
            patches, score_index = _read_call(samples, global_batch_size, (start, stop), rows)
        except InputError as error:
            samples.read_error = error
            raise
        return (*patches, score_index) if isinstance(patches, Places) else (patches, score_index)

    # TensorFlow keeps what it calls for ever. Held by the dataset alone, the volumes go with it.
    held = weakref.ref(compute)

    def read(element: tf.Tensor) -> tuple[Any, tf.Tensor]:
        read = tf.numpy_function(
            lambda element: held()(int(element)),  # type: ignore[misc]  # not None: see above
            [element],
            [dtype for dtype, _ in tensors],
        )
        for tensor, (_, shape) in zip(read, tensors, strict=True):
            # With shapes that are not known, the training step would be traced twice.
            tensor.set_shape([None, num_rows, *shape])
        *patches, score_index = read
        return Places(*patches) if is_placed else patches[0], score_index

    dataset = (
        tf.data.Dataset.range(len(of_element))
        .map(read, num_parallel_calls=_NUM_READERS, deterministic=True)
        .prefetch(_NUM_READY)
    )
    dataset.compute = compute
    return dataset


def read_ahead(
    samples: BalancedSamples | PlacedSamples,
    global_batch_size: int,
    calls: Sequence[tuple[int, int]],
    move: Callable[[Any, npt.NDArray[np.int32]], Any],
) -> Iterator[Any]:
    """Reads the mini-batches of one call of the training step after the other, ahead of need.

    Args:
        samples: as for `make_dataset`.
        global_batch_size: samples in a mini-batch.
        calls: as for `make_dataset`.
        move: called in another thread with the patches, float16 (mini-batches, samples, 3, 51, 51),
            or their `Places`, and the outputs that should be the most probable, int32
            (mini-batches, samples): moves them to a device.

    Yields:
        What `move` returns, for each call in turn.

    Raises:
        InputError: if a store can no longer be read.
    """

    def read(call: tuple[int, int]) -> Any:
        return move(*_read_call(samples, global_batch_size, call))

    left = iter(calls)
    with ThreadPoolExecutor(_NUM_READERS) as readers:
        pending: collections.deque[Future[Any]] = collections.deque()
        for call in itertools.islice(left, _NUM_READERS + _NUM_READY):
            pending.append(readers.submit(read, call))
        while pending:
            batches = pending.popleft().result()
            for call in itertools.islice(left, 1):
                pending.append(readers.submit(read, call))
            yield batches


def _read_call(
    samples: BalancedSamples | PlacedSamples,
    global_batch_size: int,
    call: tuple[int, int],
    rows: slice = slice(None),
) -> tuple[npt.NDArray[np.float16] | Places, npt.NDArray[np.int32]]:
    """The mini-batches of a call, stacked; see `BalancedSamples.read_minibatch`."""
    parts = [samples.read_minibatch(n, global_batch_size, rows) for n in range(*call)]
    patches, score_index = zip(*parts, strict=True)
    if isinstance(patches[0], Places):
        steps, factors = zip(*patches, strict=True)
        return Places(np.stack(steps), np.stack(factors)), np.stack(score_index)
    # Usually a call has one mini-batch, and stacking would copy it.
    is_one = len(parts) == 1
    return patches[0][np.newaxis] if is_one else np.stack(patches), np.stack(score_index)
