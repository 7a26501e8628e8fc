"""The commands. Each module has one `main`; TensorFlow is imported only when work begins."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from mtseg.errors import InputError, WorkerLostError
from mtseg.system.quiet_tensorflow import import_tensorflow

__all__ = [
    "BAD_INPUT",
    "DEFECT",
    "DONE",
    "INTERRUPTED",
    "SOME_FAILED",
    "command_line",
    "import_tensorflow",
    "positive",
    "print_error",
    "run",
]

DONE, DEFECT, BAD_INPUT, SOME_FAILED, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes of every command."""


def run(command: Callable[[list[str]], int], argv: list[str] | None) -> int:
    """Runs a command and turns bad input into one line and exit code 2.

    Args:
        command: takes the arguments, returns the exit code.
        argv: the arguments; None are the process's own.
    """
    with _guarded_output():
        try:
            return command(sys.argv[1:] if argv is None else argv)
        except InputError as error:
            print_error(error)
            return BAD_INPUT
        except WorkerLostError as error:
            print_error(error)
            return SOME_FAILED
        except KeyboardInterrupt:
            print("interrupted: rerun the command to resume.", file=sys.stderr)
            return INTERRUPTED


@contextlib.contextmanager
def _guarded_output() -> Iterator[None]:
    """Lets work go on to its end though nobody reads what it prints."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Output(sys.stdout), _Output(sys.stderr)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # One that was closed from the beginning stays silent.
        sys.stdout, sys.stderr = (
            now if there is None else there
            for there, now in zip(before, (sys.stdout, sys.stderr), strict=True)
        )


class _Output:
    """A stream that becomes silent when its reader is gone, or that is so from the beginning."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream or open(os.devnull, "w")  # noqa: SIM115

    def write(self, text: str) -> int:
        """Writes, as `io.TextIOBase` does."""
        try:
            return self._stream.write(text)
        except OSError:  # nobody reads, the terminal is gone, the disk is full
            self._silence()
            return len(text)

    def flush(self) -> None:
        """Flushes, as `io.IOBase` does."""
        try:
            self._stream.flush()
        except OSError:  # nobody reads, the terminal is gone, the disk is full
            self._silence()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _silence(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


def print_error(message: object) -> None:
    """Prints what is wrong, on one line, whatever is in a file's name."""
    print(f"error: {message}".replace("\n", "\\n"), file=sys.stderr)


def positive(text: str) -> int:
    """A whole number above 0, for argparse."""
    value = int(text)
    if value < 1:
        raise ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def command_line(name: str, arguments: list[str]) -> str:
    """The command line, quoted so that it can be typed again."""
    return shlex.join([name, *arguments])
