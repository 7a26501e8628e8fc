"""What a run on JAX writes, without TensorFlow: curves for TensorBoard, and weights to evaluate.

A run on TensorFlow evaluates whole volumes whenever it writes weights. Here the weights are written
at the same mini-batches, with a note that they are not evaluated yet; mtseg-evaluate does the rest.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from mtseg.runs.building import build_model
from mtseg.runs.config import TrainConfig
from mtseg.runs.unevaluated import have_last_weights, write_unevaluated
from mtseg.system.devices import describe_devices
from mtseg.system.signals import StopRequest
from mtseg.tasks.label_space import LabelSpace
from mtseg.training.failures import writing_run


class EventFile:
    """A file of TensorBoard's curves, as TensorFlow would write it.

    Args:
        folder: where it is; made if missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._path = folder / name
        self._append(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def write(self, step: int, *summaries: Any) -> None:
        """Writes summaries, such as `scalar_pb` makes them.

        Args:
            step: number of mini-batches done.
            *summaries: protocol buffers of the type Summary.
        """
        now = time.time()
        self._append(*(Event(wall_time=now, step=step, summary=each) for each in summaries))

    def _append(self, *events: Any) -> None:
        with self._path.open("ab") as file:
            for event in events:
                RecordWriter(file).write(event.SerializeToString())


class WeightsReport:
    """What a run on JAX writes; see `mtseg.training.engines.engine.Report`.

    Args:
        config: configuration of the run.
        label_space: its tasks and classes.
        workdir: its folder.
        command: the command line, stored for the evaluation.
        logit_adjustment: float32 (logits,), or of length 1 for all; added to the logits' bias.

    Raises:
        InputError: if the folder cannot be written.
    """

    def __init__(
        self,
        config: TrainConfig,
        label_space: LabelSpace,
        workdir: Path,
        *,
        command: str,
        logit_adjustment: npt.NDArray[np.float32],
    ) -> None:
        self._config, self._workdir, self._command = config, workdir, command
        self._logit_adjustment = logit_adjustment
        self._model = build_model(config, label_space)
        with writing_run(workdir):
            self._events = EventFile(workdir / "tensorboard")
        print(
            "Training with JAX: no scan is scored meanwhile. Evaluate the run afterwards: "
            f"mtseg-evaluate {workdir}",
            flush=True,
        )

    def write_text(self, name: str, text: str) -> None:
        """Writes a text for TensorBoard, at mini-batch 0."""
        with writing_run(self._workdir):
            self._events.write(0, text_pb(name, text))

    def write_figures(self, step: int, figures: Mapping[str, float]) -> None:
        """Writes a point of each curve for TensorBoard, at once."""
        with writing_run(self._workdir):
            self._events.write(step, *(scalar_pb(name, value) for name, value in figures.items()))

    def stored(self, step: int, *, is_last: bool) -> None:
        """None: the figures of an evaluation are not read here."""

    def evaluate(
        self,
        model: keras.Model,
        step: int,
        seconds: float,
        stop: StopRequest,
        *,
        is_last: bool,
        say: Callable[[str], None],
    ) -> None:
        """Writes the weights in float32 with the note, unless the folder has them already."""
        if not have_last_weights(self._workdir, step):
            self._model.set_weights(model.get_weights())
            bias = self._model.get_layer("logits").bias
            bias.assign(np.asarray(bias) + self._logit_adjustment)
            device = describe_devices(are_all=self._config.strategy != "default")
            with writing_run(self._workdir):
                write_unevaluated(self._workdir, self._model, step, seconds, self._command, device)
        if is_last:
            say(f"The last weights are written. Evaluate them: mtseg-evaluate {self._workdir}")
