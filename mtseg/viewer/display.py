"""The copy of a scan that the browser shows: NIfTI, whatever the format of the scan.

NiiVue reads many formats, but not as this package does: only from the volume that was segmented can
labels be sure to lie where they belong. The copy is not compressed, because it only goes to the
same machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from mtseg.scans.reading import read_voxels
from mtseg.scans.volume import Volume
from mtseg.system.atomic_files import atomic_write, writing_to
from mtseg.tasks.label_table import LabelEntry

SCAN_COPY, REFERENCE_COPY = "scan.nii", "reference.nii"
"""Names of copies, in the folder of a scan's results; those of its label maps are beside them."""

LARGEST_STEP = 16
"""A browser may ask for every second voxel only, or fewer, but not for any number of copies."""

_ROOM = "Make room, or set TMPDIR to a folder on a larger disk."
_PERCENTILES = 1, 99.5
_SAMPLED = 1_000_000


def write_display_copy(path: Path, scan_path: Path) -> dict[str, Any]:
    """Writes a scan as NIfTI for the browser.

    Args:
        path: `.nii`; appears whole.
        scan_path: file, or folder of a DICOM series, as for `mtseg.scans.reading.read_scan`.

    Returns:
        `shape`, and `black` and `white`: the intensities to show so.

    Raises:
        InputError: if the scan cannot be read or the copy not be written.
    """
    return write_display_volume(path, read_voxels(scan_path))


def write_display_volume(path: Path, scan: Volume) -> dict[str, Any]:
    """Writes a scan that has been read; otherwise as `write_display_copy`."""
    array = np.nan_to_num(_compact(scan.array), copy=False)
    _write(path, array, scan.affine)
    black, white = _window(array)
    return {"shape": list(array.shape), "black": black, "white": white}


def write_display_labels(path: Path, labels: Volume) -> None:
    """Writes a label map on the grid of the display copy.

    Args:
        path: `.nii`; appears whole.
        labels: on the scan's own grid; labels up to 255.

    Raises:
        InputError: if it cannot be written.
    """
    _write(path, labels.array.astype(np.uint8), labels.affine)


def show_label_map(
    out: Path,
    key: str,
    title: str,
    labels: Volume,
    table: Sequence[LabelEntry],
    file: str | None = None,
) -> dict[str, Any]:
    """Writes a label map that the page offers, and describes it.

    Args:
        out: folder of the scan's results.
        key: identifies it among the label maps of the scan; also the name of its copy.
        title: for readers.
        labels: on the scan's own grid, in the labels of `table`.
        table: the labels of the page.
        file: name of its label file among the results; None if there is none.

    Returns:
        `key`, `title`, `file`, and `classes`: name -> `num_voxels` and `volume_ml`.

    Raises:
        InputError: if the copy cannot be written.
    """
    write_display_labels(out / f"{key}.nii", labels)
    counts = np.zeros(256, np.int64)
    for k in range(labels.array.shape[-1]):  # slice by slice, to bound memory
        counts += np.bincount(labels.array[..., k].ravel(), minlength=256)
    classes = {
        entry.name: {
            "num_voxels": int(counts[entry.label]),
            "volume_ml": round(int(counts[entry.label]) * labels.voxel_ml, 3),
        }
        for entry in table
    }
    return {"key": key, "title": title, "file": file, "classes": classes}


def coarse_copy(path: Path, step: int) -> Path:
    """A copy of a copy with every so many voxels of each axis, for browsers that draw slowly.

    It is made when it is first asked for, and again when `path` was written anew. The first voxel
    stays where it is.

    Args:
        path: what `write_display_copy` or `write_display_labels` wrote.
        step: 1 to `LARGEST_STEP`; 1 is the copy itself.

    Raises:
        ValueError: if the step is not in this range.
        InputError: if it cannot be written.
    """
    if not 1 <= step <= LARGEST_STEP:
        raise ValueError
    if step == 1:
        return path
    # Another reference has the name of the one before.
    coarse = path.with_name(f"{step}_{path.stat().st_mtime_ns}_{path.name}")
    if coarse.is_file():
        return coarse
    image = nib.Nifti1Image.from_filename(path)
    array = np.asarray(image.dataobj[::step, ::step, ::step])  # reads what it needs
    _write(coarse, array, image.affine @ np.diag([step, step, step, 1.0]))
    return coarse


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


def _write(path: Path, array: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> None:
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
