"""The commands. Each module has one `main`; TensorFlow is imported only when work begins."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable

from mtseg.errors import InputError, WorkerLostError

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
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except WorkerLostError as error:
        print(f"error: {error}", file=sys.stderr)
        return SOME_FAILED
    except KeyboardInterrupt:
        print("interrupted: the same command again goes on from here.", file=sys.stderr)
        return INTERRUPTED


def import_tensorflow() -> None:
    """Imports TensorFlow without its start-up notes, which would bury what the command says.

    They are written by native code before any log level is looked at, so the standard error
    stream itself is closed to them for that moment. Errors still arrive as exceptions. A
    `TF_CPP_MIN_LOG_LEVEL` of one's own shows them.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        import tensorflow as tf
        from absl import logging

        tf.config.list_physical_devices()
        logging.set_verbosity(logging.ERROR)
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def command_line(name: str, arguments: list[str]) -> str:
    """The command as a person would type it again."""
    return shlex.join([name, *arguments])
