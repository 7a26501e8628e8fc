"""Remembers what was found when files were read and verified, until one of them changes.

A file counts as unchanged if its size, time and inode are. A file that was changed only just now is
not remembered: a second change within the resolution of the disk's clock would not be seen.
"""

from __future__ import annotations

import contextlib
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mtseg.system.atomic_files import atomic_write

_SETTLED_NS = 2_000_000_000
"""A file is remembered if its last change was at least so long ago."""


def describe_files(files: Sequence[Path]) -> dict[str, list[int]]:
    """The size, time and inode of files by their names; call it before they are read.

    Raises:
        OSError: if one of them does not exist.
    """
    states = {}
    for file in files:
        status = file.stat()
        states[file.name] = [status.st_size, status.st_mtime_ns, status.st_ino]
    return states


def recall(path: Path, states: Mapping[str, list[int]]) -> dict[str, dict[str, npt.NDArray[Any]]]:
    """What `remember` stored for files that have not changed since.

    Args:
        path: the file of `remember`.
        states: from `describe_files`.

    Returns:
        name of a file -> its arrays by name. Files that are new or have changed are left out.
        Empty if nothing was stored or it is damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            known = dict(zip(stored["names"].tolist(), stored["states"].tolist(), strict=True))
            found: dict[str, dict[str, npt.NDArray[Any]]] = {
                name: {} for name, state in states.items() if known.get(name) == state
            }
            for key in stored.files:
                name, _, array = key.rpartition("/")
                if name in found:
                    found[name][array] = stored[key]
            return found
    except (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile):
        return {}


def remember(
    path: Path,
    states: Mapping[str, list[int]],
    arrays: Mapping[str, Mapping[str, npt.NDArray[Any]]],
) -> None:
    """Stores some arrays for each file; a folder that cannot be written is left as it is.

    Args:
        path: where to store them.
        states: from `describe_files`, called before the files were read.
        arrays: name of a file -> what to remember of it, by name.
    """
    now = time.time_ns()
    settled = [name for name, (_, modified, _) in states.items() if now - modified > _SETTLED_NS]
    if not settled:
        return
    stored: dict[str, Any] = {
        f"{name}/{key}": array for name in settled for key, array in arrays[name].items()
    }
    stored["names"] = np.array(settled)
    stored["states"] = np.array([states[name] for name in settled], np.int64)
    with (
        contextlib.suppress(OSError),
        atomic_write(path) as temporary,
        temporary.open("wb") as file,
    ):
        np.savez(file, **stored)
