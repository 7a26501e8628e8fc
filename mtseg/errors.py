"""The exceptions that are no defect of mtseg: wrong input, and a lost worker."""

from __future__ import annotations


class InputError(ValueError):
    """A scan, label map, task file, flag or folder that cannot be used as it is.

    The message is a single line for the person at the keyboard: it names the file, what is
    wrong with it and what to do. Commands print it without a traceback and exit with code 2.
    """


class WorkerLostError(RuntimeError):
    """Another machine of a run has died, so this one cannot go on.

    Commands print the message, which says how the run goes on, and exit with code 3.
    """
