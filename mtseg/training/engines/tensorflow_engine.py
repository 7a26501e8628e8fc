"""The engine on TensorFlow: one device, all devices of a machine, or those of several machines.

It also evaluates whole volumes during a run. Look here for what TensorFlow's errors mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from mtseg.batches.balance import BalancedSamples
from mtseg.batches.pipeline import make_dataset
from mtseg.batches.placed_samples import PlacedSamples
from mtseg.errors import WorkerLostError
from mtseg.evaluation.held_out import HeldOut
from mtseg.provenance.fingerprint import Fingerprint
from mtseg.runs.config import TrainConfig
from mtseg.tasks.label_space import LabelSpace
from mtseg.training.callbacks import Callback
from mtseg.training.engines.engine import TENSORFLOW_STATE, explain_memory, require_own_state
from mtseg.training.engines.strategies import Replicas, configure_devices, make_replicas
from mtseg.training.engines.tensorflow_step import TrainingStep
from mtseg.training.reporting import Evaluator

_STATE = "state"
"""What the names of the files of a checkpoint begin with."""

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


class TensorFlowEngine:
    """A run on TensorFlow; see `mtseg.training.engines.engine.Engine`.

    Args:
        config: what to train.

    Raises:
        InputError: if the devices cannot compute the configuration, or there are no such.
    """

    scores_scans = True
    errors: tuple[type[Exception], ...] = (tf.errors.OpError,)

    def __init__(self, config: TrainConfig) -> None:
        configure_devices(config.is_deterministic, config.num_threads)
        self._config, self._replicas = config, make_replicas(config.strategy)
        self._replicas.check(config)
        self.is_chief = self._replicas.is_chief
        self._placed: PlacedSamples | None = None

    def build(self, label_space: LabelSpace) -> None:
        """Builds the network, the optimiser and the graph."""
        self._step = TrainingStep(self._config, label_space, self._replicas)
        self._seconds = tf.Variable(0.0, dtype=tf.float64)
        self._state = tf.train.Checkpoint(seconds=self._seconds, **self._step.state())

    @property
    def per_device_batch_size(self) -> int:
        """Number of samples of a mini-batch that each device computes."""
        return self._replicas.per_replica_batch_size(self._config.global_batch_size)

    def hold_volumes(self, samples: PlacedSamples) -> None:
        """Copies the volumes to each device, and has the patches cut there."""
        self._step.hold_volumes(samples.make_buffer())
        self._placed = samples

    @property
    def model(self) -> keras.Model:
        """The network with its present weights."""
        return self._step.model

    @property
    def seconds(self) -> float:
        """Time spent in training, kept in checkpoints."""
        return float(self._seconds.numpy())

    @seconds.setter
    def seconds(self, value: float) -> None:
        self._seconds.assign(value)

    def read_ahead(
        self, samples: BalancedSamples, calls: Sequence[tuple[int, int]]
    ) -> Iterator[Any]:
        """Yields the mini-batches of each call, divided among the replicas of this process."""
        size = self._config.global_batch_size
        source = self._placed or samples
        batches = self._replicas.distribute(
            lambda shares: make_dataset(source, size, calls, shares=shares), size
        )
        for _ in calls:
            yield next_call(batches, samples)

    def train(self, batches: Any, is_stopping: bool) -> tuple[npt.NDArray[np.float32], bool]:
        """Trains on the mini-batches of one call."""
        patches, score_index = batches
        losses, is_any_stopping = self._step(patches, score_index, is_stopping)
        return losses.numpy(), is_any_stopping

    def is_finite(self) -> bool:
        """Whether all weights, moving statistics and moments of the optimiser are finite."""
        return self._step.is_finite()

    def learning_rate(self) -> float:
        """The learning rate of the next mini-batch."""
        return float(tf.convert_to_tensor(self._step.optimizer.learning_rate))

    def set_learning_rate(self) -> None:
        """Gives a constant learning rate the configuration's value, in place of a checkpoint's."""
        self._step.set_learning_rate()

    def write_state(self, folder: Path) -> None:
        """Writes all that is needed to resume into a folder."""
        self._state.write(str(folder / _STATE))

    def read_state(self, folder: Path) -> None:
        """Reads what `write_state` wrote."""
        require_own_state(folder, TENSORFLOW_STATE)
        self._state.read(str(folder / _STATE)).assert_existing_objects_matched()

    def open_report(
        self,
        label_space: LabelSpace,
        workdir: Path,
        *,
        command: str,
        held_out: HeldOut,
        scored: Sequence[Fingerprint],
        logit_adjustment: npt.NDArray[np.float32],
        is_complete: bool,
        callbacks: Callback,
    ) -> Evaluator:
        """Opens what evaluates whole volumes."""
        return Evaluator(
            self._config,
            label_space,
            workdir,
            command=command,
            held_out=held_out,
            scored=scored,
            logit_adjustment=logit_adjustment,
            is_complete=is_complete,
            callbacks=callbacks,
        )

    def start_profile(self, folder: Path) -> None:
        """Starts to record what is computed, for TensorBoard's profiler."""
        tf.profiler.experimental.start(str(folder))

    def stop_profile(self) -> None:
        """Ends the recording and writes it."""
        tf.profiler.experimental.stop()

    def explain(self, error: Exception, workdir: Path) -> Exception | None:
        """What an error of TensorFlow means for the user; None if it is a defect of mtseg."""
        return explain_error(error, workdir, self._config, self._replicas)


def next_call(batches: Iterator[Any], samples: BalancedSamples) -> Any:
    """The mini-batches of the next call of the training step.

    TensorFlow hides the error of a damaged shard, so the samples remember it.

    Args:
        batches: from `mtseg.training.engines.strategies.Replicas.distribute`.
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
        return explain_memory(workdir, replicas.per_replica_batch_size(config.global_batch_size))
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
