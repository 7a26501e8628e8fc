"""Exceptions that are not defects of mtseg: bad input, and a lost worker."""

from __future__ import annotations


class InputError(ValueError):
    """A scan, label map, task file, flag or folder that cannot be used as it is.

    The message is one line for the user: it names the file, what is wrong and what to do. Commands
    print it without a traceback and exit with code 2.

    Args:
        message: the line.
        kind: what is wrong, in one word, for code that has to tell errors apart. `mtseg-check`
            lists it with each issue (see `mtseg.sources.subject.Issue`). Empty if nobody asks.
    """

    def __init__(self, message: object = "", kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


class WorkerLostError(RuntimeError):
    """Another machine of a training run has died, so this one cannot continue.

    Commands print the message, which says how to resume, and exit with code 3.
    """
