"""One scan's decisions on disk: probabilities come in tile by tile, masks of whole scans leave.

An operating point is known only after the last scan of a test set. Until then, what it will decide
waits in files, a byte a voxel and class, so that memory holds one scan whatever their number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mtseg import metrics
from mtseg.subject import PreparedSubject
from mtseg.task import IGNORED
from mtseg.tiles import Tile


class StoredScan:
    """What a network says of every voxel of a scan, as far as scores need it.

    Args:
        folder: where its files go; whoever gives it removes it.
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
        folder: Path,
        subject: PreparedSubject,
        to_combined: np.ndarray,
        class_indices: Sequence[int] = (),
    ) -> None:
        self.name, self.affine = subject.name, subject.affine
        shape = subject.image.shape

        def on_disk(name: str) -> np.ndarray:
            return np.memmap(folder / name, np.uint8, "w+", shape=shape)

        lookup = np.full(256, IGNORED, np.uint8)
        lookup[: len(to_combined)] = to_combined
        self.reference = on_disk("reference")
        self.reference[:] = lookup[subject.class_index_map]
        self.activated = on_disk("activated")
        self._reached = {c: on_disk(f"reached_{c}") for c in class_indices}

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along the three axes."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)

    def keep(self, tile: Tile, mask: np.ndarray, probabilities: np.ndarray) -> None:
        """Stores what a tile says; see `mtseg.scan_counts.TileObserver`."""
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

    def labels(self, thresholds: Mapping[int, float]) -> np.ndarray:
        """The label map, uint8 (I, J, K), combined class index.

        A class with a threshold is where its probability reaches it; elsewhere the class of
        highest activation stands.
        """
        labels = np.array(self.activated)
        for class_index, threshold in thresholds.items():
            labels[labels == class_index] = 0
            labels[self._predicted(class_index, threshold)] = class_index
        return labels

    def _predicted(self, class_index: int, threshold: float | None) -> np.ndarray:
        if threshold is None:
            return np.asarray(self.activated == class_index)
        return np.asarray(self._reached[class_index] > metrics.threshold_number(threshold))
