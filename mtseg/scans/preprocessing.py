"""Preparing a scan for the network: axes in RAS+, isotropic voxels, normalised intensities.

Training, evaluation and prediction all use `prepare_scan`, so the network always sees the same
kind of volume.

Reference: Moeskops et al., MICCAI 2016, section 2, for the isotropic voxel sizes. The intensity
rule is this project's choice.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.scans.intensities import shift_to_positive
from mtseg.scans.resampling import BORDER, CUBIC, NEAREST, interpolate, resample, resampled_shape
from mtseg.scans.volume import Volume, from_ras, require_shape, to_ras

NORMALISING_PERCENTILE = 99.0
"""Intensities are divided by this percentile of the foreground."""

SMALLEST_INTENSITY, LARGEST_INTENSITY = 6.2e-5, 1e4
"""Limits of prepared intensities in the foreground. Records store float16; within its normal range
none becomes infinite, and none becomes 0, which would be background."""


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedScan:
    """A scan as the network sees it.

    Attributes:
        volume: float32 (I, J, K), isotropic, RAS+, after the intensity rule: > 0 in the foreground,
            0 outside.
        source: the grid and the header of the scan itself; its array is the foreground, booleans.
        is_ct: whether the intensities were read as Hounsfield units.
        intensities: one line for people: as what they were read, why, and what is unusual.
    """

    volume: Volume
    source: Volume
    is_ct: bool = False
    intensities: str = ""


def preparation_bytes(shape: Sequence[int], spacing_mm: Sequence[float], new_mm: float) -> int:
    """Estimates the peak memory of `read_scan` and `prepare_scan` together.

    Args:
        shape: voxels along (i, j, k).
        spacing_mm: their sizes.
        new_mm: size of the isotropic voxels of the result.
    """
    source = math.prod(shape)
    new_shape = resampled_shape(shape, spacing_mm, new_mm)
    if new_shape is None:
        return 16 * source  # scan, copy, masks, values of the foreground for a percentile
    new = math.prod(new_shape)
    padded = math.prod(size + 2 * BORDER for size in shape)
    # The larger of two moments: evaluating the spline, and computing the percentile.
    return max(9 * source + 4 * padded + 4 * new, 5 * source + 10 * new)


def prepare_scan(
    scan: Volume,
    spacing_mm: float | None = None,
    is_ct: bool | None = None,
    *,
    may_overwrite: bool = False,
) -> PreparedScan:
    """Prepares a scan for the network.

    The foreground is where the scan is > 0 on its own grid, after `shift_to_positive`. It is
    resampled as a mask. Inside it, the overshoot of the spline is clipped to the lowest and highest
    value of the foreground, so interpolation neither adds nor removes foreground.

    Args:
        scan: from `mtseg.scans.reading.read_scan`.
        spacing_mm: isotropic voxel size of the result; None is the smallest of the scan's.
        is_ct: whether intensities are Hounsfield units; None lets the file of the scan decide, or
            its values if the file does not say it (see `mtseg.scans.intensities`).
        may_overwrite: whether the array of the scan may be changed. This saves a copy if its axes
            are RAS+ already.

    Raises:
        InputError: if no voxel is > 0, or the voxel size cannot be used. The message does not name
            the file; the caller adds it.
    """
    canonical, affine, header, of_file = to_ras(scan), scan.affine, scan.header, scan.is_ct
    array = canonical.array.astype(np.float32, order="C", copy=not may_overwrite)
    # Memory for large scans: the array of the scan is freed here if the caller does not keep it.
    canonical = Volume(array, canonical.affine)
    del scan
    found = shift_to_positive(array, of_file if is_ct is None else is_ct)
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
        np.clip(values, SMALLEST_INTENSITY, LARGEST_INTENSITY, out=values, where=inside)
    source = Volume(from_ras(foreground, affine), affine, header, of_file)
    why = "as given" if is_ct is not None else "by its values"
    if is_ct is None and of_file is not None:
        why = "by its DICOM Modality"
    said = f"read as {'CT' if found.is_ct else 'MR'}, {why}"
    if found.note:
        said += f"; {found.note}"
    return PreparedScan(Volume(values, image.affine), source, found.is_ct, said)


def prepare_label_map(label_map: Volume, prepared: PreparedScan) -> npt.NDArray[Any]:
    """Resamples a label map to the grid of its prepared scan, by nearest neighbour.

    Args:
        label_map: (i, j, k) on the grid of the scan itself (see
            `mtseg.scans.volume.check_same_grid`).
        prepared: the scan.

    Returns:
        (I, J, K) of the label map's dtype, 0 outside the foreground.

    Raises:
        ValueError: if the shapes differ.
    """
    require_shape(label_map.array, prepared.source.array.shape)
    # With the affine of the scan: that of the label map may differ by a rounding error.
    canonical = to_ras(Volume(label_map.array, prepared.source.affine))
    shape, spacing_mm = prepared.volume.array.shape, prepared.volume.spacing_mm
    labels = canonical.array
    if canonical.spacing_mm != spacing_mm:
        step = np.divide(spacing_mm, canonical.spacing_mm)
        labels = interpolate(canonical.array, shape, step, NEAREST)
    return np.where(prepared.volume.array > 0, labels, labels.dtype.type(0))
