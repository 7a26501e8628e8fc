"""What is known of a scan without reading its voxels, and the checksum of its content."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from pathlib import Path

from mtseg.errors import InputError
from mtseg.scans.reading import scan_files
from mtseg.system.checksums import file_checksum


@dataclasses.dataclass(frozen=True)
class FileState:
    """A scan or a label map on disk: a file, a folder of DICOM files, or a header and its voxels.

    Attributes:
        path: of the file, folder or header.
        size: in bytes; of several files, their sum.
        modified_ns: time of the last change; of several files, the latest.
        changed_ns: likewise, of the last change of the file's entry on disk: no program can set it,
            so a file that was replaced by one with the same size and time is known.
        listing: of a folder or several files, a checksum of their names, sizes and times; else
            empty.
        sha256: checksum of the content; empty if it was not computed.
    """

    path: str
    size: int
    modified_ns: int
    changed_ns: int
    listing: str = ""
    sha256: str = ""

    def looks_like(self, other: FileState) -> bool:
        """Whether path, size and times are equal, so that the contents need not be compared."""
        return dataclasses.replace(self, sha256="") == dataclasses.replace(other, sha256="")

    def with_checksum(self) -> FileState:
        """The same with the checksum of the content; that of several files has their names too.

        Raises:
            InputError: if it can no longer be read.
        """
        return _add_checksum(self)


def file_state(path: str) -> FileState:
    """Describes a file or a folder as it is now, without its checksum.

    Raises:
        InputError: if it no longer exists.
    """
    place = Path(os.path.abspath(path))
    try:
        are_several, files = _list_files(place)
        listed = [[file.name, *_size_and_times(file)] for file in files]
    except OSError as error:
        raise _lost_file(error) from error
    _, *columns = zip(*listed, strict=True) if listed else ((), (0,), (0,), (0,))
    size, modified_ns, changed_ns = sum(columns[0]), max(columns[1]), max(columns[2])
    listing = hashlib.sha256(json.dumps(listed).encode()).hexdigest() if are_several else ""
    return FileState(str(place), size, modified_ns, changed_ns, listing)


def _list_files(place: Path) -> tuple[bool, list[Path]]:
    """Whether a path stands for several files, and which."""
    if place.is_dir():
        return True, sorted(place.iterdir())
    files = scan_files(place)
    return len(files) > 1, files


def _size_and_times(file: Path) -> tuple[int, int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


@functools.lru_cache(maxsize=2**16)  # patches and volumes are compared with the same files
def _add_checksum(state: FileState) -> FileState:
    path = Path(state.path)
    try:
        are_several, files = _list_files(path)
        if not are_several:
            return dataclasses.replace(state, sha256=file_checksum(path))
        listed = [[file.name, file_checksum(file)] for file in files if file.is_file()]
    except OSError as error:
        raise _lost_file(error) from error
    checksum = hashlib.sha256(json.dumps(listed).encode()).hexdigest()
    return dataclasses.replace(state, sha256=checksum)


def _lost_file(error: OSError) -> InputError:
    return InputError(
        f"{error.filename}: can no longer be read ({error.strerror}). Restore it, or leave the "
        "subject out."
    )
