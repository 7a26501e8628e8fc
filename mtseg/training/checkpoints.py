"""Checkpoints of a training run that survive crashes.

Each checkpoint is a folder `step-N`, written under a temporary name and renamed when it is
complete. If one is damaged nevertheless, the run resumes from the one before.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from mtseg.errors import InputError
from mtseg.system.atomic_files import atomic_write, sync_to_disk

_RULES = "rules.json"
"""In each checkpoint: version of each rule of training that has had several."""

_HIDDEN = "."
"""Names of folders that are being written or deleted begin so; a restore ignores them."""


class State(Protocol):
    """All that a run needs to resume; see `mtseg.training.engines.engine.Engine`."""

    def write_state(self, folder: Path) -> None:
        """Writes it into a folder."""

    def read_state(self, folder: Path) -> None:
        """Reads it back; raises any exception if it is damaged."""


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: where they are; made with the first checkpoint.
        keep: how many to keep.
        state: what is written and read.
        rules: version of each rule of training that has had several, by name.
    """

    def __init__(
        self, folder: Path, keep: int, state: State, *, rules: Mapping[str, int] | None = None
    ) -> None:
        self._folder, self._keep, self._state = folder, keep, state
        self._rules = dict(rules or {})

    def steps(self) -> list[int]:
        """The numbers of mini-batches at which there is a checkpoint, in ascending order."""
        found = [re.fullmatch(r"step-(\d+)", path.name) for path in self._folder.glob("step-*")]
        return sorted(int(name[1]) for name in found if name)

    def stored_rule(self, step: int, name: str) -> int:
        """The version of a rule by which a checkpoint was trained; 1 if it does not say."""
        try:
            return int(json.loads((self._path(step) / _RULES).read_text())[name])
        except (OSError, ValueError, KeyError, TypeError):
            return 1

    def restore_latest(self, is_usable: Callable[[], bool] = lambda: True) -> int:
        """Restores the latest checkpoint that can be used, and warns of the others.

        Args:
            is_usable: whether what was restored can be trained further; called after a restore.

        Returns:
            The number of mini-batches at that checkpoint; 0 if there is none.

        Raises:
            InputError: if there are checkpoints but none can be used, or another engine wrote the
                latest.
        """
        steps = self.steps()
        for step in reversed(steps):
            path = self._path(step)
            try:
                self._state.read_state(path)
            except InputError:  # it is whole, but another engine's
                raise
            except Exception as error:  # damaged files raise many kinds
                print(
                    f"warning: {path}: this checkpoint is damaged ({type(error).__name__}); "
                    "resuming from the one before.",
                    flush=True,
                )
                continue
            if is_usable():
                return step
            print(
                f"warning: {path}: its weights are not finite; resuming from the one before.",
                flush=True,
            )
        if steps:
            raise InputError(
                f"{self._folder}: none of its {len(steps)} checkpoints can be used. Delete the "
                "folder to start over, or use another one for the run."
            )
        return 0

    def save(self, step: int) -> None:
        """Writes a checkpoint, then deletes the oldest ones beyond the number to keep.

        Those of later mini-batches do not count: a restore could not use them.

        Raises:
            OSError: if it cannot be written; earlier checkpoints stay. So does what the engine
                raises then.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self._path(step)) as temporary:
            temporary.mkdir()
            self._state.write_state(temporary)
            (temporary / _RULES).write_text(json.dumps(self._rules))
            for path in temporary.iterdir():
                sync_to_disk(path)
            # A run that resumed from an earlier checkpoint may find a damaged one here.
            self._delete(self._path(step))
        sync_to_disk(self._folder)
        self._delete_beyond_keep(step)

    def clean(self, restored: int) -> None:
        """Deletes what a killed process had half written or half deleted.

        Args:
            restored: the checkpoint that the run resumed from. It stays, with those before it up
                to the number to keep.
        """
        for path in self._folder.glob(f"{_HIDDEN}*step-*"):
            shutil.rmtree(path, ignore_errors=True)
        self._delete_beyond_keep(restored)

    def _delete_beyond_keep(self, newest: int) -> None:
        for old in [step for step in self.steps() if step <= newest][: -self._keep]:
            self._delete(self._path(old))

    def _path(self, step: int) -> Path:
        return self._folder / f"step-{step}"

    def _delete(self, path: Path) -> None:
        if path.is_dir():
            hidden = path.with_name(f"{_HIDDEN}{os.getpid()}.old.{path.name}")
            path.rename(hidden)
            shutil.rmtree(hidden)
