"""What the benchmarks share: the command line, workers in other processes, and the last line.

Machines differ and are noisy, so a benchmark prints ratios: medians over pairs of measurements that
are made in turn in one run. Each measurement does the whole work again: it finds no finished
results, and both sides have paid before what a first use costs.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.evaluation.metrics import dice
from mtseg.system.devices import describe_devices
from mtseg.system.hardware import describe_machine, format_machine
from mtseg.system.quiet_tensorflow import import_tensorflow
from mtseg.tasks.label_table import LabelEntry
from mtseg.tasks.task import Task


def make_parser(docstring: str | None) -> argparse.ArgumentParser:
    """A parser with the first line of a script's docstring and the option `--json`."""
    parser = argparse.ArgumentParser(description=(docstring or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object as last line")
    return parser


def run_benchmark(main: Callable[[], None]) -> None:
    """Runs a benchmark; bad input ends it with one line, as in the commands.

    If a command that it starts fails, that command has printed why.
    """
    try:
        main()
    except InputError as error:
        raise SystemExit(f"error: {error}") from error
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"error: this command failed: {shlex.join(error.cmd)}") from error


def add_pairs_option(parser: argparse.ArgumentParser, default: int = 5) -> None:
    """Adds `--pairs`."""
    parser.add_argument(
        "--pairs", type=int, default=default, help="pairs of measurements (default: %(default)s)"
    )


def mtseg_command(name: str, *arguments: str) -> list[str]:
    """The command `mtseg-NAME` of the package that is imported here, to be run as a process."""
    code = f"import sys; from mtseg.cli.{name} import main; sys.exit(main())"
    return [sys.executable, "-c", code, *arguments]


def require_modules(names: Sequence[str], remedy: str, python: str = sys.executable) -> None:
    """Ends the benchmark with one line if a Python interpreter lacks a package.

    Args:
        names: of packages, as they are imported.
        remedy: what to do, a sentence.
        python: the interpreter.
    """
    code = (
        "import importlib.util, sys; "
        "print(*(name for name in sys.argv[1:] if importlib.util.find_spec(name) is None))"
    )
    try:
        done = subprocess.run([python, "-c", code, *names], capture_output=True, text=True)
    except OSError as error:
        raise SystemExit(f"error: {python} cannot be started. {remedy}") from error
    missing = done.stdout.split() if done.returncode == 0 else list(names)
    if missing:
        raise SystemExit(f"error: {python} does not have {', '.join(missing)}. {remedy}")


class Worker:
    """A process that waits until it is told to run, so that nothing else runs meanwhile.

    Args:
        command: a program that prints `ready`, then for each line that it reads the seconds that
            one run took (see `worker_loop.py`).
    """

    def __init__(self, *command: str) -> None:
        self._command = command
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        self._read("ready")

    def run(self, line: str = "run") -> float:
        """Seconds of one run."""
        self._in.write(line + "\n")
        self._in.flush()
        return float(self._read())

    def _read(self, expected: str = "") -> str:
        line = self._out.readline()
        if not line or (expected and line.strip() != expected):
            raise SystemExit(f"error: {' '.join(self._command)} failed: {line!r}")
        return line

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._in.close()
        self._process.wait()


def seconds_of(run: Callable[[], Any]) -> float:
    """Seconds that one call takes.

    Args:
        run: a function that returns when its results are in memory: on a GPU, TensorFlow's own
            functions return before.
    """
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def peak_growth_bytes(run: Callable[[], Any]) -> int:
    """Bytes that the memory of this process grows by at most during one call. Linux only."""
    before = _status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts at the memory held now
    run()
    return _status_bytes("VmHWM") - before


def _status_bytes(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])


def first_real_brain() -> Path | None:
    """The first brain scan in the folder that `MTSEG_REAL_DATA` names; None if it is not there."""
    path = Path(os.environ.get("MTSEG_REAL_DATA", "../shared/data"))
    scan = path / "brain_miccai2012" / "1000_SS.nii.gz"
    return scan if scan.is_file() else None


class MatrixProduct:
    """The product of two 4096 × 4096 matrices in TensorFlow: the rate that a machine can reach."""

    _SIZE = 4096

    def __init__(self, precision: str) -> None:
        import tensorflow as tf

        matrix = tf.cast(tf.random.normal((self._SIZE, self._SIZE)), precision)
        self._run = lambda: float(tf.cast(tf.matmul(matrix, matrix)[0, 0], tf.float32))
        self._run()

    def flop_per_s(self) -> float:
        """Floating-point operations per second, the median of five products."""
        return 2 * self._SIZE**3 / statistics.median(seconds_of(self._run) for _ in range(5))


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """The median over pairs of one measurement over another."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def mean_dice_of_task(
    reference: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.uint8],
    task: Task,
    table: Sequence[LabelEntry],
) -> float:
    """Mean Dice over a task's classes of labels that `mtseg predict` writes.

    Args:
        reference: the task's own class indices.
        labels: of the same shape, label values.
        task: the task.
        table: the label table of the model that gave the labels.
    """
    label_of = {entry.name: entry.label for entry in table}
    values = [
        dice(reference == index, labels == label_of[name])
        for index, name in enumerate(task.class_names)
        if index
    ]
    return float(np.mean([value for value in values if value is not None]))


def finish(
    name: str,
    ratios: Mapping[str, float | None],
    floor: Mapping[str, Any],
    runs: int,
    use_json: bool,
) -> None:
    """Prints the ratios and the machine, and with `--json` one JSON object as last line.

    Args:
        name: of the benchmark.
        ratios: the name says what is over what; larger is better for mtseg. None is undefined.
        floor: what limits the measurement: operations, bytes, the machine's own rates.
        runs: number of pairs whose median each ratio is, or of runs.
        use_json: whether to print the object `{"name", "ratios", "floor", "machine", "runs"}`.
    """
    for ratio, value in ratios.items():
        shown = "undefined" if value is None else f"{value:.3g}"
        print(f"{ratio}: {shown}" + (f" (median of {runs} pairs)" if runs > 1 else ""))
    import_tensorflow()  # the devices are its
    machine = describe_machine(describe_devices())
    print(format_machine(machine))
    if use_json:
        result = {"name": name, "ratios": dict(ratios), "floor": dict(floor), "machine": machine}
        print(json.dumps(result | {"runs": runs}))
