"""How much a spool may have, beside the bytes that the user allows."""

from __future__ import annotations

import os
from pathlib import Path

MOST_OBJECTS = 20_000
"""Of one series. To read the headers of more would take minutes and gigabytes."""

MOST_SERIES = 10_000
"""In one state. All of them are listed again and again."""

BLOCK_BYTES = 4096
"""A file that is not empty takes at least so much of a disk."""


class SpoolFullError(Exception):
    """There is no room for an object, for now."""


class ObjectCount:
    """How many objects the folder of a series has, of the folder that was asked for last."""

    def __init__(self) -> None:
        self._folder, self._count = Path(), 0

    def add(self, folder: Path) -> None:
        """Counts an object that is put into a folder.

        Raises:
            SpoolFullError: if it has `MOST_OBJECTS` already.
        """
        if folder != self._folder:
            self._folder, self._count = folder, len(os.listdir(folder))
        if self._count >= MOST_OBJECTS:
            raise SpoolFullError(f"a series has more than {MOST_OBJECTS} objects")
        self._count += 1

    def forget(self) -> None:
        """Counts anew the next time, because a folder is new."""
        self._folder = Path()


def require_few_series(folder: Path) -> None:
    """Refuses a further series in a state that has many.

    Args:
        folder: of the state.

    Raises:
        SpoolFullError: if it has `MOST_SERIES`.
    """
    if len(os.listdir(folder)) >= MOST_SERIES:
        raise SpoolFullError(f"{folder.name} has {MOST_SERIES} series")


def size_on_disk(state: os.stat_result) -> int:
    """Bytes that a file takes of a disk."""
    return max(state.st_size, BLOCK_BYTES) if state.st_size else 0
