"""One scan, counted: its probabilities come in tile by tile, numbers of voxels leave.

Counts of several scans add up, so a whole test set is scored with one tile's probabilities in
memory at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from mtseg.evaluation import metrics
from mtseg.inference.dense import DenseNetwork
from mtseg.inference.scan_statistics import ScanStatistics
from mtseg.inference.tiling import Tile
from mtseg.sources.reading import PreparedSubject
from mtseg.tasks.task import IGNORED


class TileObserver(Protocol):
    """What looks at the probabilities of a scan while they are there."""

    def keep(self, tile: Tile, mask: np.ndarray, probabilities: np.ndarray) -> None:
        """Takes what it wants of a tile.

        Args:
            tile: which.
            mask: booleans of the tile's size, its foreground.
            probabilities: float32 (voxels of the foreground, num_classes), in C order.
        """


@dataclasses.dataclass(frozen=True)
class ScanCounts:
    """Voxels > 0 of one scan of which it is known what they are, by combined class.

    Attributes:
        confusion: int64 (num_classes, num_classes), of a class in the reference and of a class at
            highest activation.
        reached: int64 (num_classes, 101), voxels whose probability of the task's own class reaches
            each of `metrics.THRESHOLDS`.
        reached_overlap: likewise, those of them that have the class in the reference.
        statistics: of all voxels > 0, also those of which it is not known what they are.
    """

    confusion: np.ndarray
    reached: np.ndarray
    reached_overlap: np.ndarray
    statistics: ScanStatistics

    def at_activation(self, class_index: int) -> tuple[int, int, int]:
        """Voxels predicted by highest activation, those that are right, and all of the class."""
        c = class_index
        row, column = self.confusion[c].sum(), self.confusion[:, c].sum()
        return int(column), int(self.confusion[c, c]), int(row)

    def at_threshold(self, class_index: int, threshold: float) -> tuple[int, int, int]:
        """The same where the class's probability reaches a threshold."""
        c, place = class_index, metrics.threshold_number(threshold)
        reference = int(self.confusion[c].sum())
        return int(self.reached[c, place]), int(self.reached_overlap[c, place]), reference

    def share_of(self, class_indices: Sequence[int]) -> float | None:
        """Share of the voxels whose highest activation is one of some classes; None without any."""
        total = int(self.confusion.sum())
        return float(self.confusion[:, list(class_indices)].sum() / total) if total else None


def count_scan(
    network: DenseNetwork,
    to_combined: np.ndarray,
    subject: PreparedSubject,
    observers: Sequence[TileObserver] = (),
) -> ScanCounts:
    """Computes a scan tile by tile, and counts each at once.

    Args:
        network: what computes tiles.
        to_combined: combined class index, uint8, at each of the task's own class indices.
        subject: the scan.
        observers: each is shown every tile.
    """
    num_classes = network.num_classes
    confusion = np.zeros(num_classes**2, np.int64)
    reached = np.zeros((2, num_classes, len(metrics.THRESHOLDS)), np.int64)
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
        activated = probabilities.argmax(axis=-1)
        confusion += np.bincount(reference * num_classes + activated, minlength=len(confusion))
        for c in np.unique(to_combined[1:]):
            reached[:, c] += metrics.count_above_thresholds(reference == c, probabilities[:, c])
    return ScanCounts(confusion.reshape(num_classes, num_classes), *reached, statistics)
