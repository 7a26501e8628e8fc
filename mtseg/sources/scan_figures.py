"""Figures of one scan that a person can judge: size, voxel size, intensities, labels outside.

`mtseg.sources.checks` measures them while it has the scan in memory, and `mtseg.sources.summary`
shows them for a whole data set.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from mtseg.scans.intensities import is_ct, shift_to_positive
from mtseg.scans.volume import Volume, to_ras
from mtseg.tasks.task import IGNORED

PERCENTILES = (1, 50, 99)
"""Percentiles of the intensities that are shown."""


@dataclasses.dataclass(frozen=True)
class ScanFigures:
    """What is measured of a scan and its label map.

    Attributes:
        shape: number of voxels along x (left to right), y and z, whatever order the file has.
        spacing_mm: voxel size along x, y and z.
        percentiles: `PERCENTILES` of the intensities in the foreground, as stored in the file.
        foreground_share: share of the voxels that are foreground.
        outside_share: share of the labelled voxels that are outside the foreground, where no class
            is learnt; None if the label map cannot be used.
        is_ct: whether the intensities are read as Hounsfield units.
        note: one line on what is unusual about the intensities; empty if nothing is.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    percentiles: tuple[float, ...]
    foreground_share: float
    outside_share: float | None
    is_ct: bool
    note: str


def measure_scan(
    image: Volume, class_index_map: npt.NDArray[np.uint8] | None, is_told_ct: bool | None = None
) -> ScanFigures | None:
    """Measures a scan.

    Args:
        image: float32 (i, j, k), finite, with its intensities as stored. It is not changed.
        class_index_map: the task's own class indices on the grid of the scan; None if they are not
            known.
        is_told_ct: whether the scan is CT, by its task or its file; None lets the values decide.

    Returns:
        None if the scan has no foreground.
    """
    found = shift_to_positive(image.array.astype(np.float32), is_told_ct)
    note = found.note
    if is_told_ct is False and is_ct(image.array):
        looks_like = "its values look like CT in Hounsfield units, but its modality is given as MR"
        note = f"{looks_like}; {note}" if note else looks_like
    values: npt.NDArray[Any] = image.array[found.mask]
    if not values.size:
        return None
    outside_share = None
    if class_index_map is not None:
        labelled = (class_index_map > 0) & (class_index_map != IGNORED)
        outside = int(np.count_nonzero(labelled & ~found.mask))
        outside_share = outside / max(int(np.count_nonzero(labelled)), 1)
    share = values.size / found.mask.size
    percentiles = np.percentile(values, PERCENTILES, overwrite_input=True)
    in_ras = to_ras(Volume(found.mask, image.affine))
    x, y, z = in_ras.array.shape
    return ScanFigures(
        shape=(x, y, z),
        spacing_mm=in_ras.spacing_mm,
        percentiles=tuple(float(value) for value in percentiles),
        foreground_share=share,
        outside_share=outside_share,
        is_ct=found.is_ct,
        note=note,
    )
