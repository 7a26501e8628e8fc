"""What can end a run before its last mini-batch, and what the user is told to do then.

A run can diverge, a shard can be damaged, another worker can be lost, a device of this machine can
fail, or its memory can be too small. TensorFlow reports the last four by errors that this module
tells apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

from mtseg.batches.balance import BalancedSamples
from mtseg.errors import InputError, WorkerLostError
from mtseg.runs.config import TrainConfig
from mtseg.training.strategies import Replicas

_LOST_WORKER = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)
"""What TensorFlow raises in the remaining workers when one dies; it may also be an
`InternalError`."""

_WORDS_OF_ANOTHER_WORKER = re.compile(
    r"collective ops is aborted|connection|socket|\brpc\b|grpc|\bpeer\b|heartbeat"
    r"|coordination service",
    re.IGNORECASE,
)
"""What an `InternalError` speaks of if another worker, and no device of this one, is its cause."""


class DivergedError(InputError):
    """The loss or the weights of a run are not finite any more.

    Args:
        message: what was found, as a sentence.
        minibatch: the mini-batch at which it was found, counted from 1.
    """

    def __init__(self, message: str, minibatch: int) -> None:
        super().__init__(message)
        self.minibatch = minibatch


def next_call(batches: Iterator[Any], samples: BalancedSamples) -> Any:
    """The mini-batches of the next call of the training step.

    TensorFlow hides the error of a damaged shard, so the samples remember it.

    Args:
        batches: from `mtseg.training.strategies.Replicas.distribute`.
        samples: what they are drawn from.

    Raises:
        InputError: if a shard cannot be read.
    """
    try:
        return next(batches)
    except tf.errors.OpError:
        if samples.read_error is not None:
            raise samples.read_error from None
        raise


def explain_divergence(
    error: DivergedError, workdir: Path, config: TrainConfig, num_saved: int
) -> DivergedError:
    """Adds to a divergence which run it is and what to do.

    Args:
        error: what was found.
        workdir: folder of the run.
        config: its configuration.
        num_saved: mini-batches done at the last checkpoint; 0 if there is none.
    """
    remedy = f"Rerun the command with a lower --learning-rate (it was {config.learning_rate:g})"
    if num_saved:
        remedy += f": it resumes from the checkpoint after mini-batch {num_saved}."
    else:
        remedy += " or a longer --warmup-minibatches: there is no checkpoint yet."
    if config.precision == "mixed_float16":
        remedy += " Or start over in another folder with --precision mixed_bfloat16."
    return DivergedError(f"{workdir}: {error} {remedy}", error.minibatch)


def explain_error(
    error: tf.errors.OpError, workdir: Path, config: TrainConfig, replicas: Replicas
) -> Exception | None:
    """What an error of TensorFlow means for the user; None if it is a defect of mtseg.

    Args:
        error: raised during training.
        workdir: folder of the run.
        config: its configuration.
        replicas: its devices.

    Returns:
        An `InputError` if a device's memory is too small, a `WorkerLostError` if another worker is
        lost, a `RuntimeError` if a device of this worker failed.
    """
    if isinstance(error, tf.errors.ResourceExhaustedError):
        size = replicas.per_replica_batch_size(config.global_batch_size)
        return InputError(
            f"{workdir}: the device's memory is too small for {size} samples. Close other programs "
            "that use it, share mini-batches among more devices (--strategy mirrored), or start "
            "over in another folder with a smaller --global-batch-size."
        )
    if config.strategy != "multiworker":
        return None
    is_internal = isinstance(error, tf.errors.InternalError)
    is_of_another = is_internal and _WORDS_OF_ANOTHER_WORKER.search(error.message)
    if is_of_another or isinstance(error, _LOST_WORKER):
        return WorkerLostError(
            f"{workdir}: another worker was lost ({type(error).__name__}). Rerun the command "
            "on every worker to resume from the last checkpoint."
        )
    if is_internal:
        return RuntimeError(
            f"{workdir}: a device of this worker failed: {error.message.splitlines()[0]}. Look at "
            "its driver, then rerun the command on every worker to resume from the last checkpoint."
        )
    return None
