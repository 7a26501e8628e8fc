"""Checksums of the files in a folder, so that damage to a model is found before it is used.

The list is a file `SHA256SUMS`, which `sha256sum --check SHA256SUMS` reads as well.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from mtseg.errors import InputError

CHECKSUMS = "SHA256SUMS"
"""The file that lists the checksums of its folder."""

_NOT_LISTED = "assets.extra"
"""A folder where the operator of a server may put warm-up requests of their own."""


def file_checksum(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    checksum = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            checksum.update(block)
    return checksum.hexdigest()


def list_checksums(folder: Path) -> str:
    """The contents of `SHA256SUMS` for a folder, in the format of the command `sha256sum`."""
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not path.name.startswith(".")
        and path.name != CHECKSUMS
        and path.relative_to(folder).parts[0] != _NOT_LISTED
    )
    return "".join(f"{file_checksum(path)}  {path.relative_to(folder)}\n" for path in files)


def verify_checksums(folder: Path) -> None:
    """Compares the files of a folder with its `SHA256SUMS`; without such a file, nothing is
    checked.

    Raises:
        InputError: if a file is missing or has changed, or the list cannot be read.
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
        checksum, _, name = line.partition("  ")
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
            raise InputError(f"{path}: is missing, but {CHECKSUMS} lists it. Copy the model again.")
        if file_checksum(path) != checksum:
            raise InputError(
                f"{path}: is damaged or was changed: its checksum differs from {CHECKSUMS}. Copy "
                "or export the model again."
            )
