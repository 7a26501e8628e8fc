"""Files written aside: a place beside a path comes in, what is written there leaves by one rename.

So a file or folder is never seen half-written, and a command that is killed leaves the one before.
What it has left half-written is removed by the next that writes the same. A folder that one command
at a time may change is held by a lock, which ends with its process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mtseg.errors import InputError

_WITHOUT_LOCKS = errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK
"""How a disk says that it knows no locks, as some that clusters share do not."""


LOCK = ".lock"
"""A file in a folder, locked by the command that may change it."""


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Gives a place to write to, and renames it to `path` if all goes well.

    Args:
        path: of a file, or of a folder that is not there yet. Its own folder has to be there.

    Yields:
        A hidden name in the same folder, which ends as `path` does.

    Raises:
        OSError: if it cannot be written; it names `path`.

    Example:
        >>> with written_aside(folder / "scan.json") as aside:
        ...     _ = aside.write_text("{}")
    """
    aside = temporary_path(path)
    try:
        yield aside
        os.replace(aside, path)
    except OSError as error:
        if error.filename in (None, str(aside)):
            error.filename = str(path)
        raise
    finally:
        remove_path(aside)


def temporary_path(path: Path) -> Path:
    """The name under which this process writes `path` aside, where nothing is yet.

    What killed processes have left where they wrote the same is removed. One of them may have had
    this process's number: in a container every command has the same.
    """
    for left in path.parent.glob(f".*.{glob.escape(path.name)}"):
        writer = re.fullmatch(r"\.(\d+)\." + re.escape(path.name), left.name)
        if writer and (int(writer[1]) == os.getpid() or not _is_alive(int(writer[1]))):
            remove_path(left)
    return path.with_name(f".{os.getpid()}.{path.name}")


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's; no number of a process
        return True
    return True


def remove_path(path: Path) -> None:
    """Removes a file, or a folder with all that is in it, if it is there and can be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def empty_folder(folder: Path) -> None:
    """Removes all that is in a folder but its lock, which whoever holds it gives back."""
    for path in folder.iterdir():
        if path.name != LOCK:
            remove_path(path)


@contextlib.contextmanager
def lock_folder(folder: Path, refusal: str | None = None) -> Iterator[None]:
    """Holds a folder, so that no second command changes it meanwhile.

    Args:
        folder: which; it has to be there. Its file `LOCK` is locked. Where the disk knows no
            locks, nothing is held.
        refusal: what to say where another process holds it; None waits for its end.

    Raises:
        InputError: if another does.
        OSError: if the file cannot be written.
    """
    path = folder / LOCK
    with contextlib.ExitStack() as stack:
        while True:
            lock = stack.enter_context(path.open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if refusal is None else fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise InputError(refusal) from error
            except OSError as error:
                if error.errno not in _WITHOUT_LOCKS:
                    raise
            # The one that held it before may have removed the file meanwhile. Then this lock is on
            # a file that nobody else will find, and the one in the folder is to be locked.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                    break
        stack.callback(path.unlink, missing_ok=True)
        yield


def write_json(path: Path, content: Any) -> None:
    """Writes JSON text atomically."""
    with atomic_write(path) as aside:
        aside.write_text(json.dumps(content, indent=2) + "\n")
