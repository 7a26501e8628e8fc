"""The copy of a scan that the browser shows: NIfTI, whatever the format of the scan.

NiiVue reads many formats, but not as this package does: only from the volume that was segmented can
labels be sure to lie where they belong. The copy is not compressed, because it only goes to the
same machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from mtseg.scans.reading import read_voxels
from mtseg.scans.volume import Volume
from mtseg.system.atomic_files import atomic_write, writing_to

SCAN_COPY, LABELS_COPY, REFERENCE_COPY = "scan.nii", "labels.nii", "reference.nii"
"""Names of the copies, in the folder of a scan's results."""

MOST_VOXELS = 120_000_000
"""Larger volumes are shown at every second or third voxel: a graphics card takes 4 bytes for each
voxel of the scan and 4 for each of its labels."""

_ROOM = "Make room, or set TMPDIR to a folder on a larger disk."
_PERCENTILES = 1, 99.5
_SAMPLED = 1_000_000


def write_display_copy(path: Path, scan_path: Path) -> dict[str, Any]:
    """Writes a scan as NIfTI for the browser.

    Args:
        path: `.nii`; appears whole.
        scan_path: file, or folder of a DICOM series, as for `mtseg.scans.reading.read_scan`.

    Returns:
        `step`: only every so many voxels of each axis are in the copy; `black` and `white`: the
        intensities to show so.

    Raises:
        InputError: if the scan cannot be read or the copy not be written.
    """
    scan = read_voxels(scan_path)
    step = display_step(scan.array.shape)
    array = np.nan_to_num(_compact(scan.array[::step, ::step, ::step]), copy=False)
    _write(path, array, scan, step)
    black, white = _window(array)
    return {"step": step, "black": black, "white": white}


def write_display_labels(path: Path, labels: Volume) -> None:
    """Writes a label map on the grid of the display copy.

    Args:
        path: `.nii`; appears whole.
        labels: on the scan's own grid; labels up to 255.

    Raises:
        InputError: if it cannot be written.
    """
    step = display_step(labels.array.shape)
    _write(path, labels.array[::step, ::step, ::step].astype(np.uint8), labels, step)


def display_step(shape: tuple[int, ...]) -> int:
    """Every how many voxels of each axis are shown, so that there are at most `MOST_VOXELS`.

    Example:
        >>> display_step((512, 512, 320)), display_step((1024, 1024, 600))
        (1, 2)
    """
    step = 1
    while np.prod([-(-size // step) for size in shape], dtype=float) > MOST_VOXELS:
        step += 1
    return step


def _compact(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The voxels in a type that NIfTI and NiiVue know, of 16 bits if that loses nothing."""
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind in "iu" and array.size:
        low, high = int(array.min()), int(array.max())
        if low >= -(2**15) and high < 2**15:
            return array.astype(np.int16)
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(np.float32)


def _write(path: Path, array: npt.NDArray[Any], source: Volume, step: int) -> None:
    affine = source.affine @ np.diag([step, step, step, 1.0])
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    with writing_to(path, _ROOM), atomic_write(path) as temporary:
        nib.save(image, temporary)


def _window(array: npt.NDArray[Any]) -> tuple[float, float]:
    """The intensities that are shown black and white: percentiles of the voxels that differ from
    the darkest ones, which are air or outside of the scan."""
    sampled = array.ravel(order="K")[:: max(1, array.size // _SAMPLED)]
    inside = sampled[sampled > sampled.min()] if sampled.size else sampled
    if not inside.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(inside, _PERCENTILES))
    return low, max(high, low + 1e-6)
