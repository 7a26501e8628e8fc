"""The page's side of the process that computes (`mtseg.viewer.worker`)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mtseg.errors import InputError

OnEvent = Callable[[dict[str, Any]], None]

_BEGIN = (
    # An empty entry means the working folder, which will be that of a scan.
    "import sys; sys.path[:] = [entry for entry in sys.path if entry]; "
    "from mtseg.viewer.worker import main; main()"
)


class Cancelled(Exception):
    """Raised where a computation was ended by `Computer.stop`."""


class Computer:
    """Computes in a process of its own, which can be ended and begins anew with the next order.

    Args:
        settings: `model`, as `mtseg.models.loading.load` takes it, `devices`, as `--devices` takes
            them, and `task`, which the model must have; None is any.
        folder: where the process works until it has an order; an empty folder.
    """

    def __init__(self, settings: Mapping[str, Any], folder: Path) -> None:
        self._settings, self._folder = dict(settings), folder
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._is_stopped = self._is_read = False

    def begin(self, on_event: OnEvent) -> None:
        """Starts the process if there is none, and waits until its model is loaded.

        Args:
            on_event: called with each event, a dictionary with `event`.

        Raises:
            InputError: if the model cannot be loaded.
            Cancelled: if `stop` was called meanwhile.
        """
        with self._lock:
            self._is_stopped = False
            if self._process is not None and self._process.poll() is None:
                return
            entries = [os.path.abspath(entry) for entry in sys.path if entry]
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BEGIN, json.dumps(self._settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                cwd=self._folder,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(entries)},
                start_new_session=True,  # Ctrl-C is for the page
            )
        for event in self._events():
            if event["event"] == "refused":
                raise InputError(event["message"])
            if event["event"] == "ready":
                return
            on_event(event)

    def run(self, order: Mapping[str, Any], on_event: OnEvent) -> dict[str, Any]:
        """Has an order carried out.

        Args:
            order: for `mtseg.viewer.worker.Worker.obey`.
            on_event: called with each event on the way.

        Returns:
            The result.

        Raises:
            InputError: if it could not be done, or the process ended.
            Cancelled: if `stop` was called meanwhile.
        """
        self.begin(on_event)
        process = self._process
        # If it has ended, or was ended, `_events` says so.
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.write(json.dumps(dict(order)) + "\n")
                process.stdin.flush()
        for event in self._events():
            if event["event"] == "failed":
                raise InputError(event["message"])
            if event["event"] == "done":
                result: dict[str, Any] = event["result"]
                return result
            on_event(event)
        raise AssertionError("the events of a process end with an error")

    def stop(self) -> None:
        """Ends the process at once, whatever it computes."""
        with self._lock:
            self._is_stopped = True
            process, self._process = self._process, None
            is_read = self._is_read
        if process is not None:
            # With the processes that it may have started, which would hold its pipes open.
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not is_read:
                _close(process)

    def _events(self) -> Iterator[dict[str, Any]]:
        """The events of the process as they come.

        Raises:
            InputError: when the process has ended, with what is likely the reason.
            Cancelled: if `stop` ended it.
        """
        with self._lock:
            process, self._is_read = self._process, True
        try:
            if process is not None and process.stdout is not None:
                for line in process.stdout:
                    if not line.endswith("\n"):
                        break  # it ended in the middle of a long line
                    yield json.loads(line)
                process.wait()
                _close(process)
            with self._lock:
                if self._is_stopped:
                    raise Cancelled
        finally:
            with self._lock:
                self._is_read = False
        raise InputError(
            "the computation ended unexpectedly, perhaps because the memory ran out. Close other "
            "programs and try again, or use a smaller scan."
        )


def _close(process: subprocess.Popen[str]) -> None:
    """Closes the pipes of a process that has ended."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
