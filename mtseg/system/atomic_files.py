"""Files that appear whole or not at all, and locks on folders.

Use this module wherever something is written that another command may read. A file or folder is
written under a temporary name beside its place and then renamed, so nobody sees half of it, and a
killed command leaves the previous file as it was. The next command that writes the same path
removes what the killed one left.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import glob
import hashlib
import itertools
import json
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mtseg.errors import InputError

_WITHOUT_LOCKS = errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK
"""Error numbers of disks that do not support locks; some shared disks of clusters are such."""

_ABANDONED_SECONDS = 24 * 3600
"""After this long without a change, a temporary file of another machine is taken to be abandoned:
whether its process is alive cannot be asked from here, and no single write takes a day."""

_TOKEN = secrets.token_hex(4)
"""Tells this process from one that had the same number before: in a container every command may be
process 1."""

_counted = itertools.count()
"""Numbers of temporary paths, so that two threads that write the same path have one each."""

LOCK = ".lock"
"""The file in a folder that is locked by the command that may change the folder."""


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Gives a temporary path to write to and renames it to `path` when the block ends well.

    Args:
        path: a file, or a folder that does not exist yet. Its parent folder must exist.

    Yields:
        A hidden path in the same folder whose name ends as that of `path` does.

    Raises:
        OSError: if it cannot be written; its `filename` is `path`.

    Example:
        >>> with atomic_write(folder / "scan.json") as temporary:
        ...     _ = temporary.write_text("{}")
    """
    temporary = temporary_path(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise
    finally:
        remove_path(temporary)


def temporary_path(path: Path) -> Path:
    """The path under which this process writes `path` before the rename; nothing is there yet.

    Each call gives another one, so that threads may write the same `path` at once; the last rename
    counts. Temporary files of the same `path` that killed processes left are removed. A process on
    another machine that shares the disk may be alive: its file is kept for a day.
    """
    for left in path.parent.glob(f".*.{glob.escape(path.name)}"):
        # Earlier versions had no token in the name.
        writer = re.fullmatch(
            r"\.([0-9a-f]{8})-(?:([0-9a-f]{8})n[0-9]+-)?([0-9]+)\." + re.escape(path.name),
            left.name,
        )
        if writer and not _is_in_use(left, writer[1], writer[2], int(writer[3])):
            remove_path(left)
    mine = f"{_this_machine()}-{_TOKEN}n{next(_counted)}-{os.getpid()}"
    return path.with_name(f".{mine}.{path.name}")


def _is_in_use(path: Path, machine: str, token: str | None, process: int) -> bool:
    """Whether the process that named a temporary path may still be writing to it."""
    if machine != _this_machine():
        with contextlib.suppress(OSError):
            return time.time() - path.stat().st_mtime < _ABANDONED_SECONDS
        return True
    if process == os.getpid():
        return token == _TOKEN  # another thread writes it
    return _is_alive(process)


@functools.cache
def _this_machine() -> str:
    """Eight hexadecimal digits that tell apart machines, their starts, and containers."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        parts.append(os.readlink("/proc/self/ns/pid"))  # process numbers count within it
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's process, or not a process number
        return True
    return True


def sync_to_disk(path: Path) -> None:
    """Waits until a file's content, or the names in a folder, would survive a loss of power.

    Raises:
        OSError: if they cannot be written.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_path(path: Path) -> None:
    """Removes a file, or a folder with its contents, if it exists and can be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def empty_folder(folder: Path) -> None:
    """Removes the contents of a folder, except for its lock."""
    for path in folder.iterdir():
        if path.name != LOCK:
            remove_path(path)


@contextlib.contextmanager
def lock_folder(folder: Path, refusal: str | None = None) -> Iterator[bool]:
    """Locks a folder, so that no other command changes it meanwhile.

    The lock ends with the process, even if that is killed. On a disk that does not support locks,
    nothing is locked.

    Args:
        folder: an existing folder. Its file `LOCK` is locked, and removed at the end.
        refusal: the error message if another process has the lock; None waits for its end.

    Yields:
        Whether the folder is locked; False on a disk that does not support locks.

    Raises:
        InputError: if another process has the lock and `refusal` is given.
        OSError: if the file cannot be written.
    """
    path = folder / LOCK
    with contextlib.ExitStack() as stack:
        while True:
            lock = stack.enter_context(path.open("w"))
            is_locked = True
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if refusal is None else fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise InputError(refusal) from error
            except OSError as error:
                if error.errno not in _WITHOUT_LOCKS:
                    raise
                is_locked = False
            # The previous owner may have removed the file since it was opened here. Then this lock
            # is on a file that nobody else will find, and the file in the folder must be locked.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                    break
        stack.callback(path.unlink, missing_ok=True)
        yield is_locked


@contextlib.contextmanager
def writing_to(path: Path, remedy: str, also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turns an error of the disk into one line for the user.

    Args:
        path: named in the message if the error does not name a file.
        remedy: what to do, a sentence.
        also: further exceptions to treat so, such as those that TensorFlow raises for a full disk.

    Raises:
        InputError: if the block raises an OSError or one of `also`.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, (OSError, *also)):
            raise
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        reason = text.splitlines()[0]
        place = getattr(error, "filename", None) or path
        raise InputError(f"{place}: cannot be written ({reason}). {remedy}") from error


def parse_json(text: str | bytes) -> Any:
    """Parses JSON that a user or another program wrote.

    Raises:
        json.JSONDecodeError: if it is not JSON, or is nested more deeply than Python can parse.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise json.JSONDecodeError("nested too deeply", "", 0) from error


def write_json(path: Path, content: Any) -> None:
    """Writes JSON text atomically.

    Raises:
        OSError: if it cannot be written; its `filename` is `path`.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")
