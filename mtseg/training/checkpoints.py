"""Checkpoints: the state of a run comes in, folders that a crash cannot spoil leave.

Each is a folder of its own, `step-N`, written under another name and renamed when it is whole. One
that is damaged all the same is passed over for the one before.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import tensorflow as tf

from mtseg.errors import InputError
from mtseg.system.atomic_files import atomic_write

_FILE = "state"


_HIDDEN = "."
"""What is being written or deleted begins with this, so a restore does not look at it."""


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: where they are; made when the first is written.
        keep: how many stay.
        state: everything that a run needs to go on, by name.
    """

    def __init__(self, folder: Path, keep: int, **state: Any) -> None:
        self._folder, self._keep = folder, keep
        self._checkpoint = tf.train.Checkpoint(**state)

    def steps(self) -> list[int]:
        """The mini-batches after which there is a checkpoint, in order."""
        found = [re.fullmatch(r"step-(\d+)", path.name) for path in self._folder.glob("step-*")]
        return sorted(int(name[1]) for name in found if name)

    def restore_latest(self) -> int:
        """Restores the latest checkpoint that can be read; a damaged one is warned of.

        Returns:
            The mini-batch it was written after, 0 where there is none.

        Raises:
            InputError: if there are checkpoints, but none can be read.
        """
        steps = self.steps()
        for step in reversed(steps):
            path = self._path(step)
            try:
                self._checkpoint.read(str(path / _FILE)).assert_existing_objects_matched()
            except Exception as error:  # Whatever TensorFlow makes of bytes that are not its own.
                print(
                    f"warning: {path}: this checkpoint is damaged ({type(error).__name__}); "
                    "going on from the one before.",
                    flush=True,
                )
                continue
            return step
        if steps:
            raise InputError(
                f"{self._folder}: none of its {len(steps)} checkpoints can be read. Delete the "
                "folder to begin anew, or give another --workdir."
            )
        return 0

    def save(self, step: int) -> None:
        """Writes a checkpoint, and deletes the oldest beyond those to keep.

        Raises:
            OSError, tf.errors.OpError: if it cannot be written; the checkpoints before stay.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self._path(step)) as temporary:
            temporary.mkdir()
            self._checkpoint.write(str(temporary / _FILE))
            for path in temporary.iterdir():
                _flush(path)
            # A run that went on from an earlier checkpoint may meet a damaged one here.
            self._delete(self._path(step))
        _flush(self._folder)
        for old in self.steps()[: -self._keep]:
            self._delete(self._path(old))

    def clean(self, restored: int) -> None:
        """Deletes what a killed process was in the middle of writing or deleting.

        Args:
            restored: the mini-batch that the run goes on from; it and those to keep before stay.
        """
        for path in self._folder.glob(f"{_HIDDEN}*step-*"):
            shutil.rmtree(path, ignore_errors=True)
        for old in [step for step in self.steps() if step <= restored][: -self._keep]:
            self._delete(self._path(old))

    def _path(self, step: int) -> Path:
        return self._folder / f"step-{step}"

    def _delete(self, path: Path) -> None:
        if path.is_dir():
            hidden = path.with_name(f"{_HIDDEN}{os.getpid()}.old.{path.name}")
            path.rename(hidden)
            shutil.rmtree(hidden)


def _flush(path: Path) -> None:
    """Waits until a file or folder is on the disk, where a power cut leaves it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
