"""What a run on JAX writes at an evaluation, without TensorFlow: weights to evaluate later.

A run on TensorFlow evaluates whole volumes whenever it writes weights. Here the weights are written
at the same mini-batches, with a note that they are not evaluated yet; mtseg-evaluate does the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt

from mtseg.runs.building import build_model
from mtseg.runs.config import TrainConfig
from mtseg.runs.unevaluated import have_last_weights, write_unevaluated
from mtseg.system.devices import describe_devices
from mtseg.system.signals import StopRequest
from mtseg.tasks.label_space import LabelSpace
from mtseg.training.failures import writing_run


class WeightsReport:
    """What a run on JAX writes; see `mtseg.training.engines.engine.Report`.

    Args:
        config: configuration of the run.
        label_space: its tasks and classes.
        workdir: its folder.
        command: the command line, stored for the evaluation.
        logit_adjustment: float32 (logits,), or of length 1 for all; added to the logits' bias.
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
        print(
            "Training with JAX: no scan is scored meanwhile. Evaluate the run afterwards: "
            f"mtseg-evaluate {workdir}",
            flush=True,
        )

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
