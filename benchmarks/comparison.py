"""What the benchmarks share: workers in other processes, the machine, the last line."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

from mtseg.system.hardware import describe_machine, format_machine


class Worker:
    """A process that waits until it is told to run, so that nothing else runs meanwhile."""

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._read("ready")

    def run(self, line: str = "run") -> float:
        """Seconds of one run."""
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return float(self._read())

    def _read(self, expected: str = "") -> str:
        line = self._process.stdout.readline()
        if not line or (expected and line.strip() != expected):
            raise SystemExit(f"{' '.join(self._process.args)} failed: {line!r}")
        return line

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait()


def seconds_of(run: Callable[[], Any]) -> float:
    """Seconds that one call takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


class MatrixProduct:
    """The product of two 4096 × 4096 matrices in TensorFlow: what the machine can do."""

    _SIZE = 4096

    def __init__(self, precision: str) -> None:
        import tensorflow as tf

        matrix = tf.cast(tf.random.normal((self._SIZE, self._SIZE)), precision)
        self._run = lambda: float(tf.cast(tf.matmul(matrix, matrix)[0, 0], tf.float32))
        self._run()

    def flop_per_s(self) -> float:
        """Operations a second, the median of five products."""
        return 2 * self._SIZE**3 / statistics.median(seconds_of(self._run) for _ in range(5))


def median_ratio(over: list[float], ours: list[float]) -> float:
    """Median over pairs."""
    return statistics.median(a / b for a, b in zip(over, ours, strict=True))


def finish(
    name: str, ratios: dict[str, float], floor: dict[str, Any], runs: int, is_json: bool
) -> None:
    """Prints the ratios and the machine, and with `--json` the line that other programs read."""
    for ratio, value in ratios.items():
        print(f"{ratio}: {value:.3g}" + (f" (median of {runs} pairs)" if runs > 1 else ""))
    of = describe_machine()
    print(format_machine(of))
    if is_json:
        result = {"name": name, "ratios": ratios, "floor": floor, "machine": of}
        print(json.dumps(result | {"runs": runs}))
