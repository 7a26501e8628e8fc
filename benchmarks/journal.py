"""What a long benchmark has measured, kept in a file so that it can go on where it was stopped."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import mtseg


class Journal:
    """A file of JSON objects, one a line.

    Of a file that has measurements of several networks, or of other code, only those of this
    network and this code are found.

    Args:
        path: the file, made with its folder if it is missing; None keeps nothing.
        network: says which network is measured, and how it computes.
    """

    def __init__(self, path: Path | None, network: str) -> None:
        self._path = path
        self._made_by = {"code": _digest_of_package(), "network": network}
        lines: list[str] = []
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()  # a place that cannot be written ends a run now, not after its first hour
            lines = path.read_text().splitlines()
        self._entries = {
            entry.pop("of"): entry.pop("measured")
            for entry in map(json.loads, lines)
            if entry.items() >= self._made_by.items()
        }

    def find(self, name: str) -> dict[str, Any] | None:
        """What was measured of a thing; None if it was not."""
        return self._entries.get(name)

    def keep(self, name: str, measured: dict[str, Any]) -> None:
        """Writes down what was measured of a thing."""
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps({**self._made_by, "of": name, "measured": measured}) + "\n")


def _digest_of_package() -> str:
    """Changes with every change of the package's code."""
    digest = hashlib.sha256()
    for path in sorted(Path(mtseg.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
