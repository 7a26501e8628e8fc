"""The scans of a page: a queue of which one scan is computed at a time."""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from mtseg.errors import InputError
from mtseg.scans.discovery import list_scans
from mtseg.system.atomic_files import remove_path
from mtseg.viewer.computer import Cancelled, OnEvent
from mtseg.viewer.scan import (
    CANCELLED,
    DONE,
    FAILED,
    IN_WORK,
    STORED,
    WAITING,
    Scan,
    StoredScan,
)
from mtseg.viewer.uploads.open_uploads import OpenUploads
from mtseg.viewer.uploads.upload import Limits, Upload

_MOST_SCANS = 500
"""Scans and uploads that a page keeps; the user removes some to have room."""


class Computes(Protocol):
    """What segments; `mtseg.viewer.computer.Computer`."""

    def begin(self, on_event: OnEvent) -> None:
        """Loads the model."""

    def run(self, order: Mapping[str, Any], on_event: OnEvent) -> dict[str, Any]:
        """Carries out an order."""

    def stop(self) -> None:
        """Ends the order in work, which raises `Cancelled` there."""


class ScanList:
    """Keeps the scans of a page and computes them in turn, in a thread of its own.

    Args:
        computer: segments.
        folder: private folder for uploads and results.
        options: fields of `mtseg.prediction.scan.Options`, as plain values.
        limits: what an upload may be.
        on_refusal: called with the error if the model cannot be loaded.
    """

    def __init__(
        self,
        computer: Computes,
        folder: Path,
        options: Mapping[str, Any],
        limits: Limits | None = None,
        on_refusal: Callable[[InputError], None] = lambda error: None,
    ) -> None:
        self.limits = limits or Limits()
        self._computer, self._folder, self._options = computer, folder, dict(options)
        self._on_refusal = on_refusal
        self._scans: dict[int, Scan] = {}
        self._uploads = OpenUploads(folder / "uploads", self.limits)
        self._waiting: deque[tuple[Scan, str]] = deque()
        self._in_work: Scan | None = None
        self._model: dict[str, Any] | None = None
        self._number = 0
        self._is_closed = False
        self._changed = threading.Condition()  # a thread may lock it twice
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        """Loads the model and begins to compute."""
        self._thread.start()

    def close(self) -> None:
        """Ends the computation in work and takes up no other."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._uploads.close()
        self._computer.stop()
        if self._thread.is_alive():
            self._thread.join()

    def to_json(self) -> dict[str, Any]:
        """The state of everything, as the page gets it."""
        with self._changed:
            queue = [scan.number for scan, _ in self._waiting]
            scans = [
                scan.to_json() | {"place": queue.index(n) + 1 if n in queue else None}
                for n, scan in self._scans.items()
            ]
            limits = {"num_bytes": self.limits.num_bytes, "num_files": self.limits.num_files}
            return {"model": self._model, "scans": scans, "limits": limits}

    def begin_upload(self, name: str) -> int:
        """Makes room for a drop; returns the number of the upload.

        Raises:
            InputError: if the page shows experiments, keeps too much already, or is being closed;
                or if the disk is full.
        """
        with self._changed:
            if any(scan.stored is not None for scan in self._scans.values()):
                raise InputError(
                    "This page shows experiments. To segment a scan, run mtseg view without them."
                )
            if len(self._scans) + len(self._uploads) >= _MOST_SCANS:
                raise InputError(f"There are {_MOST_SCANS} scans. Remove some first.")
            number = self._next_number()
            self._uploads.begin(number, name)
            return number

    def upload(self, number: int) -> Upload:
        """An upload that is not finished.

        Raises:
            KeyError: if there is none.
        """
        return self._uploads.get(number)

    def finish_upload(self, number: int) -> list[int]:
        """Finds the scans of an upload and puts them into the queue; returns their numbers.

        Raises:
            InputError: if a file is still arriving; or if there is no scan in it, or too many, and
                its files are removed.
            KeyError: if there is no such upload.
        """
        upload, paths = self._uploads.find_scans(number)
        with self._changed:
            if len(self._scans) + len(paths) <= _MOST_SCANS:
                return self.add(paths, upload)
        upload.remove()
        raise InputError(f"{upload.name}: has {len(paths)} scans, too many with those listed here.")

    def remove_upload(self, number: int) -> None:
        """Gives an upload up.

        Raises:
            KeyError: if there is none.
        """
        self._uploads.take(number).remove()

    def add(
        self, paths: list[Path], upload: Upload | None = None, reference: Path | None = None
    ) -> list[int]:
        """Puts scans into the queue; returns their numbers.

        Args:
            paths: files, or folders of DICOM series.
            upload: the files they came with.
            reference: a label map that the labels of each are compared with.
        """
        with self._changed:
            numbers = []
            for path in paths:
                number = self._next_number()
                out = self._folder / "scans" / str(number)
                scan = self._scans[number] = Scan(number, path, out, upload, reference)
                self._waiting.append((scan, "segment"))
                numbers.append(number)
            self._changed.notify_all()
            return numbers

    def add_stored(self, path: Path, stored: Sequence[StoredScan]) -> None:
        """Lists scans of finished experiments; each is read when the user chooses it.

        Args:
            path: folder of the experiments.
            stored: its scans.
        """
        with self._changed:
            for scan in stored:
                number = self._next_number()
                out = self._folder / "scans" / str(number)
                self._scans[number] = Scan(number, path, out, None, stored=scan)

    def scan(self, number: int) -> Scan:
        """A scan.

        Raises:
            KeyError: if there is none.
        """
        with self._changed:
            return self._scans[number]

    def cancel(self, number: int) -> None:
        """Takes a scan from the queue, or ends its computation.

        Raises:
            KeyError: if there is no such scan.
        """
        with self._changed:
            scan = self._scans[number]
            for order in [order for order in self._waiting if order[0] is scan]:
                self._waiting.remove(order)
                if order[1] == "compare":
                    scan.is_compared, scan.reference_message = False, "cancelled"
            if scan.state in (WAITING, *IN_WORK):
                scan.state = CANCELLED
            if self._in_work is scan:
                self._computer.stop()

    def try_again(self, number: int) -> None:
        """Puts a scan that was cancelled, has failed or is only listed into the queue.

        Raises:
            KeyError: if there is no such scan.
        """
        with self._changed:
            scan = self._scans[number]
            if scan.state in (CANCELLED, FAILED, STORED) and self._in_work is not scan:
                scan.state, scan.message = WAITING, ""
                self._waiting.append((scan, "segment"))
                self._changed.notify_all()

    def remove(self, number: int) -> None:
        """Removes a scan with its files; a scan that the command named stays on the disk.

        Raises:
            KeyError: if there is no such scan.
        """
        self.cancel(number)
        with self._changed:
            scan = self._scans.pop(number)
            is_shared = any(other.upload is scan.upload for other in self._scans.values())
            remove_path(scan.out)
            if scan.upload is not None and not is_shared:
                scan.upload.remove()
            if scan.reference_upload is not None:
                scan.reference_upload.remove()

    def compare(self, number: int, upload_number: int) -> None:
        """Takes an upload as the reference of a scan and puts the comparison into the queue.

        Raises:
            InputError: if the scan has no labels yet or is gone, or the upload is not one file.
            KeyError: if there is no such upload.
        """
        upload, paths = self._uploads.find_scans(upload_number)
        with self._changed:
            scan = self._scans.get(number)
            refusal = ""
            if len(paths) != 1:
                refusal = f"{upload.name}: is not one label map. Drop one file."
            elif scan is None or scan.state != DONE:
                name = "the scan" if scan is None else scan.path.name
                refusal = f"{name}: has no labels to compare with."
            if scan is None or refusal:
                upload.remove()
                raise InputError(refusal)
            if scan.reference_upload is not None:
                scan.reference_upload.remove()
            scan.reference_upload, scan.given_reference = upload, None
            scan.reference, scan.reference_message = None, ""
            scan.is_compared = True
            self._waiting.append((scan, "compare"))
            self._changed.notify_all()

    def remove_abandoned(self) -> None:
        """Removes uploads whose browser was closed before it had sent all their files."""
        self._uploads.remove_abandoned()

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _work(self) -> None:
        """Loads the model, then carries out one order after the other."""
        try:
            self._computer.begin(self._learn)
        except InputError as error:
            self._on_refusal(error)
            return
        except Cancelled:
            pass  # also by the user, who cancelled the first scan before the model was loaded
        except Exception:  # the first order begins again, and has the error
            traceback.print_exc()
        while True:
            with self._changed:
                while not self._waiting and not self._is_closed:
                    self._changed.wait()
                if self._is_closed:
                    return
                scan, what = self._waiting.popleft()
                self._in_work = scan
                if what == "segment":
                    remove_path(scan.out)
                    scan.begin()
            try:
                self._carry_out(scan, what)
            finally:
                with self._changed:
                    self._in_work = None
                    if scan.number not in self._scans:  # removed while it was computed
                        remove_path(scan.out)

    def _carry_out(self, scan: Scan, what: str) -> None:
        """Has a scan segmented or compared, and keeps the result or the error."""
        message = ""
        result: dict[str, Any] | None = None
        try:
            order = self._make_order(scan, what)
            result = self._computer.run(order, lambda event: self._follow(scan, event))
        except Cancelled:
            message = "cancelled"
        except InputError as error:
            message = str(error)
        except Exception as error:
            # Such as no memory or no room for another process. The next scan may succeed; without
            # this thread, all would wait for ever.
            traceback.print_exc()
            message = f"could not be computed ({type(error).__name__}: {error}). Try again."
        with self._changed:
            if what == "compare":
                # The number tells a browser that the file is another one than before.
                number = None if result is None else result | {"number": self._next_number()}
                scan.reference, scan.reference_message = number, message
                scan.is_compared = False
            elif scan.state in IN_WORK:  # not cancelled
                scan.result, scan.message = result, message
                scan.state = FAILED if result is None else DONE
                if result is not None and "reference" in result:
                    scan.reference = result["reference"] | {"number": self._next_number()}
                if result is not None and scan.given_reference is not None:
                    scan.is_compared = True
                    self._waiting.append((scan, "compare"))

    def _make_order(self, scan: Scan, what: str) -> dict[str, Any]:
        """What the computer is asked for.

        Raises:
            InputError: if the reference of the scan is gone.
        """
        order: dict[str, Any] = {"do": what, "out": str(scan.out)}
        if scan.stored is not None:
            return order | {"do": "show", "task": scan.stored.task, "subject": scan.stored.subject}
        if what == "segment":
            order |= {"folder": str(scan.path.parent), "scan": scan.path.name}
            return order | {"options": self._options}
        with self._changed:
            result, reference, upload = scan.result, scan.given_reference, scan.reference_upload
        if reference is None and upload is not None:
            reference = next((listed.path for listed in list_scans([upload.folder])), None)
        if result is None or reference is None:
            raise InputError(f"{scan.path.name}: has no labels or no reference any more.")
        order |= {"folder": str(reference.parent), "reference": reference.name}
        label_maps = {of_map["key"]: of_map["file"] for of_map in result["label_maps"]}
        return order | {"label_maps": label_maps, "task": result["verdict"]["task"]}

    def _follow(self, scan: Scan, event: dict[str, Any]) -> None:
        self._learn(event)
        with self._changed:
            if scan.state in IN_WORK:
                scan.follow(event)

    def _learn(self, event: dict[str, Any]) -> None:
        """Keeps what the process says of its model."""
        if event["event"] == "model":
            with self._changed:
                self._model = {key: value for key, value in event.items() if key != "event"}
