"""Files that a browser sends: where they are put, how large they may be, and zip files unpacked.

Nothing that is sent decides where a file goes: names are made harmless and stay below the folder of
their upload. Files are written as they arrive, so memory does not grow with them.
"""

from __future__ import annotations

import dataclasses
import io
import shutil
import stat
import threading
import time
import zipfile
from pathlib import Path
from typing import IO, Protocol

from mtseg.errors import InputError
from mtseg.scans.discovery import list_scans
from mtseg.scans.formats.dicom_files import (
    DISC_INDEX,
    UNNAMED_SERIES,
    group_by_series,
    is_dicom_file,
)
from mtseg.scans.reading import ENDINGS
from mtseg.system.atomic_files import remove_path, writing_to

ZIP_ENDING = ".zip"

_PIECE_BYTES = 1 << 20
_SPARE_BYTES = 1 << 30
"""Room on the disk that uploads leave free."""

_LONGEST_NAME = 120
_DEEPEST_FOLDER = 12
_DIRECTORY_BYTES_PER_FILE = 400
"""Bytes of a zip file's table of contents for each file; larger tables are refused unread."""

_DIRECTORY_BYTES = 1 << 17
"""A table of so many bytes is always read; the search for its place reads pieces of 64 KB."""

_ROOM = "Make room, or set TMPDIR to a folder on a larger disk."
_ONE_SERIES = "Drop one series at a time."


class Readable(Protocol):
    """Where bytes come from: a connection or a file in a zip."""

    def read(self, size: int, /) -> bytes:
        """Reads up to `size` bytes; none at the end."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one upload may be.

    Attributes:
        num_bytes: of all its files; those in a zip count as unpacked.
        num_files: likewise.
    """

    num_bytes: int = 8_000_000_000
    num_files: int = 20_000


class Upload:
    """The files of one drop: a scan, a folder, or a zip. Several threads may send files to it.

    Args:
        folder: for its files; made here.
        name: of what was dropped, as the browser tells it.
        limits: what it may be.
    """

    def __init__(self, folder: Path, name: str, limits: Limits) -> None:
        self.folder, self.name = folder, safe_name(name)
        self._limits = limits
        self._lock = threading.Lock()
        self._num_bytes = self._num_files = self._num_arriving = 0
        self._is_complete = self._is_removed = False
        self._changed_s = time.monotonic()
        self._num_of_name: dict[Path, int] = {}
        with writing_to(folder, _ROOM):
            folder.mkdir(parents=True)

    @property
    def idle_s(self) -> float:
        """Seconds since its last file arrived, or part of a file; 0 while one arrives."""
        with self._lock:
            return 0.0 if self._num_arriving else time.monotonic() - self._changed_s

    def receive(self, name: str, source: Readable, num_bytes: int) -> None:
        """Writes a file that is sent.

        Args:
            name: of the file, with its folders, as the browser tells it.
            source: the bytes.
            num_bytes: how many there are.

        Raises:
            InputError: if it is too large, ends early, or comes after `complete` or `remove`;
                nothing of it is left.
        """
        with self._lock:
            if self._is_complete or self._is_removed:
                raise InputError(f"{safe_name(name)}: came after its upload had ended.")
            self._count(num_bytes)
            path, file = self._open_new(name)
            self._num_arriving += 1
        try:
            with file, writing_to(Path(path.name), _ROOM):
                num_copied = self._copy(source, file, num_bytes)
            if num_copied < num_bytes:
                raise InputError(f"{path.name}: the transfer was interrupted. Drop it again.")
        except BaseException:
            remove_path(path)
            raise
        finally:
            with self._lock:
                self._num_arriving -= 1
                self._changed_s = time.monotonic()

    def complete(self) -> None:
        """Takes no further file.

        Raises:
            InputError: if a file is still arriving.
        """
        with self._lock:
            if self._num_arriving:
                raise InputError(f"{self.name}: a file of it is still arriving. Try again.")
            self._is_complete = True

    def find_scans(self) -> list[Path]:
        """Unpacks zips, separates series and finds the scans: files, or folders of DICOM series.

        Raises:
            InputError: if a zip cannot be unpacked, or there is no scan; all files are removed, and
                the message does not name the private folder.
        """
        try:
            self.unpack()
            self.separate_series()
            return [scan.path for scan in list_scans([self.folder], may_share_names=True)]
        except InputError as error:
            self.remove()
            text = str(error).replace(f"{self.folder}/", "").replace(str(self.folder), self.name)
            raise InputError(text) from error
        except BaseException:
            self.remove()
            raise

    def unpack(self) -> None:
        """Puts the files of each zip in its place; a folder of the name of the zip.

        Raises:
            InputError: if a zip is damaged, encrypted, or has too much in it.
        """
        for path in sorted(self.folder.rglob("*")):
            if path.name.lower().endswith(ZIP_ENDING) and path.is_file():
                self._unpack(path)

    def separate_series(self) -> None:
        """Puts each series of a folder that has several into a folder of its own.

        On a disc, so that it has the name of the series, also the only one of a folder: that is
        called `SE000000` or the like. Other DICOM files, such as reports, go with the first one: a
        reader leaves them out.
        """
        paths = list(self.folder.rglob("*"))
        is_disc = any(path.name.upper() == DISC_INDEX for path in paths)
        for folder in [self.folder, *(path for path in paths if path.is_dir())]:
            series = group_by_series(folder)
            is_named = is_disc and list(series) != [UNNAMED_SERIES]
            if len(series) < (1 if is_named else 2):
                continue
            first, *_ = series
            grouped = {file for files in series.values() for file in files}
            others = [path for path in folder.iterdir() if path.is_file() and path not in grouped]
            series[first] = series[first] + [path for path in others if is_dicom_file(path)]
            for title, files in series.items():
                to, number = folder / safe_name(title), 1
                while to.exists():
                    number += 1
                    to = folder / f"{number}_{safe_name(title)}"
                to.mkdir()
                for file in files:
                    file.rename(to / file.name)

    def remove(self) -> None:
        """Removes its files, and ends the transfers of those that arrive."""
        with self._lock:
            self._is_removed = True
        remove_path(self.folder)

    def _unpack(self, path: Path) -> None:
        inner = path.relative_to(self.folder).with_name(path.name[: -len(ZIP_ENDING)] or "zip")
        most = max(self._limits.num_files * _DIRECTORY_BYTES_PER_FILE, _DIRECTORY_BYTES)
        refusal = f"{path.name}: has more than {self._limits.num_files} files. {_ONE_SERIES}"
        try:
            with _ZipSource(path, most, refusal) as file, zipfile.ZipFile(file) as archive:
                file.is_bounded = False
                for member in archive.infolist():
                    if member.is_dir() or _is_hidden(member.filename) or _is_link(member):
                        continue
                    if member.flag_bits & 1:
                        raise InputError(
                            f"{path.name}: is encrypted. Unpack it and drop its files."
                        )
                    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                        raise InputError(
                            f"{path.name}: is compressed in another way than deflate. Unpack it "
                            "and drop its files."
                        )
                    self._count(0)
                    _, to = self._open_new(f"{inner}/{member.filename}")
                    with to, archive.open(member) as source:
                        self._copy_counted(source, to, path.name)
        except InputError:
            raise
        except Exception as error:  # the library raises errors of many types for damaged files
            raise InputError(
                f"{path.name}: is damaged or not a zip file. Make it again, or drop its files."
            ) from error
        path.unlink()

    def _copy(self, source: Readable, file: IO[bytes], num_bytes: int) -> int:
        """Copies at most `num_bytes`; returns how many there were."""
        left = num_bytes
        while left and (piece := source.read(min(left, _PIECE_BYTES))):
            if self._is_removed:
                break
            file.write(piece)
            left -= len(piece)
        return num_bytes - left

    def _copy_counted(self, source: IO[bytes], file: IO[bytes], zip_name: str) -> None:
        """Copies a file out of a zip; what the zip says of its size is not believed."""
        while piece := source.read(_PIECE_BYTES):
            self._num_bytes += len(piece)
            self._refuse_too_much()
            with writing_to(Path(zip_name), _ROOM):
                file.write(piece)
                file.flush()

    def _count(self, num_bytes: int) -> None:
        self._num_bytes += num_bytes
        self._num_files += 1
        self._refuse_too_much()

    def _refuse_too_much(self) -> None:
        limits = self._limits
        if self._num_files > limits.num_files:
            raise InputError(f"{self.name}: has more than {limits.num_files} files. {_ONE_SERIES}")
        if self._num_bytes > limits.num_bytes:
            raise InputError(
                f"{self.name}: is larger than {limits.num_bytes / 1e9:g} GB, unpacked. Drop a "
                "smaller part, or use mtseg-predict."
            )
        if self._is_removed:
            raise InputError(f"{self.name}: was removed.")
        with writing_to(Path(self.name), _ROOM):
            if shutil.disk_usage(self.folder).free < _SPARE_BYTES:
                raise InputError(f"{self.name}: the disk of temporary files is full. {_ROOM}")

    def _open_new(self, name: str) -> tuple[Path, IO[bytes]]:
        """Makes a file below the folder that did not exist yet; a number tells apart equal names.

        Raises:
            InputError: if it cannot be made.
        """
        parts = [safe_name(part) for part in name.replace("\\", "/").split("/") if part]
        parts = parts[-_DEEPEST_FOLDER:] or ["file"]
        # A single DICOM file gets a folder: the files of a series belong together.
        is_known = parts[-1].lower().endswith((*ENDINGS, ZIP_ENDING))
        if len(parts) == 1 and not is_known:
            parts = [self.name, *parts]
        path = self.folder.joinpath(*parts)
        with writing_to(Path(path.name), _ROOM):
            path.parent.mkdir(parents=True, exist_ok=True)
            while True:
                # Kept, or thousands of equal names would be tried a million times.
                number = self._num_of_name[path] = self._num_of_name.get(path, 0) + 1
                numbered = path if number == 1 else path.with_name(f"{number}_{path.name}")
                if not numbered.exists():
                    return numbered, numbered.open("xb")


class _ZipSource(io.BufferedReader):
    """A zip file whose table of contents is not read if it would fill the memory.

    The library reads the table in one piece, wherever it finds it and whatever its parts say of
    each other; so large pieces are refused.

    Attributes:
        is_bounded: whether large pieces are refused; to be cleared when the table is read.
    """

    def __init__(self, path: Path, most: int, refusal: str) -> None:
        super().__init__(io.FileIO(path))
        self.is_bounded = True
        self._most, self._refusal = most, refusal

    def read(self, size: int | None = -1, /) -> bytes:
        if not self.is_bounded:
            return super().read(size)
        wanted = self._most + 1 if size is None or size < 0 else size
        piece = b"" if wanted > self._most + 1 else super().read(wanted)
        if wanted > self._most + 1 or len(piece) > self._most:
            raise InputError(self._refusal)
        return piece


def safe_name(name: str) -> str:
    """A file name without anything that a path, a terminal or a page could take for something else.

    Letters and digits of any script stay, so a person recognises the file.

    Example:
        >>> safe_name("../../etc/passwd"), safe_name("Müller <b>.nii.gz")
        ('passwd', 'Müller _b_.nii.gz')
    """
    base = name.replace("\\", "/").rpartition("/")[2]
    kept = "".join(c if c.isalnum() or c in " ._-+()" else "_" for c in base).strip()
    # The ending says what a file is, so the beginning is cut.
    kept = kept.encode()[-_LONGEST_NAME:].decode("utf-8", "ignore").strip()
    if kept.startswith("."):
        kept = f"_{kept.lstrip('.')}"
    return kept or "file"


def _is_hidden(name: str) -> bool:
    """Whether a file in a zip is for a file manager: `.DS_Store`, `__MACOSX/`."""
    parts = name.replace("\\", "/").split("/")
    return parts[0] == "__MACOSX" or any(part.startswith(".") and part != ".." for part in parts)


def _is_link(member: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(member.external_attr >> 16)
