"""A recording of a few training steps for TensorBoard's profiler, for `mtseg-train --profile`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mtseg.training.engines.engine import Engine
from mtseg.training.tensorboard import FOLDER

_CALLS = range(5, 10)
"""The calls of the training step that are recorded, counted from the start or resume."""


class Profiler:
    """Records a few calls of the training step for TensorBoard.

    As a context it ends the recording also if the run is stopped or fails meanwhile.

    Args:
        engine: what computes; its first process alone is recorded.
        workdir: folder of the run.
        num_calls: number of calls that are left of the run. One that ends earlier is recorded to
            its end.
        is_on: whether to record anything.
        say: prints a line; says so if too few calls are left.
    """

    def __init__(
        self,
        engine: Engine,
        workdir: Path,
        num_calls: int,
        is_on: bool,
        say: Callable[[str], None],
    ) -> None:
        self._engine, self._folder = engine, workdir / FOLDER
        is_on = is_on and engine.is_chief
        self._calls = _CALLS[: max(num_calls - _CALLS.start, 0) if is_on else 0]
        self._is_recording = False
        if is_on and not self._calls:
            say(
                f"No profile is recorded: {num_calls} calls of the training step are left, and the "
                f"first {_CALLS.start} are left out."
            )

    def before(self, number: int) -> None:
        """Starts the recording if the call of this number is the first one to record."""
        if self._calls and number == self._calls[0]:
            self._engine.start_profile(self._folder)
            self._is_recording = True

    def after(self, number: int) -> None:
        """Stops the recording if the call of this number is the last one to record."""
        if self._calls and number == self._calls[-1]:
            self._stop()

    def _stop(self) -> None:
        self._is_recording = False
        self._engine.stop_profile()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        if self._is_recording:
            self._stop()
