"""mtseg's side of `train_on_gpu.py`, in its own process.

    step PRECISION N PER_CALL                   training steps on mini-batches of N on the device
    run DATA_DIR PRECISION N PER_CALL [INPUT]   a training run, with its --input

`KERAS_BACKEND` chooses the engine. `step` obeys lines as `worker_loop.serve` says; a run of `run K`
is K mini-batches. `run` prints one JSON object: samples per second, and the share of the time in
which it waited for input. With `MTSEG_NEEDS_GPU` in the environment a processor is refused.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping

import numpy as np
from worker_loop import repetitions, serve

from mtseg.runs.config import TrainConfig, configure
from mtseg.system.devices import choose_devices, describe_devices, uses_jax
from mtseg.system.quiet_tensorflow import import_tensorflow
from mtseg.tasks.label_space import parse_tasks
from mtseg.training.callbacks import Callback

TASKS = "brain:phantom,breast:phantom,cta:phantom"
"""Those of the paper's experiment 7."""

NEEDS_GPU = "MTSEG_NEEDS_GPU" in os.environ

WARM_UP, MEASURED = 10, 100 if NEEDS_GPU else 10
"""Calls of a run that are not measured, and those that are: ten seconds of a fast GPU."""


def start_device() -> None:
    """Starts the engine on one device, and refuses a processor where a GPU is wanted."""
    if not uses_jax():
        import_tensorflow()
    choose_devices("1" if NEEDS_GPU else "cpu")
    engine = "JAX" if uses_jax() else "TensorFlow"
    devices = describe_devices()
    if NEEDS_GPU and "GPU" not in devices:
        raise SystemExit(f"{engine} finds no GPU")
    print(f"{engine} computes on {devices}.", file=sys.stderr, flush=True)


def make_config(
    precision: str, num_samples: int, per_call: int, data_dir: str = "", input_: str | None = None
) -> TrainConfig:
    """The paper's configuration for all three tasks, with another precision."""
    return configure(
        "paper", TASKS, data_dir, precision=precision, global_batch_size=num_samples,
        steps_per_call=per_call, input=input_, checkpoint_every=10**6, evaluate_every=10**6,
    )  # fmt: skip


def make_steps(precision: str, num_samples: int, per_call: int) -> Callable[[str], None]:
    """Training steps of an engine on mini-batches in the device's memory."""
    from mtseg.scans.patches import PATCH_SIZE

    config = make_config(precision, num_samples, per_call)
    label_space = parse_tasks(config.tasks)
    rng = np.random.default_rng(0)
    patches = rng.random((per_call, num_samples, 3, PATCH_SIZE, PATCH_SIZE)).astype(np.float16)
    class_index = rng.integers(0, label_space.num_classes, (per_call, num_samples), np.int32)
    call: Callable[[], object]
    if uses_jax():
        import jax

        from mtseg.training.engines.jax_step import TrainingStep as JaxStep

        on_jax = JaxStep(config, label_space, jax.local_devices()[:1])
        moved = on_jax.move(patches, class_index)
        call = lambda: on_jax(*moved)  # noqa: E731
    else:
        import tensorflow as tf

        from mtseg.training.engines.strategies import make_replicas
        from mtseg.training.engines.tensorflow_step import TrainingStep

        on_tensorflow = TrainingStep(config, label_space, make_replicas("default"))
        tensors = tf.constant(patches), tf.constant(class_index)
        call = lambda: on_tensorflow(*tensors)[0].numpy()  # noqa: E731

    def run(line: str) -> None:
        for _ in range(max(1, repetitions(line) // per_call)):
            call()

    return run


class Enough(Exception):
    """Ends a run: enough is measured."""


class Meter(Callback):
    """Measures a run after its first calls, and ends it when enough are measured."""

    def __init__(self, num_samples: int, per_call: int) -> None:
        self._num_samples = num_samples
        self._from, self._to = WARM_UP * per_call, (WARM_UP + MEASURED) * per_call
        self._started = (0, 0.0)
        self._waited: list[float] = []
        self.result: dict[str, float] = {}

    def on_figures(self, step: int, figures: Mapping[str, float]) -> None:
        """Starts the clock, and ends the run with `Enough`."""
        if step < self._from:
            return
        if not self._started[0]:
            self._started = step, time.perf_counter()
            return
        self._waited.append(figures["share_waiting_for_input"])
        if step >= self._to:
            first, started = self._started
            samples = (step - first) * self._num_samples
            self.result = {
                "samples_per_s": samples / (time.perf_counter() - started),
                "share_waiting": float(np.mean(self._waited)),
            }
            raise Enough


def measure_run(
    data_dir: str, precision: str, num_samples: int, per_call: int, input_: str | None = None
) -> None:
    """Trains for a short while, and prints what `Meter` measured."""
    from mtseg.training.loop import train_and_evaluate

    meter = Meter(num_samples, per_call)
    config = make_config(precision, num_samples, per_call, data_dir, input_)
    with (
        tempfile.TemporaryDirectory() as workdir,
        contextlib.redirect_stdout(sys.stderr),
        contextlib.suppress(Enough),
    ):
        train_and_evaluate(config, workdir, callbacks=[meter])
    print(json.dumps(meter.result | {"input": config.input}))


def main() -> None:
    """Runs the worker."""
    kind, *arguments = sys.argv[1:]
    start_device()
    if kind == "step":
        precision, num_samples, per_call = arguments
        serve(lambda: make_steps(precision, int(num_samples), int(per_call)))
    else:
        data_dir, precision, num_samples, per_call, *rest = arguments
        measure_run(data_dir, precision, int(num_samples), int(per_call), *rest)


if __name__ == "__main__":
    main()
