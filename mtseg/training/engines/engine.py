"""What the training loop asks of an engine, and the choice of one.

The loop decides what is trained, saved and evaluated, and when. An engine knows how: its devices,
the training step, reading mini-batches ahead, the file of a checkpoint, and what its errors mean.
Read this before you change `mtseg.training.loop` or write another engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import numpy.typing as npt

from mtseg.batches.balance import BalancedSamples
from mtseg.batches.placed_samples import PlacedSamples
from mtseg.errors import InputError
from mtseg.evaluation.held_out import HeldOut
from mtseg.evaluation.results import Evaluation
from mtseg.provenance.fingerprint import Fingerprint
from mtseg.runs.config import TrainConfig
from mtseg.system.signals import StopRequest
from mtseg.tasks.label_space import LabelSpace
from mtseg.training.callbacks import Callback

TENSORFLOW_STATE, JAX_STATE = "state.index", "state.npz"
"""A file that each checkpoint of an engine has."""


class Report(Protocol):
    """What a run writes when an evaluation is due, in its first process."""

    def stored(self, step: int, *, is_last: bool) -> Evaluation | None:
        """The evaluation after so many mini-batches, if the folder has all that is wanted of it."""

    def evaluate(
        self,
        model: keras.Model,
        step: int,
        seconds: float,
        stop: StopRequest,
        *,
        is_last: bool,
        say: Callable[[str], None],
    ) -> Evaluation | None:
        """Writes the weights of the network, and evaluates it if the engine can.

        Args:
            model: the network in training.
            step: number of mini-batches done.
            seconds: time spent in training up to here.
            stop: checked after every scan.
            is_last: whether this is the end of the run.
            say: prints a line.

        Raises:
            InputError: if the folder of the run cannot be written.
            mtseg.system.signals.Stopped: if the run was asked to stop; nothing of the evaluation is
                kept.
        """


class Engine(Protocol):
    """The devices of a run, and all that differs between TensorFlow and JAX.

    An engine is opened with a configuration, which it refuses if it cannot compute it. `build`
    comes next; what follows needs the network.

    Attributes:
        is_chief: whether this process prints, and writes to the folder of the run.
        scores_scans: whether whole volumes are scored during a run.
        per_device_batch_size: number of samples of a mini-batch that each device computes.
        errors: the exceptions that `explain` knows, also those of a disk that is full.
        seconds: time spent in training, kept in checkpoints.
    """

    is_chief: bool
    scores_scans: bool
    errors: tuple[type[Exception], ...]
    seconds: float

    @property
    def per_device_batch_size(self) -> int: ...

    def build(self, label_space: LabelSpace) -> None:
        """Builds the network and the optimiser of the run for the tasks of a label space."""

    def hold_volumes(self, samples: PlacedSamples) -> None:
        """Copies the volumes to each device, and has the patches cut there from now on.

        Without this, `read_ahead` reads patches that the host cuts.
        """

    @property
    def model(self) -> keras.Model:
        """The network with its present weights. They may be changed between calls of `train`."""

    def read_ahead(
        self, samples: BalancedSamples, calls: Sequence[tuple[int, int]]
    ) -> Iterator[Any]:
        """Yields what `train` takes, one call after the other, read and moved ahead of need.

        Args:
            samples: the samples of all tasks.
            calls: `(start, stop)` of each call: the mini-batches start, …, stop - 1.

        Raises:
            InputError: if a shard cannot be read.
        """

    def train(self, batches: Any, is_stopping: bool) -> tuple[npt.NDArray[np.float32], bool]:
        """Trains on the mini-batches of one call.

        Args:
            batches: from `read_ahead`.
            is_stopping: whether this process has been asked to stop.

        Returns:
            The mean cross-entropy of each mini-batch, float32 (mini-batches,), and whether any of
            the processes of the run has been asked to stop.
        """

    def is_finite(self) -> bool:
        """Whether all weights, moving statistics and moments of the optimiser are finite."""

    def learning_rate(self) -> float:
        """The learning rate of the next mini-batch."""

    def set_learning_rate(self) -> None:
        """Gives a constant learning rate the configuration's value, in place of a checkpoint's."""

    def write_state(self, folder: Path) -> None:
        """Writes all that is needed to resume into a folder."""

    def read_state(self, folder: Path) -> None:
        """Reads what `write_state` wrote.

        Raises:
            InputError: if another engine wrote it.
            Exception: of any kind, if it is damaged.
        """

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
    ) -> Report:
        """Opens what the first process writes.

        Args:
            label_space: the tasks and classes.
            workdir: folder of the run.
            command: the command line, stored with figures.
            held_out: which scans the run scores.
            scored: fingerprints of their volumes, read before the run read any records.
            logit_adjustment: float32 (logits,), or of length 1 for all; added to the logits' bias
                of the network that is evaluated and written.
            is_complete: whether the last evaluation also measures surfaces and volumes, and keeps
                the label maps.
            callbacks: called with each evaluation, if the engine scores scans.
        """

    def start_profile(self, folder: Path) -> None:
        """Starts to record what is computed, for TensorBoard's profiler."""

    def stop_profile(self) -> None:
        """Ends the recording and writes it."""

    def explain(self, error: Exception, workdir: Path) -> Exception | None:
        """What an exception of `errors` means for the user; None if it is a defect of mtseg.

        Args:
            error: raised during training.
            workdir: folder of the run.
        """


def open_engine(config: TrainConfig) -> Engine:
    """Opens the engine that Keras was started with: TensorFlow, or JAX.

    Args:
        config: what to train.

    Raises:
        InputError: if Keras has another backend, or the engine cannot compute the configuration.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        from mtseg.training.engines.jax_engine import JaxEngine

        return JaxEngine(config)
    if backend != "tensorflow":
        raise InputError(
            f"KERAS_BACKEND: mtseg trains on tensorflow or jax, not {backend}. Set one of these."
        )
    from mtseg.training.engines.tensorflow_engine import TensorFlowEngine

    return TensorFlowEngine(config)


def require_own_state(folder: Path, own: str) -> None:
    """Refuses a checkpoint that the other engine wrote.

    Args:
        folder: the checkpoint.
        own: `TENSORFLOW_STATE` or `JAX_STATE`.

    Raises:
        InputError: if it is of the other engine.
    """
    engine, other, remedy = {
        JAX_STATE: ("TensorFlow", TENSORFLOW_STATE, "without KERAS_BACKEND=jax"),
        TENSORFLOW_STATE: ("JAX", JAX_STATE, "with KERAS_BACKEND=jax"),
    }[own]
    if (folder / other).is_file() and not (folder / own).is_file():
        raise InputError(
            f"{folder}: is a checkpoint of training on {engine}. Rerun the command {remedy} to "
            "resume, or use another folder for a run of its own."
        )


def share_equally(global_batch_size: int, num_devices: int) -> int:
    """Number of samples of a mini-batch that each device computes.

    Raises:
        InputError: if the mini-batch cannot be divided equally.
    """
    size, rest = divmod(global_batch_size, num_devices)
    if rest:
        fewer = range(1, num_devices)
        divisors = [str(n) for n in fewer if global_batch_size % n == 0]
        raise InputError(
            f"global_batch_size: {global_batch_size} samples cannot be shared equally by "
            f"{num_devices} devices. Use {', '.join(divisors)} of them "
            f"(mtseg-train --devices {divisors[-1]}), or give --global-batch-size a multiple "
            f"of {num_devices}."
        )
    return size


def explain_memory(workdir: Path, num_samples: int) -> InputError:
    """The error of a device whose memory is too small for its share of a mini-batch."""
    return InputError(
        f"{workdir}: the device's memory is too small for {num_samples} samples. Close other "
        "programs that use it, share mini-batches among more devices (--strategy mirrored), or "
        "start over in another folder with a smaller --global-batch-size."
    )
