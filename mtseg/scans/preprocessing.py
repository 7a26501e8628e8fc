"""From a scan to the network's grid and intensities: RAS+, isotropic voxels, one intensity rule.

Training, evaluation and prediction all use `prepare_scan`.

Reference: Moeskops et al., MICCAI 2016, section 2, for the isotropic voxel sizes. The intensity
rule is this project's.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np

from mtseg.errors import InputError
from mtseg.scans.intensities import shift_to_positive
from mtseg.scans.reading import open_scan
from mtseg.scans.resampling import BORDER, CUBIC, NEAREST, interpolate, resample, resampled_shape
from mtseg.scans.volume import Volume, from_ras, require_shape, to_ras

NORMALISING_PERCENTILE = 99.0
"""Intensities are divided by this percentile of the foreground."""

SMALLEST, LARGEST = 6.2e-5, 1e4
"""Limits of prepared intensities in the foreground, within the normal range of float16."""


@dataclasses.dataclass(frozen=True)
class PreparedScan:
    """A scan as the network sees it.

    Attributes:
        volume: float32, isotropic, RAS+, after the intensity rule; its foreground is > 0.
        source: the scan's own grid and header; its array is the foreground, as booleans.
        is_ct: whether the intensities were read as Hounsfield units.
        note: what is unusual about the intensities, one line; empty if nothing is.
    """

    volume: Volume
    source: Volume
    is_ct: bool = False
    note: str = ""

    @property
    def source_foreground(self) -> np.ndarray:
        """Booleans on the source's grid."""
        return self.source.array


def preparation_bytes(path: str | Path, spacing_mm: float | None = None) -> int:
    """Highest memory that `read_scan` and `prepare_scan` take together, an estimate.

    Args:
        path: a scan, of which the header is read.
        spacing_mm: as for `prepare_scan`.

    Raises:
        InputError: as `read_scan` does for a header that it cannot use.
    """
    scan = open_scan(path)
    shape, sizes_mm = scan.shape, scan.spacing_mm
    new_mm = min(sizes_mm) if spacing_mm is None else spacing_mm
    source = math.prod(shape)
    new_shape = resampled_shape(shape, sizes_mm, new_mm)
    if new_shape is None:
        return 20 * source  # scan, copy, three masks and the foreground's values for a percentile
    new = math.prod(new_shape)
    padded = math.prod(size + 2 * BORDER for size in shape)
    # While the spline is evaluated, and while the result's percentile is found.
    return max(9 * source + 4 * padded + 4 * new, 5 * source + 10 * new)


def prepare_scan(
    scan: Volume,
    spacing_mm: float | None = None,
    is_ct: bool | None = None,
    *,
    may_overwrite: bool = False,
) -> PreparedScan:
    """Brings a scan to the network's grid and intensities.

    Foreground is what is > 0 on the source's own grid, after `shift_to_positive`. It is
    resampled as a mask, and inside it a spline's overshoot is cut off at the foreground's own
    lowest and highest value, so interpolation neither adds nor removes foreground.

    Args:
        scan: from `read_scan`.
        spacing_mm: of the result; None is the scan's finest voxel size.
        is_ct: whether intensities are Hounsfield units; None lets the values decide (see
            `mtseg.scans.intensities`).
        may_overwrite: whether the scan's own array may be used up, which spares a copy if its
            axes are RAS+ already.

    Raises:
        InputError: if no voxel is > 0, or the spacing cannot be used; the caller names the file.
    """
    canonical, affine, header = to_ras(scan), scan.affine, scan.header
    array = canonical.array.astype(np.float32, order="C", copy=not may_overwrite)
    # Where scans are large, each array counts: the scan's own is not kept if nobody else does.
    canonical = Volume(array, canonical.affine)
    del scan
    found = shift_to_positive(array, is_ct)
    foreground = found.mask
    if not foreground.any():
        raise InputError("every voxel is background: nothing to segment. Check the scan.")
    spacing = min(canonical.spacing_mm) if spacing_mm is None else spacing_mm
    lowest = array.min(where=foreground, initial=np.inf)
    highest = array.max(where=foreground, initial=0)
    mask_affine = canonical.affine
    image = resample(canonical, spacing, CUBIC)
    del array, canonical
    mask = resample(Volume(foreground.view(np.uint8), mask_affine), spacing, NEAREST)
    inside = mask.array > 0
    values = np.clip(image.array, lowest, highest, out=image.array)
    values[~inside] = 0
    if inside.any():  # a foreground of single voxels may fall between those of a coarse grid
        scale = np.percentile(values[inside], NORMALISING_PERCENTILE, overwrite_input=True)
        values /= scale.astype(np.float32)
        # Records store float16: no value may overflow, no foreground voxel may become 0.
        np.clip(values, SMALLEST, LARGEST, out=values, where=inside)
    source = Volume(from_ras(foreground, affine), affine, header)
    return PreparedScan(Volume(values, image.affine), source, found.is_ct, found.note)


def prepare_label_map(label_map: Volume, prepared: PreparedScan) -> np.ndarray:
    """Brings a label map to its prepared scan's grid, by nearest neighbour.

    Args:
        label_map: (i, j, k) on the scan's own grid, as `check_same_grid` holds.
        prepared: the scan.

    Returns:
        (I, J, K) of the label map's dtype, 0 outside the foreground.
    """
    require_shape(label_map.array, prepared.source.array.shape)
    # By the scan's affine, which the label map's may differ from by a rounding error.
    canonical = to_ras(Volume(label_map.array, prepared.source.affine))
    shape, spacing_mm = prepared.volume.array.shape, prepared.volume.spacing_mm
    labels = canonical.array
    if canonical.spacing_mm != spacing_mm:
        step = np.divide(spacing_mm, canonical.spacing_mm)
        labels = interpolate(canonical.array, shape, step, NEAREST)
    return np.where(prepared.volume.array > 0, labels, labels.dtype.type(0))
