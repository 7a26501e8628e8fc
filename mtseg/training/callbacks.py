"""Callbacks: code of yours that is called while a run trains, to log, to plot, or to warn.

Derive a class from `Callback`, define the events that you need, and pass an instance to
`mtseg.train`. `mtseg.training.tensorboard.TensorBoard`, which every run has, is such a class.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mtseg.evaluation.results import Evaluation
from mtseg.runs.config import TrainConfig
from mtseg.tasks.label_space import LabelSpace


@dataclasses.dataclass(frozen=True)
class RunStart:
    """What is known of a run when it starts or resumes.

    Attributes:
        config: its configuration. `curves_on` is `test` or `validation`, no longer `auto`.
        label_space: its tasks and classes.
        workdir: its folder.
        step: number of mini-batches that are done: 0, or those of the checkpoint that it resumes.
        num_steps: number of mini-batches of the whole run, of all tasks together.
    """

    config: TrainConfig
    label_space: LabelSpace
    workdir: Path
    step: int
    num_steps: int


class Callback:
    """The events of a run. Each does nothing here.

    They come in this order: `on_start`, then `on_figures` many times with `on_evaluation` in
    between, then `on_end`. A step is a mini-batch, of all tasks together, and steps are counted
    from the start of the run, also in a run that was resumed. With several machines, the events
    are those of the first one.

    What a callback raises ends the run as it is, and no further event follows. Rerun it to resume
    from its last checkpoint. The events since that checkpoint then come again.

    Example:
        >>> class PrintLoss(Callback):
        ...     def on_figures(self, step, figures):
        ...         print(f"{step}: {figures['loss']:.2f}")
        >>> PrintLoss().on_figures(10, {"loss": 1.5})
        10: 1.50
    """

    def on_start(self, run: RunStart) -> None:
        """Called once, when the run starts or resumes, before any mini-batch."""

    def on_figures(self, step: int, figures: Mapping[str, float]) -> None:
        """Called every ten steps or so, and at each checkpoint and before each evaluation.

        Args:
            step: number of mini-batches done.
            figures: figures by name. `loss` is the mean cross-entropy in nats of the mini-batches
                since the last call, `learning_rate` that of the next mini-batch. Not in the first
                call, if nothing but the compilation was timed: `samples_per_second`, over all
                devices, and `share_waiting_for_input`, from 0 to 1.
        """

    def on_evaluation(
        self, step: int, evaluation: Evaluation, pictures: Mapping[str, npt.NDArray[np.uint8]]
    ) -> None:
        """Called when scans have been scored, before the figures are written to the folder.

        Training on JAX scores no scans, so it is not called there.

        Args:
            step: number of mini-batches done.
            evaluation: the figures of each scan; `evaluation.split` says which scans these are.
                With validation scans, the run ends with two calls: for these and for test scans.
            pictures: task -> the first scan of the task, its reference and its segmentation side by
                side, uint8 RGB (rows, columns, 3).
        """

    def on_end(self, step: int) -> None:
        """Called once, after the last evaluation, or when the run was stopped and is saved.

        Args:
            step: number of mini-batches done; fewer than `RunStart.num_steps` if it was stopped.
        """


class Callbacks(Callback):
    """Several callbacks as one, called in their order.

    Args:
        callbacks: these.

    Attributes:
        error: what one of them raised; None if none did.
    """

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = tuple(callbacks)
        self.error: Exception | None = None

    def on_start(self, run: RunStart) -> None:
        """Calls `on_start` of each."""
        self._call("on_start", run)

    def on_figures(self, step: int, figures: Mapping[str, float]) -> None:
        """Calls `on_figures` of each."""
        self._call("on_figures", step, figures)

    def on_evaluation(
        self, step: int, evaluation: Evaluation, pictures: Mapping[str, npt.NDArray[np.uint8]]
    ) -> None:
        """Calls `on_evaluation` of each."""
        self._call("on_evaluation", step, evaluation, pictures)

    def on_end(self, step: int) -> None:
        """Calls `on_end` of each."""
        self._call("on_end", step)

    def _call(self, event: str, *arguments: Any) -> None:
        try:
            for callback in self._callbacks:
                getattr(callback, event)(*arguments)
        except Exception as error:
            self.error = error
            raise
