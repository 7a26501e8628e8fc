"""The folder that keeps the uploads and results of a page, and goes away with it.

It is in the folder for temporary files, readable by this user alone. A page that is killed cannot
remove its folder; the next one does, if the disk supports locks.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mtseg.errors import InputError
from mtseg.system.atomic_files import LOCK, lock_folder, remove_path, writing_to

_REMEDY = "Set TMPDIR to a folder that you can write to."


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Makes an empty folder for this process and removes it at the end.

    Folders that killed processes of this user left are removed first.

    Yields:
        The folder; others can neither read nor enter it.

    Raises:
        InputError: if it cannot be made.
    """
    parent = Path(tempfile.gettempdir()) / f"mtseg-view-{os.getuid()}"
    with contextlib.ExitStack() as stack:
        with writing_to(parent, _REMEDY):
            parent.mkdir(mode=0o700, exist_ok=True)
            _require_private(parent)
            # No other page may look for abandoned folders before this one has locked its own.
            with lock_folder(parent):
                _remove_abandoned(parent)
                folder = Path(tempfile.mkdtemp(prefix="page-", dir=parent))
                stack.callback(remove_path, folder)
                stack.enter_context(lock_folder(folder))
        yield folder


def _require_private(folder: Path) -> None:
    """Refuses a folder that somebody else made under this name, or that others can enter."""
    state = folder.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or state.st_mode & 0o077:
        raise InputError(
            f"{folder}: is not a private folder of yours. Remove it, or set TMPDIR to another "
            "folder."
        )


def _remove_abandoned(parent: Path) -> None:
    """Removes the folders whose processes have ended: nobody has locked them.

    On a disk without locks nobody can tell, so all of them stay.
    """
    for folder in parent.iterdir():
        if folder.name == LOCK or not folder.is_dir():
            continue
        with (
            contextlib.suppress(InputError, OSError),
            lock_folder(folder, refusal="in use") as is_locked,
        ):
            if is_locked:
                remove_path(folder)
