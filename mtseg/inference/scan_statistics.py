"""Sums over a whole scan of what a network says, collected tile by tile.

The out-of-distribution check (`mtseg.inference.verdict`) compares them with those of test scans.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


class ScanStatistics:
    """Sums over the voxels > 0 of a scan.

    Args:
        num_classes: of the network.

    Attributes:
        num_voxels: int64 (num_classes,), voxels whose argmax is each class.
        confidence: float64 (num_classes,), sums of that activation.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_voxels = np.zeros(num_classes, np.int64)
        self.confidence = np.zeros(num_classes)

    def add(self, probabilities: np.ndarray) -> None:
        """Adds voxels: float32 (voxels, num_classes)."""
        activated = probabilities.argmax(axis=-1)
        highest = probabilities[np.arange(len(activated)), activated]
        size = len(self.num_voxels)
        self.num_voxels += np.bincount(activated, minlength=size)
        self.confidence += np.bincount(activated, weights=highest, minlength=size)

    def to_json(self) -> dict[str, list]:
        """The sums as plain values."""
        return {
            "num_voxels": self.num_voxels.tolist(),
            "confidence": self.confidence.round(3).tolist(),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> ScanStatistics:
        """What `to_json` gave."""
        found = cls(len(stored["num_voxels"]))
        found.num_voxels[:] = stored["num_voxels"]
        found.confidence[:] = stored["confidence"]
        return found

    @property
    def shares(self) -> np.ndarray:
        """Share of the voxels that has each class, float64 (num_classes,); 0 without a voxel."""
        return self.num_voxels / max(int(self.num_voxels.sum()), 1)

    @property
    def mean_confidence(self) -> float:
        """Mean of the argmax; 0 without a voxel."""
        return float(self.confidence.sum() / max(int(self.num_voxels.sum()), 1))
