"""One function called for many arguments, on all cores or on a cluster by Apache Beam.

Worker processes are forked from a server process that has only imported modules, so they copy no
thread and no state of TensorFlow. They end with this process, even if it is killed.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing.context
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from typing import Any, TypeVar

from mtseg.errors import InputError

Argument = TypeVar("Argument")
Result = TypeVar("Result")


def begin_workers(preload: str) -> multiprocessing.context.ForkServerContext:
    """Starts the server process that workers are forked from; it imports in the background.

    Args:
        preload: the module that it imports, once for all workers.

    Raises:
        InputError: if no socket can be made in the folder for temporary files.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    try:
        forkserver.ensure_running()
    except OSError as error:
        raise InputError(
            f"{tempfile.gettempdir()}: worker processes need a socket in this folder for temporary "
            f"files, and it cannot be made ({error}). Set TMPDIR to another folder, such as /tmp, "
            "or give mtseg-prepare and mtseg-check --num-processes 1."
        ) from error
    return context


def run_all(
    function: Callable[[Argument], Result],
    arguments: Iterable[Argument],
    num_processes: int,
    preload: str,
) -> Iterator[Result]:
    """Calls a function for each argument and yields the results as they are completed.

    Args:
        function: a module's own function, so that workers can import it.
        arguments: one per call.
        num_processes: how many calls run at once; 1 runs them in this process.
        preload: as for `begin_workers`.

    Raises:
        InputError: if a worker was killed, for example because memory ran out.
        Exception: what a call raises. Calls that have not begun are then cancelled.
    """
    arguments = list(arguments)
    if num_processes == 1 or len(arguments) < 2:
        yield from map(function, arguments)
        return
    context = begin_workers(preload)
    try:
        pool = concurrent.futures.ProcessPoolExecutor(
            min(num_processes, len(arguments)), context, initializer=_begin_worker
        )
    except OSError as error:  # its locks are files in /dev/shm
        print(f"Works in one process: shared memory is not available ({error}).", flush=True)
        yield from map(function, arguments)
        return
    with pool:
        try:
            # A worker may be killed before all calls have been submitted.
            futures = [pool.submit(function, argument) for argument in arguments]
            for future in concurrent.futures.as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise InputError(
                "a worker process was killed, perhaps because memory ran out. Rerun the command "
                "to resume, with fewer processes if it has the option --num-processes."
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def run_on_beam(
    function: Callable[[Any], Any], arguments: Iterable[Any], runner: str, options: Sequence[str]
) -> None:
    """Calls a function for each argument on the workers of an Apache Beam runner.

    Args:
        function: a module's own function, so that workers can import it.
        arguments: one per call.
        runner: such as `DirectRunner` or `FlinkRunner`.
        options: options of the runner, as on Beam's command line.

    Raises:
        InputError: if Beam is not installed, the runner is unknown, or a call raises it.
    """
    with make_pipeline(runner, options) as pipeline:
        import apache_beam as beam

        # Without the reshuffle, a runner would give all of them to the worker that listed them.
        _ = pipeline | beam.Create(list(arguments)) | beam.Reshuffle() | beam.Map(function)


_DIRECT_RUNNER = "apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner"
"""The runner for this machine. Beam's own choice for `DirectRunner` may download a program."""


def make_pipeline(runner: str, options: Sequence[str]) -> Any:
    """An empty Beam pipeline; arguments as for `run_on_beam`.

    Raises:
        InputError: if Beam is not installed or the runner is unknown.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise InputError(
            f"runner {runner}: needs Apache Beam. Install it: pip install 'mtseg[beam]'"
        ) from error
    path = _DIRECT_RUNNER if runner == "DirectRunner" else runner
    try:
        return beam.Pipeline(options=PipelineOptions([f"--runner={path}", *options]))
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"runner {runner}: Apache Beam does not know it ({error}). Give a name such as "
            "DirectRunner or FlinkRunner."
        ) from error


def _begin_worker() -> None:
    """Leaves Ctrl-C to the first process, and ends when that process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Not the operating system's parent: that is the server, which waits for its workers to end.
    first = multiprocessing.parent_process()
    assert first is not None

    def watch() -> None:
        first.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
