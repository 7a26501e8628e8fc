"""The folder that keeps what a gateway has accepted until its segmentation is delivered.

All that the gateway must not forget is here, so it goes on after it was killed. A series is in one
folder at a time and moves by a rename:

- `incoming/SERIES`: its objects arrive.
- `work/SERIES`: it is complete and is segmented; no object is added.
- `outgoing/SERIES`: its DICOM SEG is in `results` and waits for its delivery.
- `done/SERIES.json`: it is delivered and its images are deleted. Lists its objects, so that
  repeated ones are recognised.
- `failed/SERIES`: it was not segmented; `reason.txt` says why. A further object puts it back into
  `incoming`.
- `failed/late/SERIES`: objects that arrived after their series had been segmented.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from mtseg.errors import InputError
from mtseg.gateway.room import (
    BLOCK_BYTES,
    ObjectCount,
    SpoolFullError,
    require_few_series,
    size_on_disk,
)
from mtseg.system.atomic_files import (
    atomic_write,
    empty_folder,
    lock_folder,
    parse_json,
    remove_path,
    sync_to_disk,
    writing_to,
)

State = Literal["incoming", "work", "outgoing", "failed"]
Arrival = Literal["stored", "repeated", "late"]

RESULTS = "results"
"""Folder in that of a series in `work` or `outgoing`, with what was computed of it."""

REASON = "reason.txt"

MOST_ATTEMPTS = 5
"""How often in succession a series may end the program that segments it, for example for want of
memory, or be refused by the server that computes."""

_ATTEMPTS = "attempts.txt"
_REFUSED = ".refused"
_TEMPORARY = "temporary"
_FOLDERS = ("incoming", "work", "outgoing", "done", "failed", "failed/late", _TEMPORARY)
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


def is_uid(text: object) -> bool:
    """Whether a text is a UID: digits and single dots, so that it is safe as a file name.

    Zeros at the beginning of a component, which some devices write, are allowed.
    """
    return isinstance(text, str) and len(text) <= 64 and _UID.fullmatch(text) is not None


@contextlib.contextmanager
def open_spool(folder: Path, max_bytes: float) -> Iterator[Spool]:
    """Makes or opens a spool for this process alone.

    Args:
        folder: of the spool; made if missing.
        max_bytes: of all objects and results in it.

    Raises:
        InputError: if another gateway has it, others could read it, or it cannot be written.
    """
    remedy = "Give a folder on a disk with room that you can write to."
    refusal = f"{folder}: another gateway uses this spool. Give each its own."
    with contextlib.ExitStack() as stack:
        with writing_to(folder, remedy):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_uid != os.getuid() or stat.S_IMODE(folder.stat().st_mode) & 0o077:
                raise InputError(
                    f"{folder}: others can read this folder, and patients' images would be in it. "
                    f"Give a new one, or: chmod 700 {folder}"
                )
            stack.enter_context(lock_folder(folder, refusal))
            for name in _FOLDERS:
                (folder / name).mkdir(mode=0o700, exist_ok=True)
                if (folder / name).is_symlink():  # what it leads to could be emptied
                    raise InputError(f"{folder / name}: is a link. Remove it.")
            spool = Spool(folder, max_bytes)
            spool.recover()
        stack.callback(spool.close)
        yield spool


class Spool:
    """The states of all series; its methods may be called by several threads.

    Args:
        folder: with the folders of the states; this process has locked it.
        max_bytes: as for `open_spool`.
    """

    def __init__(self, folder: Path, max_bytes: float) -> None:
        self.folder, self._max_bytes = folder, max_bytes
        self._lock = threading.RLock()
        self._arrived_s: dict[str, float] = {}
        self._used_bytes = 0
        self._count = ObjectCount()
        self._is_closed = False

    def recover(self) -> None:
        """Completes what a killed process has left between two steps."""
        empty_folder(self.folder / _TEMPORARY)
        for series in self.list_series("outgoing"):
            if self._done_path(series).exists():
                self._remove(self.path("outgoing", series))
        for series in self.list_series("incoming"):
            with contextlib.suppress(OSError):  # it is not empty
                self.path("incoming", series).rmdir()
        self.count_bytes()

    def close(self) -> None:
        """Refuses objects from now on."""
        with self._lock:
            self._is_closed = True

    def path(self, state: State, series: str) -> Path:
        """The folder of a series in a state."""
        return self.folder / state / series

    def list_series(self, state: State) -> list[str]:
        """The series in a state, in the order in which they came there."""
        folders = []
        for path in (self.folder / state).iterdir():
            with contextlib.suppress(FileNotFoundError):
                if is_uid(path.name) and path.is_dir():
                    folders.append((path.stat().st_ctime_ns, path.name))
        return [name for _, name in sorted(folders)]

    # Objects.

    @contextlib.contextmanager
    def temporary_file(self, num_bytes: int) -> Iterator[Path]:
        """Gives an empty file to write an object to, which is removed if `add` does not take it.

        Args:
            num_bytes: how many will be written.

        Raises:
            SpoolFullError: if they are too many.
        """
        num_bytes = max(num_bytes, BLOCK_BYTES)
        if self._used_bytes + num_bytes > self._max_bytes:
            self.count_bytes()  # somebody may have removed failed series by hand
            if self._used_bytes + num_bytes > self._max_bytes:
                raise SpoolFullError(
                    f"the spool has {self._used_bytes / 1e9:.3g} of {self._max_bytes / 1e9:g} GB"
                )
        descriptor, name = tempfile.mkstemp(dir=self.folder / _TEMPORARY)
        os.close(descriptor)
        try:
            yield Path(name)
        finally:
            remove_path(Path(name))

    def add(self, temporary: Path, series: str, instance: str) -> Arrival:
        """Takes an object, which then survives the end of the process and of the machine.

        Args:
            temporary: the complete file, from `temporary_file`.
            series: its Series Instance UID.
            instance: its SOP Instance UID.

        Returns:
            `stored`; `repeated` if the object was there; `late` if its series was segmented.

        Raises:
            SpoolFullError: if the gateway is ending.
            OSError: if it cannot be stored.
        """
        sync_to_disk(temporary)
        with self._lock:
            if self._is_closed:
                raise SpoolFullError("the gateway is ending")
            if self._done_path(series).exists():
                if instance in self.read_done(series)["objects"]:
                    return "repeated"
                return self._keep_late(temporary, series, instance)
            for state in ("work", "outgoing"):
                folder = self.path(state, series)
                if folder.exists():
                    if (folder / f"{instance}.dcm").exists():
                        return "repeated"
                    return self._keep_late(temporary, series, instance)
            if self.path("failed", series).exists():
                if (self.path("failed", series) / f"{instance}.dcm").exists():
                    return "repeated"
                if not self.path("incoming", series).exists():
                    self._move(series, "failed", "incoming")
            self._arrived_s[series] = time.monotonic()
            return self._keep(temporary, self.path("incoming", series), instance)

    def note_refused(self, series: str, instance: str) -> None:
        """Notes that an object was refused, so that its series is not complete without it.

        Args:
            series: its Series Instance UID.
            instance: its SOP Instance UID.
        """
        folder = self.path("incoming", series)
        others = [self.path(state, series) for state in ("work", "outgoing", "failed")]
        with self._lock, contextlib.suppress(OSError, SpoolFullError):
            if any(path.exists() for path in [*others, self._done_path(series)]):
                return
            self._arrived_s[series] = time.monotonic()
            if not (folder / f"{instance}.dcm").exists():
                if not folder.exists():
                    require_few_series(folder.parent)
                folder.mkdir(mode=0o700, exist_ok=True)
                (folder / f"{instance}{_REFUSED}").touch(mode=0o600)

    def _keep_late(self, temporary: Path, series: str, instance: str) -> Arrival:
        folder = self.folder / "failed/late" / series
        if self._keep(temporary, folder, instance) == "repeated":
            return "repeated"
        (folder / REASON).write_text(
            "arrived after the series had been segmented: give a larger --quiet-s\n"
        )
        return "late"

    def _keep(self, temporary: Path, folder: Path, instance: str) -> Arrival:
        target = folder / f"{instance}.dcm"
        if target.exists():
            return "repeated"
        if not folder.exists():
            require_few_series(folder.parent)
            folder.mkdir(mode=0o700)
            sync_to_disk(folder.parent)
            self._count.forget()
        self._count.add(folder)
        self._used_bytes += size_on_disk(temporary.stat())
        os.rename(temporary, target)
        (folder / f"{instance}{_REFUSED}").unlink(missing_ok=True)
        sync_to_disk(folder)
        return "stored"

    # Series.

    def take_quiet(self, quiet_s: float) -> str | None:
        """Moves a series to `work` of which nothing has arrived for some time.

        Args:
            quiet_s: how long, in seconds. After a start, all series are as if they had just come.

        Returns:
            The series; one that is in `work` already comes first. None if there is none.
        """
        with self._lock:
            if begun := self.list_series("work"):
                return begun[0]
            now_s, series = time.monotonic(), self.list_series("incoming")
            self._arrived_s = {name: self._arrived_s.get(name, now_s) for name in series}
            oldest = min(series, key=lambda name: self._arrived_s[name], default=None)
            if oldest is None or now_s - self._arrived_s[oldest] < quiet_s:
                return None
            folder = self.path("incoming", oldest)
            if not any(folder.glob("*.dcm")):  # all of its objects were refused
                self._remove(folder)
                return None
            self._move(oldest, "incoming", "work")
            return oldest

    def count_refused(self, series: str) -> int:
        """How many objects of a series in `work` were refused and did not come again."""
        noted = self.path("work", series).glob(f"*{_REFUSED}")
        # A kill may have kept the note of an object that came.
        return sum(not path.with_suffix(".dcm").exists() for path in noted)

    def begin_attempt(self, series: str) -> int:
        """Counts an attempt to segment a series in `work`.

        Returns:
            How many attempts had no `end_attempt` since the last one that had, and this one.
        """
        path = self.path("work", series) / _ATTEMPTS
        count = 1
        with contextlib.suppress(OSError, ValueError):
            count += int(path.read_text())
        with atomic_write(path) as temporary:
            temporary.write_text(str(count))
        return count

    def end_attempt(self, series: str) -> None:
        """Forgets all attempts, because the last one did not fail because of the series."""
        (self.path("work", series) / _ATTEMPTS).unlink(missing_ok=True)

    def send_out(self, series: str) -> None:
        """Moves a series in `work` to `outgoing`: its results are complete and will not change."""
        results = self.path("work", series) / RESULTS
        for path in [*results.iterdir(), results, results.parent]:
            sync_to_disk(path)
        with self._lock:
            self._move(series, "work", "outgoing")
        self.count_bytes()

    def fail(self, series: str, state: State, reason: str) -> None:
        """Moves a series to `failed`.

        Args:
            series: it and its images stay there until somebody removes them.
            state: where it is.
            reason: one line.
        """
        folder = self.path(state, series)
        with self._lock:
            with atomic_write(folder / REASON) as temporary:
                temporary.write_text(f"{reason}\n")
                sync_to_disk(temporary)
            sync_to_disk(folder)
            (folder / _ATTEMPTS).unlink(missing_ok=True)
            if self.path("failed", series).exists():  # somebody has copied it back
                self._remove(self.path("failed", series))
            self._move(series, state, "failed")
        self.count_bytes()

    def finish(self, series: str, record: dict[str, Any]) -> None:
        """Notes that the results of a series in `outgoing` are delivered, and deletes its images.

        Args:
            series: the series.
            record: further entries of its file in `done`.
        """
        folder, path = self.path("outgoing", series), self._done_path(series)
        objects = sorted(file.stem for file in folder.glob("*.dcm"))
        with self._lock:
            with atomic_write(path) as temporary:
                temporary.write_text(json.dumps({**record, "objects": objects}, indent=1) + "\n")
                sync_to_disk(temporary)
            sync_to_disk(path.parent)
            self._remove(folder)
        self.count_bytes()

    def read_done(self, series: str) -> dict[str, Any]:
        """What the file in `done` says of a series; no objects if it is damaged."""
        try:
            found = parse_json(self._done_path(series).read_text())
        except (OSError, ValueError):
            found = None
        return found if isinstance(found, dict) and "objects" in found else {"objects": []}

    def count_bytes(self) -> None:
        """Counts what all objects and results take."""
        total = 0
        for place, folders, files in os.walk(self.folder):
            if Path(place) == self.folder:
                folders.remove("done")
            for file in files:
                with contextlib.suppress(OSError):
                    total += size_on_disk(os.stat(os.path.join(place, file)))
        self._used_bytes = total

    def _done_path(self, series: str) -> Path:
        return self.folder / "done" / f"{series}.json"

    def _move(self, series: str, before: State, after: State) -> None:
        os.rename(self.path(before, series), self.path(after, series))
        sync_to_disk(self.folder / after)
        sync_to_disk(self.folder / before)

    def _remove(self, folder: Path) -> None:
        """Removes the folder of a series: at once from its state, then its files."""
        place = Path(tempfile.mkdtemp(dir=self.folder / _TEMPORARY))
        os.rename(folder, place / folder.name)
        sync_to_disk(folder.parent)
        remove_path(place)
