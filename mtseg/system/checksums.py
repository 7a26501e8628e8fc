"""Digests: a folder of files comes in, a list of their SHA-256 leaves, and damage is noticed.

The list is the file `SHA256SUMS`, so `sha256sum --check SHA256SUMS` checks a model as well.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from mtseg.errors import InputError

CHECKSUMS = "SHA256SUMS"


_NOT_OURS = "assets.extra"
"""Whoever serves a model puts requests in here that warm its server up."""


def file_checksum(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def list_checksums(folder: Path) -> str:
    """What `SHA256SUMS` says of a folder's files, in the format of `sha256sum`."""
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not path.name.startswith(".")
        and path.name != CHECKSUMS
        and path.relative_to(folder).parts[0] != _NOT_OURS
    )
    return "".join(f"{file_checksum(path)}  {path.relative_to(folder)}\n" for path in files)


def verify_checksums(folder: Path) -> None:
    """Compares a folder's files with its list; nothing is checked where there is none.

    Raises:
        InputError: if a file is missing or has changed.
    """
    try:
        lines = (folder / CHECKSUMS).read_text().splitlines()
        if not lines:
            raise ValueError("it is empty")
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / CHECKSUMS}: cannot be read. Copy the model again.") from error
    for line in lines:
        digest, _, name = line.partition("  ")
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
            raise InputError(f"{path}: is missing, but {CHECKSUMS} names it. Copy the model again.")
        if file_checksum(path) != digest:
            raise InputError(
                f"{path}: is damaged or was changed: {CHECKSUMS} has another digest of it. Copy or "
                "export the model again."
            )
