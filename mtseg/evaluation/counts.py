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
from mtseg.inference.decision import Ranking, is_argmax_class, rank
from mtseg.inference.engines.averaging import Network
from mtseg.inference.tiling import Tile
from mtseg.inference.verdict import ScanStatistics, intensity_percentiles
from mtseg.scans.volume import Volume
from mtseg.sources.subject import PreparedSubject
from mtseg.tasks.task import IGNORED


class TileObserver(Protocol):
    """An object that looks at the ranked classes of each tile before they are discarded."""

    def keep(self, tile: Tile, mask: npt.NDArray[np.bool_], ranking: Ranking) -> None:
        """Keeps what it needs of a tile.

        Args:
            tile: the tile.
            mask: booleans in the shape of the tile's core, its foreground.
            ranking: of the foreground voxels, arrays (voxels,) in C order.
        """


@dataclasses.dataclass(frozen=True, eq=False)
class ScanCounts:
    """Counts of the foreground voxels of one scan, by combined class.

    Voxels with the ignore label count in `statistics` alone.

    Attributes:
        confusion: int64 (num_classes, num_classes): reference class by most probable class of
            all, whatever the thresholds.
        predicted: class index -> int64 (101,): voxels that the rule of `mtseg.inference.decision`
            gives to that class at each of `metrics.THRESHOLDS`; for the task's classes with an
            operating point.
        overlap: the same, of the voxels whose reference is that class.
        statistics: sums of confidence over all foreground voxels.
    """

    confusion: npt.NDArray[np.int64]
    predicted: dict[int, npt.NDArray[np.int64]]
    overlap: dict[int, npt.NDArray[np.int64]]
    statistics: ScanStatistics

    def at_argmax(self, class_index: int) -> tuple[int, int, int]:
        """Counts of a class if each voxel gets its most probable class, as argmax tasks are scored.

        Returns:
            `(num_predicted, num_overlap, num_reference)`, as `metrics.overlap_figures` takes them.
        """
        c = class_index
        row, column = self.confusion[c].sum(), self.confusion[:, c].sum()
        return int(column), int(self.confusion[c, c]), int(row)

    def at_threshold(self, class_index: int, threshold: float) -> tuple[int, int, int]:
        """The same by the decision rule, with an operating point from `metrics.THRESHOLDS`."""
        c, place = class_index, metrics.threshold_number(threshold)
        reference = int(self.confusion[c].sum())
        return int(self.predicted[c][place]), int(self.overlap[c][place]), reference

    def argmax_share(self, class_indices: Sequence[int]) -> float | None:
        """Share of voxels whose most probable class is one of these; None if there is no voxel.

        This is the cross-task error if the classes are those of other tasks. It is by argmax over
        all classes, whatever the thresholds.
        """
        total = int(self.confusion.sum())
        return float(self.confusion[:, list(class_indices)].sum() / total) if total else None


def count_scan(
    network: Network,
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
    own_thresholded = [int(c) for c in np.unique(to_combined[1:]) if is_thresholded[c]]
    predicted = {c: np.zeros(len(metrics.THRESHOLDS), np.int64) for c in own_thresholded}
    overlap = {c: np.zeros(len(metrics.THRESHOLDS), np.int64) for c in own_thresholded}
    statistics = ScanStatistics(num_classes)
    statistics.spacing_mm = Volume(subject.image, subject.affine).spacing_mm[0]
    statistics.intensities = intensity_percentiles(subject.image)
    for tile, probabilities in network.run_all(subject.image, network.plan(subject.image)):
        mask = subject.image[tile.core] != 0
        statistics.add(probabilities)
        ranking = rank(np.moveaxis(probabilities, -1, 0), is_thresholded)
        for observer in observers:
            observer.keep(tile, mask, ranking)
        own_class = subject.class_index_map[tile.core][mask]
        is_known = own_class != IGNORED
        reference, ranking = to_combined[own_class[is_known]], ranking[is_known]
        pairs = reference.astype(np.int64) * num_classes + ranking.most_probable
        confusion += np.bincount(pairs, minlength=len(confusion))
        is_decided = is_argmax_class(ranking.most_probable, is_thresholded)
        for c in own_thresholded:
            is_candidate = (ranking.candidate == c) & ~is_decided
            num_predicted, num_overlap = metrics.count_above_thresholds(
                reference[is_candidate] == c, ranking.candidate_probability[is_candidate]
            )
            predicted[c] += num_predicted
            overlap[c] += num_overlap
    return ScanCounts(confusion.reshape(num_classes, num_classes), predicted, overlap, statistics)
