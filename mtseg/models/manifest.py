"""The file `manifest.json` beside an exported model: reading and checking it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mtseg.errors import InputError

MANIFEST = "manifest.json"


MANIFEST_SCHEMA = 2


WEIGHTS = "model.weights.h5"
"""The network's weights where a model is exported as such, without TensorFlow's graph."""


PACKAGED = Path(__file__).parent / "packaged"
"""The model that comes with the package."""


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest in a model's folder.

    Raises:
        InputError: if it is missing, unreadable or of another version of mtseg.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path / MANIFEST}: missing or unreadable. Export the model again."
        ) from error
    check_manifest(manifest, str(path / MANIFEST))
    return manifest


def check_manifest(manifest: Any, where: str) -> None:
    """Refuses what is not a manifest of this version.

    Raises:
        InputError: naming where it is from.
    """
    if not isinstance(manifest, dict) or "schema" not in manifest:
        raise InputError(f"{where}: is not a manifest of a model. Export the model again.")
    if manifest["schema"] != MANIFEST_SCHEMA:
        raise InputError(
            f"{where}: has schema {manifest['schema']}, this version of mtseg reads "
            f"{MANIFEST_SCHEMA}. Export the model again."
        )
    for name in ("classes", "operating_points", "label_space", "training"):
        if name not in manifest:
            raise InputError(f"{where}: lacks {name}. Export the model again.")
