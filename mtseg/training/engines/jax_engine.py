"""The engine on JAX: one device, or all devices of a machine. It needs no TensorFlow.

It trains from volumes. Whole volumes are not evaluated during a run, because TensorFlow computes
them: mtseg-evaluate does it afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import keras
import numpy as np
import numpy.typing as npt

from mtseg.batches.balance import BalancedSamples
from mtseg.batches.pipeline import read_ahead
from mtseg.batches.placed_samples import PlacedSamples
from mtseg.errors import InputError
from mtseg.evaluation.held_out import HeldOut
from mtseg.provenance.fingerprint import Fingerprint
from mtseg.runs.config import TrainConfig
from mtseg.system.hardware import num_cores
from mtseg.tasks.label_space import LabelSpace
from mtseg.training.callbacks import Callback
from mtseg.training.engines.engine import (
    JAX_STATE,
    explain_memory,
    require_own_state,
    share_equally,
)
from mtseg.training.engines.jax_report import WeightsReport
from mtseg.training.engines.jax_step import TrainingStep

_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
"""For XLA, which reads it when it starts."""


class JaxEngine:
    """A run on JAX; see `mtseg.training.engines.engine.Engine`.

    Args:
        config: what to train.

    Raises:
        InputError: if the configuration can only be computed by TensorFlow, or not by these
            devices.
    """

    is_chief, scores_scans = True, False
    errors: tuple[type[Exception], ...] = (jax.errors.JaxRuntimeError,)

    def __init__(self, config: TrainConfig) -> None:
        check_config(config)
        self._config, self.seconds = config, 0.0
        flags = os.environ.get("XLA_FLAGS", "")
        if config.is_deterministic and _DETERMINISTIC not in flags:
            os.environ["XLA_FLAGS"] = f"{flags} {_DETERMINISTIC}".strip()
        devices = jax.local_devices()
        self._devices = devices if config.strategy == "mirrored" else devices[:1]
        self.per_device_batch_size = share_equally(config.global_batch_size, len(self._devices))
        self._placed: PlacedSamples | None = None

    def build(self, label_space: LabelSpace) -> None:
        """Builds the network and the optimiser."""
        self._step = TrainingStep(self._config, label_space, self._devices)

    def hold_volumes(self, samples: PlacedSamples) -> None:
        """Copies the volumes to each device, and has the patches cut there."""
        self._step.hold_volumes(samples.make_buffer())
        self._placed = samples

    @property
    def model(self) -> keras.Model:
        """The network with its present weights."""
        self._step.variables()
        return self._step.model

    def read_ahead(
        self, samples: BalancedSamples, calls: Sequence[tuple[int, int]]
    ) -> Iterator[Any]:
        """Yields the mini-batches of each call, on the devices."""
        source = self._placed or samples
        return read_ahead(source, self._config.global_batch_size, calls, self._step.move)

    def train(self, batches: Any, is_stopping: bool) -> tuple[npt.NDArray[np.float32], bool]:
        """Trains on the mini-batches of one call."""
        return self._step(*batches), is_stopping

    def is_finite(self) -> bool:
        """Whether all weights, moving statistics and moments of the optimiser are finite."""
        return all(
            bool(np.isfinite(np.asarray(variable)).all()) for variable in self._variables().values()
        )

    def learning_rate(self) -> float:
        """The learning rate of the next mini-batch."""
        return self._step.learning_rate()

    def set_learning_rate(self) -> None:
        """Gives a constant learning rate the configuration's value, in place of a checkpoint's."""
        self._step.set_learning_rate()

    def write_state(self, folder: Path) -> None:
        """Writes all that is needed to resume into a folder."""
        arrays: dict[str, Any] = {"seconds": np.float64(self.seconds)}
        for name, variable in self._variables().items():
            arrays[name] = np.asarray(variable)
        np.savez(folder / JAX_STATE, **arrays)

    def read_state(self, folder: Path) -> None:
        """Reads what `write_state` wrote."""
        require_own_state(folder, JAX_STATE)
        with np.load(folder / JAX_STATE, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}  # this verifies their checksums
        seconds, variables = float(arrays.pop("seconds")), self._variables()
        there = {name: array.shape for name, array in arrays.items()}
        if there != {name: tuple(variable.shape) for name, variable in variables.items()}:
            raise ValueError(f"{folder / JAX_STATE}: is of another network.")
        for name, variable in variables.items():
            variable.assign(arrays[name])
        self.seconds = seconds

    def _variables(self) -> dict[str, Any]:
        """Keras's variables with their present values, by their names in a checkpoint."""
        return {
            f"{name}/{number}": variable
            for name, group in self._step.variables()._asdict().items()
            for number, variable in enumerate(group)
        }

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
    ) -> WeightsReport:
        """Opens what writes the weights."""
        return WeightsReport(
            self._config, label_space, workdir, command=command, logit_adjustment=logit_adjustment
        )

    def start_profile(self, folder: Path) -> None:
        """Starts to record what is computed, for TensorBoard's profiler."""
        jax.profiler.start_trace(str(folder))

    def stop_profile(self) -> None:
        """Ends the recording and writes it."""
        jax.profiler.stop_trace()

    def explain(self, error: Exception, workdir: Path) -> Exception | None:
        """What an error of XLA means for the user; None if it is a defect of mtseg."""
        if "RESOURCE_EXHAUSTED" in str(error):
            return explain_memory(workdir, self.per_device_batch_size)
        return None


def check_config(config: TrainConfig) -> None:
    """Refuses a configuration that only TensorFlow can compute.

    Raises:
        InputError: if it is one; the message names the setting.
    """
    remedy = "or train on TensorFlow, without KERAS_BACKEND=jax."
    if config.records != "volumes":
        raise InputError(f"input: JAX trains from volumes. Leave out --input, {remedy}")
    if config.strategy == "multiworker":
        raise InputError(
            "strategy: JAX trains on the devices of one machine. Give --strategy mirrored for all "
            f"of them, {remedy}"
        )
    if config.precision not in ("float32", "mixed_bfloat16"):
        raise InputError(
            f"precision: JAX trains in float32 or mixed_bfloat16, not {config.precision}. Give "
            f"one of these, {remedy}"
        )
    if config.num_threads not in (0, num_cores()):
        raise InputError(
            f"num_threads: JAX uses all processor cores that it may, here {num_cores()}. Leave "
            f"out --num-threads and limit them with taskset, {remedy}"
        )
