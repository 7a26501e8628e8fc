"""The commands. Each module has one `main`; TensorFlow is imported only when work begins."""

from __future__ import annotations

import shlex
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable

from mtseg.errors import InputError, WorkerLostError
from mtseg.startup import import_tensorflow

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
    try:
        return command(sys.argv[1:] if argv is None else argv)
    except InputError as error:
        print_error(error)
        return BAD_INPUT
    except WorkerLostError as error:
        print_error(error)
        return SOME_FAILED
    except KeyboardInterrupt:
        print("interrupted: the same command again goes on from here.", file=sys.stderr)
        return INTERRUPTED


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
    """The command as a person would type it again."""
    return shlex.join([name, *arguments])
