"""A reference label map beside the network's labels: what its numbers mean, and Dice of each class.

A reference may have the labels that the package writes, or those of a source that a shipped task
file describes, such as the numbers of FreeSurfer. A number may be both: in labels of the Decathlon,
1 is a part of the hippocampus, and the package writes 1 for white matter. So labels are those of
the package only if one of them is a class of the task that the scan was recognised as.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.evaluation.metrics import overlap_figures
from mtseg.scans.label_files import read_label_map
from mtseg.scans.volume import Volume, match_grid
from mtseg.tasks.label_table import LabelEntry
from mtseg.tasks.task import IGNORED, first_ten
from mtseg.tasks.task_file import read_task, shipped_path, shipped_tasks
from mtseg.viewer.display import REFERENCE_COPY, write_display_labels


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """A reference and how far the network's labels agree with it.

    Attributes:
        reference: uint8, in the labels of the package, on the scan's grid.
        numbering: what its numbers were read as, in words.
        dice: class name -> Dice; None for a class that the reference does not have.
    """

    reference: Volume
    numbering: str
    dice: dict[str, float | None]


def compare_with_reference(
    label_path: Path, reference_path: Path, table: Sequence[LabelEntry], task: str | None
) -> Comparison:
    """Reads a reference and computes Dice.

    Args:
        label_path: the network's labels.
        reference_path: label map on the grid of the scan; its axes may be flipped or swapped.
        table: the labels of the network.
        task: the task that the scan was recognised as; None if nothing was labelled.

    Raises:
        InputError: if the reference cannot be read, is on another grid, or has labels of unknown
            meaning.
    """
    labels = read_label_map(label_path)
    reference = match_grid(labels, read_label_map(reference_path), label_path.name, reference_path)
    array, numbering, ignored = _in_own_labels(reference.array, reference_path, table, task)
    dice: dict[str, float | None] = {}
    counts = _count_pairs(labels.array, array, ignored)
    for entry in table:
        num_predicted = int(counts[entry.label, :].sum())
        num_reference = int(counts[:, entry.label].sum())
        overlap = int(counts[entry.label, entry.label])
        dice[entry.name] = overlap_figures(num_predicted, overlap, num_reference)["dice"]
    return Comparison(dataclasses.replace(labels, array=array), numbering, dice)


def show_reference(
    out: Path,
    label_maps: Mapping[str, str],
    reference_path: Path,
    table: Sequence[LabelEntry],
    task: str | None,
) -> dict[str, Any]:
    """Compares label files of a scan with a reference, and writes its copy for the browser.

    Args:
        out: folder of the scan's results.
        label_maps: key of a label map of the page -> name of its file among the results.
        reference_path: as for `compare_with_reference`.
        table: the labels of the network.
        task: the task that the scan was recognised as.

    Returns:
        `name` and `numbering` of the reference, and `dice`: key -> class name -> Dice.

    Raises:
        InputError: as `compare_with_reference`, or if the copy cannot be written.
    """
    compared = {
        key: compare_with_reference(out / "results" / name, reference_path, table, task)
        for key, name in label_maps.items()
    }
    first = next(iter(compared.values()))
    write_display_labels(out / REFERENCE_COPY, first.reference)
    return {
        "name": reference_path.name,
        "numbering": first.numbering,
        "dice": {key: of_map.dice for key, of_map in compared.items()},
    }


def _in_own_labels(
    array: npt.NDArray[np.integer], path: Path, table: Sequence[LabelEntry], task: str | None
) -> tuple[npt.NDArray[np.uint8], str, npt.NDArray[np.bool_] | None]:
    """The reference in the labels of the package, what it was read as, and voxels not to score."""
    found = set(np.unique(array).tolist()) - {0}
    if not found:
        raise InputError(f"{path}: has no label. Give a label map of the scan.")
    own = {entry.label for entry in table}
    of_task = {entry.label for entry in table if task in (None, entry.task)}
    if found <= own and found & of_task:
        return array.astype(np.uint8), "its labels are those of mtseg", None
    label_of = {entry.name: entry.label for entry in table}
    if task in shipped_tasks():
        shipped = read_task(shipped_path(task))
        for source in shipped.sources:
            if not source.values:
                continue
            try:
                classes = shipped.map_labels(array, source, path)
            except InputError:
                continue
            lookup = np.zeros(256, np.uint8)
            for index, name in enumerate(shipped.class_names):
                lookup[index] = label_of.get(name, 0)
            words = f"its labels were read as those of {source.name} ({task})"
            return lookup[classes], words, classes == IGNORED
    unknown = first_ten(sorted(found - of_task))
    of_scan = "" if task is None else f" in a scan of {task}"
    raise InputError(
        f"{path}: its labels {unknown} have no known meaning{of_scan}. Give a label map with the "
        "labels that mtseg writes, or of a source that the task knows."
    )


def _count_pairs(
    predicted: npt.NDArray[np.integer],
    reference: npt.NDArray[np.uint8],
    ignored: npt.NDArray[np.bool_] | None,
) -> npt.NDArray[np.int64]:
    """How many voxels have each pair of labels; int64 (256, 256), predicted then reference."""
    counts = np.zeros(256 * 256, np.int64)
    for k in range(predicted.shape[-1]):  # slice by slice, to bound memory
        pairs = 256 * predicted[..., k].astype(np.int64) + reference[..., k]
        if ignored is not None:
            pairs = pairs[~ignored[..., k]]
        counts += np.bincount(pairs.ravel(), minlength=256 * 256)
    return counts.reshape(256, 256)
