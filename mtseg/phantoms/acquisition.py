"""From an anatomy to a scan: partial volume, bias field, noise and quantisation.

`mtseg.phantoms.scanner` calls this slab by slab. Read it to know what a phantom's image has of a
real scan's, and what not: there are no motion, no metal and no contrast dynamics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mtseg.phantoms.shapes import Floats, Layer, Shape

Terms = list[list[npt.NDArray[np.float32]]]
"""Coordinates in mm as sums of one-dimensional terms: `terms[c][a]`, float32 (shape[a],), is what
voxel axis a adds to coordinate c."""

Acquisition = Callable[
    [npt.NDArray[np.float32], npt.NDArray[np.uint8], slice, np.random.Generator],
    tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]],
]
"""What a scanner makes of a painted slab: intensities and labels, of that slice of the scan."""

CT_AIR_HU, CT_HIGHEST_HU = -1024, 3071
"""The range of a scanner's 12 bits; -1024 is also what it stores outside its field of view."""


def paint(
    layers: list[Layer],
    terms: Terms,
    voxel_mm: float,
    is_ct: bool,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Paints the layers on one slab, in their order.

    A voxel that a surface crosses gets its share of both tissues (partial volume), and the label
    of the one that has more than half of it.

    Args:
        layers: the subject; where no layer is, there is air.
        terms: the subject's coordinates on the slab.
        voxel_mm: size of a voxel in mm of an adult.
        is_ct: whether air is -1000 HU, else 0.

    Returns:
        Intensities float32 and labels uint8, both (i, j, k).
    """
    x, y, z = (t[0][:, None, None] + t[1][:, None] + t[2] for t in terms)
    image = np.full(x.shape, -1000 if is_ct else 0, np.float32)
    labels = np.zeros(x.shape, np.uint8)
    for layer in layers:
        box = _find_box(layer.shape, terms, voxel_mm)
        if box is None:
            continue
        part = x[box], y[box], z[box]
        share = np.clip(0.5 - layer.shape.distance(*part) / np.float32(voxel_mm), 0, 1)
        intensity = layer.intensity(*part) if callable(layer.intensity) else layer.intensity
        image[box] += share * (np.asarray(intensity, np.float32) - image[box])
        labels[box][share > 0.5] = layer.label
    return image, labels


def _find_box(shape: Shape, terms: Terms, voxel_mm: float) -> tuple[slice, slice, slice] | None:
    """The part of a slab that a shape may reach; None if it reaches no voxel."""
    # Each coordinate runs nearly along its own voxel axis; the others' terms widen the box.
    box = []
    for c in range(3):
        others = [terms[c][a] for a in range(3) if a != c]
        low = shape.low_mm[c] - voxel_mm - sum(float(t.max()) for t in others)
        high = shape.high_mm[c] + voxel_mm - sum(float(t.min()) for t in others)
        inside = np.flatnonzero((terms[c][c] >= low) & (terms[c][c] <= high))
        if inside.size == 0:
            return None
        box.append(slice(int(inside[0]), int(inside[-1]) + 1))
    return box[0], box[1], box[2]


def make_mr_acquisition(places: Sequence[Floats], rng: np.random.Generator) -> Acquisition:
    """A magnitude scan: coil sensitivity, Rician noise, and air set to 0 as scanners do it.

    Args:
        places: for each axis, where the voxels of the whole scan are, about from -1 to 1.
        rng: for the noise level and the bias field, which is linear and quadratic along each
            axis: at most 20 % and 10 %.

    Returns:
        What makes a scan of a painted slab.
    """
    sigma = rng.uniform(38, 48)
    air_sigmas = 2.2  # what is below so many sigmas counts as air
    i, j, k = (along.astype(np.float32) for along in places)
    slope, bend = rng.normal(size=3), rng.normal(size=3)
    slope *= rng.uniform(0.15, 0.2) / np.abs(slope).sum()
    bend *= 0.1 / np.abs(bend).sum()

    def acquire(
        painted: npt.NDArray[np.float32],
        labels: npt.NDArray[np.uint8],
        slab: slice,
        rng: np.random.Generator,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        a, b, c = i[:, None, None], j[:, None], k[slab]
        bias = sum(s * p for s, p in zip(slope, (a, b, c), strict=True)) + sum(
            s * p * p for s, p in zip(bend, (a, b, c), strict=True)
        )
        real = painted * (1 + bias).astype(np.float32)
        real += sigma * rng.standard_normal(real.shape, dtype=np.float32)
        magnitude = np.hypot(real, sigma * rng.standard_normal(real.shape, dtype=np.float32))
        magnitude[magnitude < air_sigmas * sigma] = 0
        return np.rint(magnitude), labels

    return acquire


def make_ct_acquisition(places: Sequence[Floats]) -> Acquisition:
    """A CT scan: blurred in plane, with noise of 20 HU, and air outside the scanner's cylinder.

    Outside the cylinder nothing is labelled. A CT slice is scanned like every other.

    Args:
        places: for each axis, where the voxels of the whole scan are; the cylinder's radius is 1.

    Returns:
        What makes a scan of a painted slab.
    """
    blur_voxels, noise_hu = (0.6, 0.6, 0), 20
    outside = np.hypot(places[0][:, None], places[1]) > 1

    def acquire(
        painted: npt.NDArray[np.float32],
        labels: npt.NDArray[np.uint8],
        slab: slice,
        rng: np.random.Generator,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        noise = rng.standard_normal(painted.shape, dtype=np.float32)
        noise = ndimage.gaussian_filter(noise, blur_voxels)
        scanned = ndimage.gaussian_filter(painted, blur_voxels)
        scanned += noise * np.float32(noise_hu / noise.std())
        scanned[outside] = CT_AIR_HU
        labels[outside] = 0
        return np.rint(np.clip(scanned, CT_AIR_HU, CT_HIGHEST_HU)), labels

    return acquire
