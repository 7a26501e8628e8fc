"""One scan's decisions on disk: probabilities come in tile by tile, masks of whole scans leave.

An operating point is known only after the last scan of a test set. Until then, what it will decide
waits in files, a byte a voxel and class, so that memory holds one scan whatever their number.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence

import numpy as np

from mtseg.errors import InputError
from mtseg.evaluation import metrics
from mtseg.inference.tiling import Tile
from mtseg.sources.reading import PreparedSubject
from mtseg.tasks.task import IGNORED


class StoredScan:
    """What a network says of every voxel of a scan, as far as scores need it.

    Raises:
        InputError: if there is no room for it on the disk.

    Args:
        subject: the scan.
        to_combined: combined class index, uint8, at each of the task's own class indices.
        class_indices: combined class indices that a threshold decides.

    Attributes:
        name: the subject's.
        reference: uint8 (I, J, K), combined class index, or `IGNORED` where it is not known.
        activated: uint8 (I, J, K), combined class index of highest activation.
        affine: (4, 4), voxel to RAS+ world in mm.
    """

    def __init__(
        self,
        subject: PreparedSubject,
        to_combined: np.ndarray,
        class_indices: Sequence[int] = (),
    ) -> None:
        self.name, self.affine = subject.name, subject.affine
        shape = subject.image.shape
        needed, folder = (2 + len(class_indices)) * math.prod(shape), tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        if needed > free:  # a mapped file that finds no room ends the process
            raise InputError(
                f"{folder}: {needed / 1e9:.1f} GB are needed there until the scans are scored, "
                f"and {free / 1e9:.1f} GB are free. Make room, or set TMPDIR to another folder."
            )

        def on_disk() -> np.ndarray:
            # A file without a name: nothing is left of it, however this process ends.
            with tempfile.TemporaryFile() as file:
                return np.memmap(file, np.uint8, "w+", shape=shape)

        lookup = np.full(256, IGNORED, np.uint8)
        lookup[: len(to_combined)] = to_combined
        self.reference = on_disk()
        self.reference[:] = lookup[subject.class_index_map]
        self.activated = on_disk()
        self._reached = {c: on_disk() for c in class_indices}

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along the three axes."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)

    def keep(self, tile: Tile, mask: np.ndarray, probabilities: np.ndarray) -> None:
        """Stores what a tile says; see `mtseg.evaluation.counts.TileObserver`."""
        self.activated[tile.core][mask] = probabilities.argmax(axis=-1)
        for class_index, reached in self._reached.items():
            reached[tile.core][mask] = metrics.thresholds_reached(probabilities[:, class_index])

    def masks(self, class_index: int, threshold: float | None) -> tuple[np.ndarray, np.ndarray]:
        """Reference and prediction of a class, booleans (I, J, K), where the truth is known.

        Args:
            class_index: combined.
            threshold: of its probability; None is highest activation.
        """
        is_known = self.reference != IGNORED
        predicted = self._predicted(class_index, threshold) & is_known
        return np.asarray(self.reference == class_index), predicted

    def count_predicted(self, class_index: int, threshold: float | None) -> int:
        """Voxels predicted to be of a class, also where the truth is not known."""
        return int(np.count_nonzero(self._predicted(class_index, threshold)))

    def labels(self, thresholds: Mapping[int, float]) -> np.ndarray:
        """The label map, uint8 (I, J, K), combined class index.

        A class with a threshold is where its probability reaches it; if several do, the one that
        exceeds it by the largest factor. Elsewhere the class of highest activation stands, or
        background if that one has a threshold.
        """
        labels = np.array(self.activated)
        labels[np.isin(labels, list(thresholds))] = 0
        best = np.zeros(labels.shape, np.float32)
        for class_index, threshold in thresholds.items():
            number = metrics.threshold_number(threshold)
            factor = self._reached[class_index] / np.float32(max(number, 0.5))
            is_better = self._predicted(class_index, threshold) & (factor > best)
            labels[is_better] = class_index
            best[is_better] = factor[is_better]
        return labels

    def _predicted(self, class_index: int, threshold: float | None) -> np.ndarray:
        if threshold is None:
            return np.asarray(self.activated == class_index)
        return np.asarray(self._reached[class_index] > metrics.threshold_number(threshold))
