"""Segments scans without labels with the network for all tasks, for the report.

Whether a label of such a scan is right cannot be said, but a class of another task is wrong.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from mtseg.errors import InputError
from mtseg.experiments.results import Result, largest_network
from mtseg.inference.verdict import ScanStatistics, assess
from mtseg.models.export import export_weights
from mtseg.models.loading import load
from mtseg.prediction.pipeline import segment_files
from mtseg.prediction.results import describe_scan_files
from mtseg.runs.workdir import weights_path
from mtseg.system.atomic_files import parse_json, write_json, writing_to
from mtseg.tasks.label_space import LabelSpace

UNLABELLED = "unlabelled.json"
"""File beside the experiments: statistics of the scans that have been segmented."""


@dataclasses.dataclass(frozen=True)
class UnlabelledScan:
    """What a network makes of a scan without labels.

    Attributes:
        name: name of the scan's file.
        task: name of the task that the scan is for.
        recognised_as: the task with most labelled voxels; None if no voxel has a label.
        num_voxels: number of voxels > 0, at the voxel size of the computation.
        own_share: share of these voxels with a class of `task`, by argmax.
        cross_task_share: share of these voxels with a class of another task, by argmax.
        mean_confidence: mean probability of the most probable class over these voxels.
    """

    name: str
    task: str
    recognised_as: str | None
    num_voxels: int
    own_share: float
    cross_task_share: float
    mean_confidence: float


def segment_unlabelled(
    results: Sequence[Result], path: Path, scans: Sequence[tuple[str, Path]]
) -> list[UnlabelledScan]:
    """Segments scans as `mtseg-predict` does, with the network for most tasks.

    Statistics of each scan are stored in `unlabelled.json` beside the experiments, so a second
    report does not compute them again. A changed scan or network is computed again.

    Args:
        results: finished experiments.
        path: their folder.
        scans: for each scan the name of the task that it is for, and its file.

    Returns:
        One entry per scan, in order; empty without results or scans.

    Raises:
        InputError: if a scan cannot be segmented, the network does not have its task, or
            `unlabelled.json` cannot be read or written.
    """
    if not results or not scans:
        return []
    largest = largest_network(results)
    label_space = largest.label_space
    for task, _ in scans:
        label_space.offset(task)  # raises for an unknown task, before the long computation
    statistics = _segment_all(largest, path, [scan for _, scan in scans])
    return [
        _describe(label_space, task, scan, of_scan)
        for (task, scan), of_scan in zip(scans, statistics, strict=True)
    ]


def _segment_all(network: Result, path: Path, scans: Sequence[Path]) -> Iterator[ScanStatistics]:
    """Yields the stored or computed statistics of each scan."""
    stored_path = path / UNLABELLED
    stored = _read_statistics(stored_path)
    weights_time_ns = weights_path(network.workdir, "last").stat().st_mtime_ns
    with tempfile.TemporaryDirectory(prefix="mtseg-") as folder:
        model = None
        for scan in scans:
            files = describe_scan_files(scan)
            key = f"{files['scan_path']} {files['scan_modified_ns']} {weights_time_ns}"
            if key not in stored:
                if model is None:
                    model = load(export_weights(network.workdir, Path(folder) / "model"))
                print(f"Segmenting {scan.name} …", flush=True)
                ((_, outcome),) = segment_files(model, [scan], Path(folder))
                if isinstance(outcome, InputError):
                    raise outcome
                # Rounded as in the file, so that a second report shows the same values.
                stored[key] = ScanStatistics.from_json(outcome.statistics.to_json())
                with writing_to(path, "Make room in this folder and rerun the command."):
                    write_json(stored_path, {key: of.to_json() for key, of in stored.items()})
            yield stored[key]


def _read_statistics(path: Path) -> dict[str, ScanStatistics]:
    """The stored statistics of earlier reports; empty if there is no file.

    Raises:
        InputError: if the file cannot be read.
    """
    try:
        stored = parse_json(path.read_text())
        return {key: ScanStatistics.from_json(of_scan) for key, of_scan in stored.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: cannot be read. Remove it: the scans without labels are segmented again."
        ) from error


def _describe(
    label_space: LabelSpace, task: str, scan: Path, statistics: ScanStatistics
) -> UnlabelledScan:
    shares = statistics.shares
    return UnlabelledScan(
        name=scan.name,
        task=task,
        recognised_as=assess(statistics, label_space.class_task).task,
        num_voxels=int(statistics.num_voxels.sum()),
        own_share=float(shares[list(label_space.class_indices(task))].sum()),
        cross_task_share=float(shares[list(label_space.indices_of_other_tasks(task))].sum()),
        mean_confidence=statistics.mean_confidence,
    )
