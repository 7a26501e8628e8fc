"""Sums over a scan of the network's argmax and confidence, collected tile by tile.

The out-of-distribution check (`mtseg.inference.verdict`) compares them with those of test scans,
and `mtseg.inference.recognition` those of a few blocks, to choose a voxel size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt


class ScanStatistics:
    """Sums over the foreground voxels of a scan, by most probable class.

    Args:
        num_classes: number of combined classes, including background.

    Attributes:
        num_voxels: int64 (num_classes,), voxels whose most probable class is each class.
        confidence: float64 (num_classes,), the sum of that class's probability over these voxels.
        spacing_mm: isotropic voxel size of the prepared scan; None if it is not known.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_voxels = np.zeros(num_classes, np.int64)
        self.confidence = np.zeros(num_classes)
        self.spacing_mm: float | None = None

    def add(self, probabilities: npt.NDArray[np.float32]) -> None:
        """Adds foreground voxels: float32 (voxels, num_classes)."""
        most_probable = probabilities.argmax(axis=-1)
        confidence = probabilities[np.arange(len(most_probable)), most_probable]
        size = len(self.num_voxels)
        self.num_voxels += np.bincount(most_probable, minlength=size)
        self.confidence += np.bincount(most_probable, weights=confidence, minlength=size)

    def to_json(self) -> dict[str, Any]:
        """The sums as plain values, by class; confidence to three decimals."""
        return {
            "num_voxels": self.num_voxels.tolist(),
            "confidence": self.confidence.round(3).tolist(),
            "spacing_mm": self.spacing_mm,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> ScanStatistics:
        """The sums that `to_json` wrote."""
        found = cls(len(stored["num_voxels"]))
        found.num_voxels[:] = stored["num_voxels"]
        found.confidence[:] = stored["confidence"]
        found.spacing_mm = stored.get("spacing_mm")
        return found

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """Share of the voxels of each class, float64 (num_classes,); 0 if there is no voxel."""
        return self.num_voxels / max(int(self.num_voxels.sum()), 1)

    @property
    def mean_confidence(self) -> float:
        """Mean probability of the most probable class; 0 if there is no voxel."""
        return float(self.confidence.sum() / max(int(self.num_voxels.sum()), 1))
