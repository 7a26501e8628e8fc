"""The verdict on a scan's labels: whether the scan is one that the network knows.

Begin with `assessment.assess`. `scan_statistics` has the sums over a scan from which it is made.
"""

from mtseg.inference.verdict.assessment import (
    SAFETY_FACTOR,
    Assessment,
    OutOfDistributionCheck,
    assess,
    calibrate,
    fit_reference,
    scan_features,
)
from mtseg.inference.verdict.scan_statistics import ScanStatistics

__all__ = [
    "SAFETY_FACTOR",
    "Assessment",
    "OutOfDistributionCheck",
    "ScanStatistics",
    "assess",
    "calibrate",
    "fit_reference",
    "scan_features",
]
