"""Processes: a function and many arguments come in, results leave as they are done.

Workers are forked from a process that has imported what they need (`mtseg.records.worker_imports`) and done no
more, so that no thread and no state of TensorFlow is copied into them. They end with this process,
even if it is killed.
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

Result = TypeVar("Result")


def num_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0))


def begin_workers() -> multiprocessing.context.ForkServerContext:
    """Begins to import what workers are forked with, while this process does other things.

    Raises:
        InputError: if the folder for temporary files is of no use.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mtseg.records.worker_imports"])
    try:
        forkserver.ensure_running()
    except OSError as error:
        raise InputError(
            f"{tempfile.gettempdir()}: no socket for worker processes can be made in this folder "
            f"for temporary files ({error}). Set TMPDIR to another, such as /tmp, or give "
            "--num-processes 1."
        ) from error
    return context


def run_all(
    function: Callable[..., Result], arguments: Iterable[Any], num_processes: int
) -> Iterator[Result]:
    """Calls a function for every argument, and yields results in the order of their completion.

    Args:
        function: of a module, so that workers can import it.
        arguments: of one call each.
        num_processes: at once; 1 calls it in this process.

    Raises:
        InputError: if a worker was killed, as for want of memory.
        Exception: what a call raises. Calls that have not begun are dropped.
    """
    arguments = list(arguments)
    if num_processes == 1 or len(arguments) < 2:
        yield from map(function, arguments)
        return
    context = begin_workers()
    try:
        pool = concurrent.futures.ProcessPoolExecutor(
            min(num_processes, len(arguments)), context, initializer=_begin_worker
        )
    except OSError as error:  # its locks are files in /dev/shm
        print(f"Without worker processes: they have no shared memory here ({error}).", flush=True)
        yield from map(function, arguments)
        return
    with pool:
        futures = [pool.submit(function, argument) for argument in arguments]
        try:
            for future in concurrent.futures.as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise InputError(
                "a worker process was killed, perhaps since memory ran out. Give fewer "
                "--num-processes; the same command goes on with what is left."
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def run_on_beam(
    function: Callable[[Any], Any], arguments: Iterable[Any], runner: str, options: Sequence[str]
) -> None:
    """Calls a function for every argument on the workers of an Apache Beam runner.

    Args:
        function: of a module, so that workers can import it.
        arguments: of one call each.
        runner: such as `DirectRunner` or `FlinkRunner`.
        options: of the runner, as on Beam's command line.

    Raises:
        InputError: if Beam is missing, the runner is unknown, or a call has raised one.
    """
    with make_pipeline(runner, options) as pipeline:
        import apache_beam as beam

        # Dealt out anew, or a runner would keep all of them with the worker that listed them.
        _ = pipeline | beam.Create(list(arguments)) | beam.Reshuffle() | beam.Map(function)


_DIRECT_RUNNER = "apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner"
"""What computes on this machine; Beam's own choice may download another."""


def make_pipeline(runner: str, options: Sequence[str]) -> Any:
    """An empty pipeline; see `run_on_beam`.

    Raises:
        InputError: if Beam is missing or the runner is unknown.
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
            f"runner {runner}: Apache Beam has none of this name ({error})."
        ) from error


def _begin_worker() -> None:
    """Leaves Ctrl-C to the first process, and ends when it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Not the parent that the system knows: that is the server, which waits for its workers' end.
    first = multiprocessing.parent_process()
    assert first is not None

    def watch() -> None:
        first.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
