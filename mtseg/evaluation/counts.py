"""Voxel counts of one scan, from which every Dice, precision and recall follows.

Counts of several scans add up, so a whole test set is scored with the probabilities of one tile in
memory at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mtseg.evaluation import metrics
from mtseg.inference.decision import is_argmax_class, rank
from mtseg.inference.dense import DenseNetwork
from mtseg.inference.scan_statistics import ScanStatistics
from mtseg.inference.tiling import Tile
from mtseg.sources.reading import PreparedSubject
from mtseg.tasks.task import IGNORED


class TileObserver(Protocol):
    """An object that looks at the probabilities of each tile before they are discarded."""

    def keep(
        self, tile: Tile, mask: npt.NDArray[np.bool_], probabilities: npt.NDArray[np.float32]
    ) -> None:
        """Keeps what it needs of a tile.

        Args:
            tile: the tile.
            mask: booleans in the shape of the tile's core, its foreground.
            probabilities: float32 (foreground voxels, num_classes), in C order.
        """


@dataclasses.dataclass(frozen=True, eq=False)
class ScanCounts:
    """Counts of the voxels > 0 of one scan whose reference is known, by combined class.

    Attributes:
        confusion: int64 (num_classes, num_classes): reference class by most probable class.
        reached: class index -> int64 (101,): voxels that the decision rule would give to that
            class at each of `metrics.THRESHOLDS`; for the task's classes with an operating point.
        reached_overlap: the same for voxels whose reference is that class.
        statistics: of all voxels > 0, also those whose reference is not known.
    """

    confusion: npt.NDArray[np.int64]
    reached: dict[int, npt.NDArray[np.int64]]
    reached_overlap: dict[int, npt.NDArray[np.int64]]
    statistics: ScanStatistics

    def at_argmax(self, class_index: int) -> tuple[int, int, int]:
        """Voxels predicted by argmax, those of them that are right, and voxels in the reference."""
        c = class_index
        row, column = self.confusion[c].sum(), self.confusion[:, c].sum()
        return int(column), int(self.confusion[c, c]), int(row)

    def at_threshold(self, class_index: int, threshold: float) -> tuple[int, int, int]:
        """The same if the class has this operating point."""
        c, place = class_index, metrics.threshold_number(threshold)
        reference = int(self.confusion[c].sum())
        return int(self.reached[c][place]), int(self.reached_overlap[c][place]), reference

    def share_of(self, class_indices: Sequence[int]) -> float | None:
        """Share of voxels whose most probable class is one of these; None if there is no voxel."""
        total = int(self.confusion.sum())
        return float(self.confusion[:, list(class_indices)].sum() / total) if total else None


def count_scan(
    network: DenseNetwork,
    to_combined: npt.NDArray[np.uint8],
    is_thresholded: Sequence[bool],
    subject: PreparedSubject,
    observers: Sequence[TileObserver] = (),
) -> ScanCounts:
    """Computes a scan tile by tile and counts its voxels.

    Args:
        network: computes the tiles.
        to_combined: combined class index, uint8, at each of the task's own class indices.
        is_thresholded: for each combined class, whether it has an operating point.
        subject: the scan.
        observers: each one sees every tile.
    """
    num_classes = network.num_classes
    confusion = np.zeros(num_classes**2, np.int64)
    zeros = np.zeros(len(metrics.THRESHOLDS), np.int64)
    reached = {int(c): zeros.copy() for c in np.unique(to_combined[1:]) if is_thresholded[c]}
    overlap = {c: zeros.copy() for c in reached}
    statistics = ScanStatistics(num_classes)
    for tile, probabilities in network.run_all(subject.image, network.plan(subject.image)):
        mask = subject.image[tile.core] != 0
        statistics.add(probabilities)
        for observer in observers:
            observer.keep(tile, mask, probabilities)
        own_class = subject.class_index_map[tile.core][mask]
        is_known = own_class != IGNORED
        if not is_known.all():
            own_class, probabilities = own_class[is_known], probabilities[is_known]
        reference = to_combined[own_class].astype(np.int64)
        ranking = rank(np.moveaxis(probabilities, -1, 0), is_thresholded)
        pairs = reference * num_classes + ranking.most_probable
        confusion += np.bincount(pairs, minlength=len(confusion))
        is_decided = is_argmax_class(ranking.most_probable, is_thresholded)
        for c in reached:
            is_candidate = (ranking.candidate == c) & ~is_decided
            predicted, right = metrics.count_above_thresholds(
                reference[is_candidate] == c, ranking.candidate_probability[is_candidate]
            )
            reached[c] += predicted
            overlap[c] += right
    return ScanCounts(confusion.reshape(num_classes, num_classes), reached, overlap, statistics)
