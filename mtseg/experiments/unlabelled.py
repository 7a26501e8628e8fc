"""Scans without labels: a network for all tasks segments them, and its aliens are counted.

Whether a label is right nobody can say of such a scan, but a class of another task is wrong.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtseg.errors import InputError
from mtseg.experiments.results import Result
from mtseg.inference.scan_statistics import ScanStatistics
from mtseg.inference.verdict import assess
from mtseg.models.export import export_weights
from mtseg.models.loading import load
from mtseg.prediction.pipeline import segment_files
from mtseg.system.atomic_files import write_json
from mtseg.training.workdir import read_json, weights_path

UNLABELLED = "unlabelled.json"


def segment_unlabelled(
    results: Sequence[Result], path: Path, scans: Sequence[tuple[str, Path]]
) -> list[dict[str, Any]]:
    """Segments scans as `mtseg-predict` does.

    What has been computed is kept beside the experiments, so that a second report is quick.

    Args:
        results: finished experiments; the network for most tasks is taken.
        path: their folder.
        scans: name of the task that each scan is for, and its file.

    Returns:
        For each scan a dictionary: `scan`, `task`, `taken_for`, `num_voxels` > 0, `own_share` and
        `alien_share` of them with a class of the task or of another, by argmax, and
        `mean_confidence`.

    Raises:
        InputError: if a scan cannot be segmented, or the network has no such task.
    """
    if not results or not scans:
        return []
    largest = max(results, key=lambda r: len(r.experiment.task_names))
    label_space = largest.label_space
    kept = path / UNLABELLED
    known = read_json(kept) if kept.is_file() else {}
    version = weights_path(largest.workdir, "last").stat().st_mtime_ns
    rows = []
    with tempfile.TemporaryDirectory(prefix="mtseg-") as folder:
        model = None
        for task, _ in scans:
            label_space.offset(task)  # before the long work: is it one of the network's?
        for task, scan in scans:
            own = list(label_space.class_indices(task))
            aliens = list(label_space.alien_indices(task))
            key = f"{scan.resolve()} {scan.stat().st_mtime_ns} {version}"
            if key not in known:
                if model is None:
                    model = load(export_weights(largest.workdir, Path(folder) / "model"))
                print(f"Segmenting {scan.name} …", flush=True)
                ((_, outcome),) = segment_files(model, [scan], Path(folder))
                if isinstance(outcome, InputError):
                    raise outcome
                known[key] = outcome.statistics.to_json()
                write_json(kept, known)
            statistics = ScanStatistics.from_json(known[key])
            shares = statistics.shares
            rows.append(
                {
                    "scan": scan.name,
                    "task": task,
                    "taken_for": assess(statistics, label_space.class_task).task,
                    "num_voxels": int(statistics.num_voxels.sum()),
                    "own_share": float(shares[own].sum()),
                    "alien_share": float(shares[aliens].sum()),
                    "mean_confidence": statistics.mean_confidence,
                }
            )
    return rows
