"""The names of result files, and whether a scan has been segmented already.

The verdict file of a scan, written last, records what its results were made from. So a job that was
killed resumes with the remaining scans, and a changed scan, model or option is computed again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def made_from(
    path: Path, model_id: str | None, precision: str, options: dict[str, Any]
) -> dict[str, Any]:
    """What decides a scan's results.

    Args:
        path: the scan, a file or the folder of a DICOM series.
        model_id: of the model; None is one that cannot be told from others.
        precision: in which its convolutions run.
        options: all others.
    """
    files = [file for file in path.iterdir() if file.is_file()] if path.is_dir() else [path]
    states = [file.stat() for file in files]
    return {
        "model_id": model_id,
        "precision": precision,
        "scan_bytes": sum(state.st_size for state in states),
        "scan_modified_ns": max((state.st_mtime_ns for state in states), default=0),
        **options,
    }


def is_done(stem: Path, wanted: dict[str, Any]) -> bool:
    """Whether the results of a scan are there.

    Args:
        stem: what their names begin with.
        wanted: from `made_from`.
    """
    if wanted["model_id"] is None or not label_path(stem).is_file():
        return False
    try:
        return json.loads(verdict_path(stem).read_text())["made_from"] == wanted
    except (OSError, ValueError, KeyError, TypeError):
        return False


def label_path(stem: Path) -> Path:
    """Where a scan's labels go."""
    return stem.with_name(f"{stem.name}_labels.nii.gz")


def verdict_path(stem: Path) -> Path:
    """Where a scan's verdict goes."""
    return stem.with_name(f"{stem.name}_verdict.json")
