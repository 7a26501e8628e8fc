"""Sums over a scan of the network's argmax and confidence, collected tile by tile.

The out-of-distribution check (`mtseg.inference.verdict`) compares them with those of reference
scans, and `mtseg.inference.recognition` those of a few blocks, to choose a voxel size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

PERCENTILES = (10, 50, 90)
"""Percentiles of the foreground's intensities that are compared."""

_NUM_SAMPLED = 1_000_000
"""Voxels of a larger volume from which the percentiles are estimated."""


class ScanStatistics:
    """Sums over the foreground voxels of a scan, by class.

    Args:
        num_classes: number of combined classes, including background.

    Attributes:
        num_voxels: int64 (num_classes,), voxels of each class.
        confidence: float64 (num_classes,), the sum of that class's probability over these voxels.
        spacing_mm: isotropic voxel size of the prepared scan; None if it is not known.
        intensities: `PERCENTILES` of the prepared scan's foreground; None if they are not known.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_voxels = np.zeros(num_classes, np.int64)
        self.confidence = np.zeros(num_classes)
        self.spacing_mm: float | None = None
        self.intensities: tuple[float, ...] | None = None

    def add(
        self,
        probabilities: npt.NDArray[np.float32],
        classes: npt.NDArray[Any] | None = None,
        which: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """Adds foreground voxels.

        Args:
            probabilities: float32 (voxels, num_classes).
            classes: integers (voxels,), the class that each voxel counts for; None is its most
                probable class.
            which: booleans (voxels,), the voxels that count; None is all.
        """
        if classes is None:
            classes = probabilities.argmax(axis=-1)
        confidence = probabilities[np.arange(len(classes)), classes]
        if which is not None:
            classes, confidence = classes[which], confidence[which]
        size = len(self.num_voxels)
        self.num_voxels += np.bincount(classes, minlength=size)
        self.confidence += np.bincount(classes, weights=confidence, minlength=size)

    def to_json(self) -> dict[str, Any]:
        """The sums as plain values, by class; confidence to three decimals."""
        return {
            "num_voxels": self.num_voxels.tolist(),
            "confidence": self.confidence.round(3).tolist(),
            "spacing_mm": self.spacing_mm,
            "intensities": None if self.intensities is None else list(self.intensities),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> ScanStatistics:
        """The sums that `to_json` wrote, in this version or an earlier one."""
        found = cls(len(stored["num_voxels"]))
        found.num_voxels[:] = stored["num_voxels"]
        found.confidence[:] = stored["confidence"]
        found.spacing_mm = stored.get("spacing_mm")
        intensities = stored.get("intensities")
        found.intensities = None if intensities is None else tuple(intensities)
        return found

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """Share of the voxels of each class, float64 (num_classes,); 0 if there is no voxel."""
        return self.num_voxels / max(int(self.num_voxels.sum()), 1)

    @property
    def mean_confidence(self) -> float:
        """Mean probability of each voxel's class; 0 if there is no voxel."""
        return float(self.confidence.sum() / max(int(self.num_voxels.sum()), 1))

    @property
    def class_confidence(self) -> list[float | None]:
        """Mean probability of each class over its voxels; None for a class without voxels."""
        return [
            float(confidence / count) if count else None
            for confidence, count in zip(self.confidence, self.num_voxels.tolist(), strict=True)
        ]


def intensity_percentiles(volume: npt.NDArray[np.floating[Any]]) -> tuple[float, ...] | None:
    """`PERCENTILES` of a prepared volume's foreground; of a sample of it if it is large.

    Args:
        volume: floats (I, J, K), prepared intensities, exactly 0 outside the foreground.

    Returns:
        Relative to the 99th percentile, which is 1 in a prepared volume; None if no voxel of the
        sample is foreground.
    """
    if volume.size > _NUM_SAMPLED:
        values = volume.flat[np.random.default_rng(0).integers(0, volume.size, _NUM_SAMPLED)]
    else:
        values = volume.ravel()
    values = values[values != 0]
    return tuple(np.percentile(values, PERCENTILES).tolist()) if values.size else None
