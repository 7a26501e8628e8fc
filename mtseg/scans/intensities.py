"""What the intensities of a scan mean: CT or MR, and which value is background.

The network expects 0 outside the body and positive values inside. MR scans come from the scanner in
this form; CT has air at -1000 HU. Other programs write other scales: scans that are z-scored,
scaled to -1 … 1, offset, clipped or padded. `shift_to_positive` recognises these from the values
alone and says in one line what it did, so that no scan is silently read in a wrong way.

The rules are this project's choice; the paper uses scans as the scanners wrote them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

AIR_HU = -1024.0
"""Air in CT: this and anything below becomes intensity 0."""

CT_BELOW_HU = -500.0
"""Values below this are air or lung in Hounsfield units."""

CT_SHARE = 0.005
"""A scan with a larger share of voxels below `CT_BELOW_HU` is CT. One voxel is not enough: a spline
or a padding value can produce one in an MR scan."""

NARROW_HU = 20.0
"""Intensities that span less are not in Hounsfield units, whoever says so, but scaled to 0 … 1,
z-scored, or uptake values of PET. Shifted as CT, all of the scan would have one intensity."""

_FAT_HU, _SOFT_TISSUE_HU, _BONE_HU = (-150.0, -30.0), (0.0, 100.0), 200.0
"""Ranges by which a CT is recognised after its air was clipped or cropped away."""

_PADDING = (-32768.0, -3024.0, -2048.0, -2000.0, 63536.0, 65535.0)
"""Values that scanners and programs write outside the field of view (63536 is -2000 as uint16)."""

_PLATEAU_SHARE = 0.3
"""A value that a larger share of the voxels at the border has is the background."""

_FEW = 0.01
"""Share of voxels up to which values below the background are resampling artefacts."""


@dataclasses.dataclass(frozen=True, eq=False)
class Foreground:
    """A scan's intensities with 0 as background.

    Attributes:
        mask: booleans (i, j, k), the foreground.
        is_ct: whether the intensities were read as Hounsfield units and shifted by -`AIR_HU`.
        note: one line on what was unusual; empty for scans as scanners write them.
    """

    mask: npt.NDArray[np.bool_]
    is_ct: bool
    note: str = ""


def is_ct(array: npt.NDArray[Any]) -> bool:
    """Whether intensities look like Hounsfield units.

    They do if enough of them are of air or lung, or, after air was clipped or cropped away, if
    there are fat, soft tissue and bone. Padding is not counted.

    Args:
        array: (i, j, k), as stored.
    """
    padding = _find_padding(array)
    is_image: Any = True
    if padding:
        is_image = ~np.isin(array, padding)
    return _has_air(array, is_image) or _is_clipped_ct(array, padding, is_image)


def shift_to_positive(array: npt.NDArray[np.float32], is_told_ct: bool | None = None) -> Foreground:
    """Makes the background of a scan 0 and its foreground positive, in place.

    Args:
        array: float32 (i, j, k), intensities as stored; they are changed.
        is_told_ct: whether the scan is CT, if it is known; None lets the values decide.

    Returns:
        The foreground and what was decided. The mask has no voxel if the scan is constant, but for
        an MR scan with a constant above 0, which is foreground everywhere.
    """
    note = _remove_padding(array)
    lowest = float(array.min())
    reads_as_ct = is_ct(array) if is_told_ct is None else is_told_ct
    if not reads_as_ct:
        return _shift_mr(array, lowest, note)
    if is_told_ct is None and not _has_air(array):
        note = _join(note, "read as CT without air (--modality mr if it is MR)")
    if is_told_ct and (span := _measure_span(array)) < NARROW_HU:
        note = _join(note, f"its values span {span:.3g}, too few for Hounsfield units")
    return _shift_ct(array, lowest, note)


def _measure_span(array: npt.NDArray[np.float32]) -> float:
    """From the 1st to the 99th percentile of about 64 voxels along each axis."""
    sample = array[tuple(slice(None, None, max(size // 64, 1)) for size in array.shape)]
    first, last = np.percentile(sample, (1, 99))
    return float(last - first)


def _find_padding(array: npt.NDArray[Any]) -> list[float]:
    """Values of `_PADDING` at the edges that are far from all others.

    A CT may reach -2048 and an MR may be saturated; these are no padding.
    """
    edges = array[tuple(slice(None, None, max(size - 1, 1)) for size in array.shape[:2])]
    found = []
    for value in _PADDING:
        if not np.any(edges == value):
            continue
        others = array[array != value]
        if others.size and (value < others.min() - 500 or value > 1.5 * others.max()):
            found.append(value)
    return found


def _remove_padding(array: npt.NDArray[np.float32]) -> str:
    """Replaces padding values by the lowest other value, or 0; returns a note of it."""
    found = ""
    for value in _find_padding(array):
        is_padding = array == value
        array[is_padding] = min(float(array[~is_padding].min()), 0.0)
        found = f"padding value {value:g} is read as background"
    return found


def _has_air(array: npt.NDArray[Any], is_image: Any = True) -> bool:
    """Whether more than `CT_SHARE` of the voxels are of air or lung in Hounsfield units."""
    num_low = np.count_nonzero((array < CT_BELOW_HU) & is_image)
    return bool(num_low > CT_SHARE * array.size)


def _is_clipped_ct(array: npt.NDArray[Any], padding: list[float], is_image: Any) -> bool:
    """Whether whole numbers with fat below 0, soft tissue and bone look like a CT without air."""
    lowest = float(array.min(where=is_image, initial=np.inf))
    if not AIR_HU <= lowest <= -100:
        return False
    sample = array[tuple(slice(None, None, max(size // 64, 1)) for size in array.shape)]
    sample = sample[~np.isin(sample, padding)]
    if not sample.size or not np.array_equal(sample, np.rint(sample)):
        return False

    def share(low: float, high: float) -> float:
        return float(np.count_nonzero((sample >= low) & (sample <= high)) / sample.size)

    return (
        share(lowest, -20) > 0.05
        and share(*_SOFT_TISSUE_HU) > 0.05
        and share(_BONE_HU, np.inf) > 0.001
        and (share(*_FAT_HU) > 0.01 or lowest >= _FAT_HU[0])
    )


def _shift_ct(array: npt.NDArray[np.float32], lowest: float, note: str) -> Foreground:
    """Makes air 0, also if it was clipped at a higher value."""
    is_clipped = lowest > AIR_HU + 400 and np.count_nonzero(array == lowest) > _FEW * array.size
    outside = array <= lowest if is_clipped else None
    array -= np.float32(AIR_HU)
    np.maximum(array, 0, out=array)
    if outside is not None:
        array[outside] = 0
        note = _join(note, f"its air was clipped at {lowest:g} HU, which is read as air")
    return Foreground(array > 0, True, note)


def _shift_mr(array: npt.NDArray[np.float32], lowest: float, note: str) -> Foreground:
    """Makes the background 0. It is the value of most voxels at the border, if there is one."""
    border = np.concatenate(
        [np.take(array, side, axis).ravel() for axis in range(3) for side in (0, -1)]
    )
    values, counts = np.unique(border, return_counts=True)
    background = float(values[counts.argmax()])
    has_plateau = bool(counts.max() > _PLATEAU_SHARE * border.size)
    share_below = np.count_nonzero(array < background) / array.size if has_plateau else 0.0

    if has_plateau and background <= 0 and share_below > _FEW:
        # The background is between the other values, as after z-scoring inside a mask.
        mask = array != background
        array -= np.float32(lowest)
        array += _smallest_step(array, mask)
        array[~mask] = 0
        return Foreground(
            mask, False, _join(note, f"its background {background:g} is not its lowest value")
        )
    # In a cropped scan a positive value at the border may be tissue. Only the lowest value of the
    # scan is background.
    is_offset = background == lowest and lowest < float(array.max())
    if has_plateau and (background < 0 or (background > 0 and is_offset)):
        array -= np.float32(background)
        np.maximum(array, 0, out=array)
        return Foreground(array > 0, False, _join(note, f"its background is {background:g}, not 0"))
    if not has_plateau and np.count_nonzero(array < 0) > _FEW * array.size:
        array -= np.float32(lowest)
        return Foreground(
            array > 0,
            False,
            _join(note, f"it has values below 0; its lowest, {lowest:g}, is read as 0"),
        )
    np.maximum(array, 0, out=array)
    return Foreground(array > 0, False, note)


def _smallest_step(array: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_]) -> np.float32:
    """A small positive value, so that the darkest foreground voxel stays foreground."""
    highest = float(array.max(where=mask, initial=0))
    return np.float32(1e-3 * highest if highest > 0 else 1.0)


def _join(first: str, second: str) -> str:
    """Two notes as one; the first may be empty."""
    return f"{first}; {second}" if first else second
