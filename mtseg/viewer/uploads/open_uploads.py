"""The uploads of a page that are not scans yet: files arrive, or their scans are being found."""

from __future__ import annotations

import threading
from pathlib import Path

from mtseg.errors import InputError
from mtseg.viewer.uploads.upload import Limits, Upload

ABANDONED_S = 600.0
"""An upload to which nothing has come for so long is removed: its browser has been closed."""

_LONGEST_WAIT_S = 10.0
"""The longest that `close` waits for uploads whose scans are being found."""


class OpenUploads:
    """Keeps uploads by number; may be used by several threads.

    Args:
        folder: where each has a folder of its own.
        limits: what an upload may be.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._folder, self._limits = folder, limits
        self._arriving: dict[int, Upload] = {}
        self._finishing: list[Upload] = []
        self._is_closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._arriving)

    def begin(self, number: int, name: str) -> None:
        """Makes room for a drop of that name.

        Raises:
            InputError: if the page is being closed, or the disk is full.
        """
        with self._changed:
            self._require_open()
            self._arriving[number] = Upload(self._folder / str(number), name, self._limits)

    def get(self, number: int) -> Upload:
        """An upload whose files arrive.

        Raises:
            KeyError: if there is none.
        """
        with self._changed:
            return self._arriving[number]

    def take(self, number: int) -> Upload:
        """The same, which is none of these any more."""
        with self._changed:
            return self._arriving.pop(number)

    def find_scans(self, number: int) -> tuple[Upload, list[Path]]:
        """Takes an upload and finds its scans: files, or folders of DICOM series.

        Raises:
            InputError: if a file is still arriving, or the page is being closed; or if there is no
                scan in it, and its files are removed.
            KeyError: if there is none.
        """
        self.get(number).complete()
        with self._changed:
            self._require_open()
            upload = self._arriving.pop(number)
            self._finishing.append(upload)
        try:
            return upload, upload.find_scans()
        finally:
            with self._changed:
                self._finishing.remove(upload)
                self._changed.notify_all()

    def remove_abandoned(self) -> None:
        """Removes uploads whose browser was closed before it had sent all their files."""
        with self._changed:
            left = [n for n, upload in self._arriving.items() if upload.idle_s > ABANDONED_S]
            uploads = [self._arriving.pop(number) for number in left]
        for upload in uploads:  # gigabytes, perhaps, and the server asks for it between requests
            threading.Thread(target=upload.remove, daemon=True).start()

    def close(self) -> None:
        """Removes all, and takes no other: what still arrives or is unpacked would be left."""
        with self._changed:
            self._is_closed = True
            uploads = [*self._arriving.values(), *self._finishing]
        for upload in uploads:
            upload.remove()
        with self._changed:
            self._changed.wait_for(lambda: not self._finishing, _LONGEST_WAIT_S)

    def _require_open(self) -> None:
        if self._is_closed:
            raise InputError("This page is being closed.")
