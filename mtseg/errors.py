"""Errors that a user can do something about. Any other exception is a bug in mtseg.

Raise `InputError` wherever input, a file or a setting cannot be used; commands turn it into one
line and exit code 2.
"""

from __future__ import annotations

from typing import Literal

ErrorKind = Literal["", "empty", "split"]
"""What an `InputError` is about, if code has to tell it from others: a label map without any voxel
of the task's classes, or the split of a data set. Empty for all others."""


class InputError(ValueError):
    """A scan, label map, task file, flag or folder that cannot be used as it is.

    The message is one line for the user: it names the file, what is wrong and what to do. Commands
    print it without a traceback and exit with code 2.

    Args:
        message: the line, or what gives it as its text.
        kind: for code that has to tell errors apart, in place of searching the message.
            `mtseg-check` lists it with the issue (see `mtseg.sources.subject.Issue`).
    """

    def __init__(self, message: object = "", kind: ErrorKind = "") -> None:
        super().__init__(message)
        self.kind: ErrorKind = kind


class OtherRecordsError(InputError):
    """The records in a folder were prepared from other data or settings than those asked for."""


class DeviceMemoryError(InputError):
    """The memory of the device that computes is too small for a part of a scan.

    Another try with smaller parts may succeed.
    """


class WorkerLostError(RuntimeError):
    """Another machine of a training run has died, so this one cannot continue.

    Commands print the message, which says how to resume, and exit with code 3.
    """
