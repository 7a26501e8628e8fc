"""A scan on the page: where it is, how far it is, and what came of it."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from mtseg.viewer.display import REFERENCE_COPY, SCAN_COPY, coarse_copy
from mtseg.viewer.uploads.upload import Upload

WAITING, READING, COMPUTING, WRITING = "waiting", "reading", "computing", "writing"
DONE, FAILED, CANCELLED, STORED = "done", "failed", "cancelled", "stored"
IN_WORK = (READING, COMPUTING, WRITING)

_MOST_PROGRESS = 0.98
"""Progress of a scan that takes longer than the speed of this machine let expect."""


@dataclasses.dataclass(frozen=True)
class StoredScan:
    """A test scan of finished experiments.

    Attributes:
        task: name of its task.
        subject: its name there.
        mean_dice: over the classes, of the network for most tasks; None if it is undefined.
    """

    task: str
    subject: str
    mean_dice: float | None


class Scan:
    """A scan and its state. Its list guards it with a lock.

    Args:
        number: identifies it on the page.
        path: a file, or the folder of a DICOM series.
        out: folder for its results and copies for the browser.
        upload: the files it came with; None for a scan that the command named.
        given_reference: a label map of it that the command named; None if there is none.
        stored: which scan of finished experiments it is; None for a scan to segment.
    """

    def __init__(
        self,
        number: int,
        path: Path,
        out: Path,
        upload: Upload | None,
        given_reference: Path | None = None,
        stored: StoredScan | None = None,
    ) -> None:
        self.number, self.path, self.out, self.upload = number, path, out, upload
        self.given_reference, self.stored = given_reference, stored
        self.state, self.message = WAITING if stored is None else STORED, ""
        self.shown: dict[str, Any] | None = None
        self.result: dict[str, Any] | None = None
        self.is_compared = False
        self.reference: dict[str, Any] | None = None
        self.reference_upload: Upload | None = None
        self.reference_message = ""
        self._flop = self._flop_done = 0
        self._flop_per_second = 0.0
        self._last_tile = 0.0

    def begin(self) -> None:
        """Is taken up."""
        self.state, self.message = READING, ""
        self.shown = self.result = self.reference = None

    def follow(self, event: dict[str, Any]) -> None:
        """Takes in an event of the process that computes."""
        if event["event"] == "shown":
            self.shown = {key: value for key, value in event.items() if key != "event"}
        elif event["event"] == "computing":
            self.state = COMPUTING
            self._flop, self._flop_done = event["flop"], 0
            self._flop_per_second = event["flop_per_second"]
            self._last_tile = time.monotonic()
        elif event["event"] == "computed":
            self._flop_done += event["flop"]
            self._last_tile = time.monotonic()
            if self._flop_done >= self._flop:
                self.state = WRITING

    def file(self, name: str, step: int = 1) -> Path | None:
        """A file of this scan that the page may have; None if there is no such file.

        Args:
            name: of a result, or of a copy for the browser.
            step: of a copy, as for `mtseg.viewer.display.coarse_copy`.

        Raises:
            ValueError: if there can be no such copy.
        """
        results = [] if self.result is None else self.result["files"]
        label_maps = [] if self.result is None else self.result["label_maps"]
        copies = {SCAN_COPY, REFERENCE_COPY, *(f"{of_map['key']}.nii" for of_map in label_maps)}
        if name in copies:
            path = self.out / name
            return coarse_copy(path, step) if path.is_file() else None
        path = self.out / "results" / name
        return path if name in results and path.is_file() else None

    def to_json(self) -> dict[str, Any]:
        """The state as the page gets it."""
        progress, seconds_left = self._progress()
        return {
            "id": self.number,
            "name": self._name,
            "dice": None if self.stored is None else self.stored.mean_dice,
            "state": self.state,
            "message": self.message,
            "progress": progress,
            "seconds_left": seconds_left,
            "shown": self.shown,
            "result": self.result,
            "reference": self.reference,
            "reference_message": self.reference_message,
            "reference_waits": self.is_compared,
        }

    @property
    def _name(self) -> str:
        """What the page calls it."""
        return f"{self.stored.task}: {self.stored.subject}" if self.stored else self.path.name

    def _progress(self) -> tuple[float | None, float | None]:
        """The share that is done and the seconds left; None while they are not known.

        Within a tile, the speed of this machine tells how far it is.
        """
        if self.state != COMPUTING or not self._flop:
            return None, None
        since = (time.monotonic() - self._last_tile) * self._flop_per_second
        share = min((self._flop_done + since) / self._flop, _MOST_PROGRESS)
        return share, (1 - share) * self._flop / self._flop_per_second
