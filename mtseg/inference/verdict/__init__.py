"""The verdict on a scan's labels: whether the scan is one that the network knows.

Begin with `assessment.assess`. `scan_statistics` has the sums over a scan, `features` what follows
from them, `reference` the scans that a scan is compared with, and `calibration` makes the check.
"""

from mtseg.inference.verdict.assessment import (
    LIKE_TRAINED,
    VOXEL_SIZE_FACTOR,
    Assessment,
    assess,
)
from mtseg.inference.verdict.calibration import SAFETY_FACTOR, calibrate, fit_reference
from mtseg.inference.verdict.features import scan_features
from mtseg.inference.verdict.reference import OutOfDistributionCheck
from mtseg.inference.verdict.scan_statistics import ScanStatistics, intensity_percentiles

__all__ = [
    "LIKE_TRAINED",
    "SAFETY_FACTOR",
    "VOXEL_SIZE_FACTOR",
    "Assessment",
    "OutOfDistributionCheck",
    "ScanStatistics",
    "assess",
    "calibrate",
    "fit_reference",
    "intensity_percentiles",
    "scan_features",
]
