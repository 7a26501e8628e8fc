"""The loop of a worker process that `comparison.Worker` starts. It needs Python's library alone."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable


def serve(make: Callable[[], Callable[[str], None]]) -> None:
    """Prints `ready` after a first run, then for each line of standard input the seconds of a run.

    Args:
        make: prepares what is measured and returns a function of a line, which returns when its
            results are computed. The line of the first run, which pays what a first use costs, is
            `first use`. What both print goes to standard error.
    """
    with contextlib.redirect_stdout(sys.stderr):
        run = make()
        run("first use")
        print("ready", file=sys.__stdout__, flush=True)
        for line in sys.stdin:
            started = time.perf_counter()
            run(line)
            print(time.perf_counter() - started, file=sys.__stdout__, flush=True)


def repetitions(line: str) -> int:
    """How often a line asks to repeat what is measured: the number in `run 100`, or else once."""
    numbers = [int(word) for word in line.split() if word.isdigit()]
    return numbers[0] if numbers else 1
