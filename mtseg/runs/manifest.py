"""The folder of a model, and the manifest in it: what the model is, as JSON.

Use this module to find and read a model's files; it imports no TensorFlow. The fields of the
manifest are those that `mtseg.models.export` writes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mtseg.errors import InputError
from mtseg.system.atomic_files import parse_json

MANIFEST = "manifest.json"
"""The file of the manifest in a model's folder."""

MANIFEST_SCHEMA = 2
"""The version of the manifest's format that is written and read."""

WEIGHTS = "model.weights.h5"
"""The file of the weights, in the folder of a model that was exported without graphs."""

CONFIG = "config.json"
"""The file of a run's configuration in the folder of the run, which is a model, too."""

PACKAGED = Path(__file__).parents[1] / "models" / "packaged"
"""The folder of the model that comes with the package; others are folders in it."""

MAY_USE_INT8 = "may_use_int8"
"""The field that lets `--precision auto` compute a model in int8; it is true, or missing."""

_REQUIRED = ("classes", "operating_points", "label_space", "training")


def packaged_models() -> dict[str, Path]:
    """The models that come with the package: name -> folder, the default first.

    Example:
        >>> list(packaged_models())[0]
        'packaged'
    """
    others = sorted(path for path in PACKAGED.iterdir() if (path / MANIFEST).is_file())
    return {PACKAGED.name: PACKAGED, **{path.name: path for path in others}}


def locate_model(model: str | os.PathLike[str]) -> Path:
    """The folder of a model that is given by its folder, or by the name of a packaged one.

    Raises:
        InputError: if it is a name, and there is a folder of this name here too.
    """
    named = packaged_models().get(os.fspath(model))
    if named is None:
        return Path(model)
    if Path(model).exists():
        raise InputError(
            f"{model}: is the name of a model that comes with mtseg, and of a folder here. For the "
            f"folder, give its whole path: {Path(model).absolute()}"
        )
    return named


def versions(out: Path) -> list[int]:
    """The numbers of the versions in a model's folder, in ascending order."""
    return sorted(int(p.name) for p in out.iterdir() if p.is_dir() and p.name.isdecimal())


def find_model(path: Path) -> Path:
    """Finds the files of a model without reading them, so that a command can do it at once.

    Args:
        path: folder of a model, of one version of it, or of a training run.

    Returns:
        The folder of the weights, of the newest version, or of the run.

    Raises:
        InputError: if there is no such folder, or it has no model.
    """
    if not path.is_dir():
        raise InputError(
            f"{path}: no such folder. Give a model, one that mtseg models lists, or make one with: "
            f"mtseg-export WORKDIR {path}"
        )
    if any((path / name).is_file() for name in (WEIGHTS, MANIFEST, CONFIG)):
        return path
    numbers = versions(path)
    if not numbers:
        raise InputError(
            f"{path}: has no exported model. Make one with: mtseg-export WORKDIR {path}"
        )
    return path / str(numbers[-1])


def require_trained(path: Path) -> None:
    """Refuses a folder that has neither a run nor exported weights, without reading them.

    Raises:
        InputError: if so.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such folder. Give the --workdir of mtseg-train.")
    if not any((path / name).is_file() for name in (WEIGHTS, CONFIG)):
        raise InputError(
            f"{path}: is neither the folder of a training run ({CONFIG} is missing) nor a model "
            "that was exported with --format weights. Give the --workdir of mtseg-train."
        )


def read_manifest(path: Path) -> dict[str, Any]:
    """Reads the manifest in a model's folder.

    Raises:
        InputError: if it is missing or unreadable, or of another version of mtseg.
    """
    try:
        manifest = parse_json((path / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path / MANIFEST}: is missing or unreadable. Export the model again."
        ) from error
    return check_manifest(manifest, str(path / MANIFEST))


def check_manifest(manifest: Any, where: str) -> dict[str, Any]:
    """Returns a manifest that was read as JSON, if it is one of this version.

    Args:
        manifest: the parsed JSON.
        where: file or server that it came from, for the message.

    Raises:
        InputError: if it is not a manifest, or of another version of mtseg.
    """
    if not isinstance(manifest, dict) or "schema" not in manifest:
        raise InputError(f"{where}: is not a manifest of a model. Export the model again.")
    if manifest["schema"] != MANIFEST_SCHEMA:
        raise InputError(
            f"{where}: has schema {manifest['schema']}, this version of mtseg reads "
            f"{MANIFEST_SCHEMA}. Export the model again."
        )
    for name in _REQUIRED:
        if name not in manifest:
            raise InputError(f"{where}: lacks {name}. Export the model again.")
    return manifest
