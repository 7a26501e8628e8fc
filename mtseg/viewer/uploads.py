"""Files that a browser sends: where they are put, how large they may be, and zip files unpacked.

Nothing that is sent decides where a file goes: names are made harmless and stay below the folder of
their upload. Files are written as they arrive, so memory does not grow with them.
"""

from __future__ import annotations

import dataclasses
import shutil
import stat
import zipfile
import zlib
from pathlib import Path
from typing import IO, Protocol

from mtseg.errors import InputError
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

_DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, EOFError, OSError),
    *(ValueError, NotImplementedError, RuntimeError),
)
"""What the library raises for a file that is damaged or not a zip."""

_ROOM = "Make room, or set TMPDIR to a folder on a larger disk."


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
    """The files of one drop: a scan, a folder, or a zip.

    Args:
        folder: for its files; made here.
        name: of what was dropped, as the browser tells it.
        limits: what it may be.
    """

    def __init__(self, folder: Path, name: str, limits: Limits) -> None:
        self.folder, self.name = folder, safe_name(name)
        self._limits = limits
        self._num_bytes = self._num_files = 0
        with writing_to(folder, _ROOM):
            folder.mkdir(parents=True)

    def receive(self, name: str, source: Readable, num_bytes: int) -> None:
        """Writes a file that is sent.

        Args:
            name: of the file, with its folders, as the browser tells it.
            source: the bytes.
            num_bytes: how many there are.

        Raises:
            InputError: if it is too large, or ends early; nothing of it is left.
        """
        self._count(num_bytes)
        path = self._place(name)
        try:
            with writing_to(Path(path.name), _ROOM):
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("xb") as file:
                    num_copied = _copy(source, file, num_bytes)
        except BaseException:
            remove_path(path)
            raise
        if num_copied < num_bytes:
            remove_path(path)
            raise InputError(f"{path.name}: the transfer was interrupted. Drop it again.")

    def unpack(self) -> None:
        """Puts the files of each zip in its place; a folder of the name of the zip.

        Raises:
            InputError: if a zip is damaged, encrypted, or has too much in it.
        """
        for path in sorted(self.folder.rglob("*")):
            if path.name.lower().endswith(ZIP_ENDING) and path.is_file():
                self._unpack(path)

    def remove(self) -> None:
        """Removes its files."""
        remove_path(self.folder)

    def _unpack(self, path: Path) -> None:
        _refuse_large_directory(path, self._limits.num_files)
        inner = Path(path.name[: -len(ZIP_ENDING)] or "zip")
        try:
            with zipfile.ZipFile(path) as archive:
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
                    to = self._place(f"{inner}/{member.filename}")
                    with writing_to(Path(path.name), _ROOM):
                        to.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(member) as source, to.open("xb") as file:
                        self._copy_counted(source, file)
        except _DAMAGED as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{path.name}: is damaged or not a zip file. Make it again, or drop its files."
            ) from error
        path.unlink()

    def _copy_counted(self, source: IO[bytes], file: IO[bytes]) -> None:
        """Copies a file out of a zip; what the zip says of its size is not believed."""
        while piece := source.read(_PIECE_BYTES):
            self._num_bytes += len(piece)
            self._refuse_too_much()
            file.write(piece)

    def _count(self, num_bytes: int) -> None:
        self._num_bytes += num_bytes
        self._num_files += 1
        self._refuse_too_much()

    def _refuse_too_much(self) -> None:
        limits = self._limits
        if self._num_files > limits.num_files:
            raise InputError(
                f"{self.name}: has more than {limits.num_files} files. Drop one series at a time."
            )
        if self._num_bytes > limits.num_bytes:
            raise InputError(
                f"{self.name}: is larger than {limits.num_bytes / 1e9:g} GB, unpacked. Drop a "
                "smaller part, or use mtseg-predict."
            )
        if shutil.disk_usage(self.folder).free < _SPARE_BYTES:
            raise InputError(f"{self.name}: the disk of temporary files is full. {_ROOM}")

    def _place(self, name: str) -> Path:
        """A path below the folder that does not exist yet."""
        parts = [safe_name(part) for part in name.replace("\\", "/").split("/") if part]
        parts = parts[-_DEEPEST_FOLDER:] or ["file"]
        # A single DICOM file gets a folder: the files of a series belong together.
        is_known = parts[-1].lower().endswith((*ENDINGS, ZIP_ENDING))
        if len(parts) == 1 and not is_known:
            parts = [self.name, *parts]
        path = self.folder.joinpath(*parts)
        number = 1
        while path.exists():
            number += 1
            path = path.with_name(f"{number}_{parts[-1]}")
        return path


def safe_name(name: str) -> str:
    """A file name without anything that a path, a terminal or a page could take for something else.

    Letters and digits of any script stay, so a person recognises the file.

    Example:
        >>> safe_name("../../etc/passwd"), safe_name("Müller <b>.nii.gz")
        ('passwd', 'Müller _b_.nii.gz')
    """
    base = name.replace("\\", "/").rpartition("/")[2]
    kept = "".join(c if c.isalnum() or c in " ._-+()" else "_" for c in base).strip()
    if kept.startswith("."):
        kept = f"_{kept.lstrip('.')}"
    # The ending says what a file is, so the beginning is cut.
    while len(kept.encode("utf-8", "replace")) > _LONGEST_NAME:
        kept = kept[1:]
    return kept.strip() or "file"


def _copy(source: Readable, file: IO[bytes], num_bytes: int) -> int:
    """Copies at most `num_bytes`; returns how many there were."""
    left = num_bytes
    while left and (piece := source.read(min(left, _PIECE_BYTES))):
        file.write(piece)
        left -= len(piece)
    return num_bytes - left


def _is_hidden(name: str) -> bool:
    """Whether a file in a zip is for a file manager: `.DS_Store`, `__MACOSX/`."""
    parts = name.replace("\\", "/").split("/")
    return parts[0] == "__MACOSX" or any(part.startswith(".") and part != ".." for part in parts)


def _is_link(member: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(member.external_attr >> 16)


def _refuse_large_directory(path: Path, num_files: int) -> None:
    """Refuses a zip whose table of contents would fill the memory: it is read as a whole.

    Raises:
        InputError: if it is larger than that of `num_files` files.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - (1 << 16) - 100))
        end = file.read()
    at = end.rfind(b"PK\x05\x06")
    directory_bytes = int.from_bytes(end[at + 12 : at + 16], "little") if at >= 0 else 0
    if (wide := end.rfind(b"PK\x06\x06", 0, max(at, 0))) >= 0:  # of a large zip; it overrules
        directory_bytes = max(directory_bytes, int.from_bytes(end[wide + 40 : wide + 48], "little"))
    if directory_bytes > num_files * _DIRECTORY_BYTES_PER_FILE:
        raise InputError(
            f"{path.name}: has more than {num_files} files. Drop one series at a time."
        )
