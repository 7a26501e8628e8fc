"""Synthetic subjects of the three tasks: a task and a seed come in, a scan and its labels leave.

The anatomy is in `mtseg.phantoms.shapes`; here it is put on a scanner's grid, with partial volume,
bias field, noise and quantisation. Phantoms stand in for data that cannot be passed on: whatever
is measured on them is synthetic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from mtseg.errors import InputError
from mtseg.phantoms.brain import plan_brain
from mtseg.phantoms.breast import plan_breast
from mtseg.phantoms.cta import plan_cta
from mtseg.phantoms.shapes import Layer, Shape

CLASS_LABELS = {
    "brain": {
        "white_matter": 1,
        "cortical_grey_matter": 2,
        "basal_ganglia_thalami": 3,
        "ventricular_csf": 4,
        "cerebellum": 5,
        "brain_stem": 6,
    },
    "breast": {"pectoral_muscle": 1},
    "cta": {"coronary_arteries": 1},
}
"""The label of every class in a phantom's label map, task by task; 0 is background."""


SMALLEST_SIZE = 32


SLAB_VOXELS = 2_000_000
"""A scan is painted slab by slab, so that memory does not grow with its number of slices."""


@dataclass(frozen=True)
class Phantom:
    """One synthetic subject as a scanner stores it.

    Attributes:
        image: (i, j, k) int16; MR in arbitrary units from 0, CT in Hounsfield units from -1024.
        label_map: (i, j, k) uint8, the values of `CLASS_LABELS`; 0 is background.
        affine: (4, 4) float64, voxel index to RAS+ world in mm.
    """

    image: np.ndarray
    label_map: np.ndarray
    affine: np.ndarray


@dataclass(frozen=True)
class _Protocol:
    """How a task's subjects are scanned."""

    plan: Callable[[np.random.Generator, float, dict[str, int]], list[Layer]]
    direction: tuple[int, int, int]  # signs of the voxel axes in the RAS+ world
    in_plane_mm: tuple[float, float]
    slice_mm: tuple[float, float]
    isotropic_mm: float | None  # of the resampled scan; None is the in-plane spacing
    field_of_view_mm: tuple[float, float, float]  # of an adult
    matrix: tuple[int, int, int] | None  # of a scan in full size; None follows the field of view
    tilt_degrees: float
    is_ct: bool


_PROTOCOLS = {
    "brain": _Protocol(
        plan_brain, (-1, 1, 1), (1.0, 1.0), (1.25, 1.25), 1.0, (176, 212, 170), None, 5.0, False
    ),
    "breast": _Protocol(
        plan_breast, (-1, -1, 1), (1.21, 1.35), (1.35, 1.69), None, (340, 284, 170), None, 3.0,
        False,
    ),
    "cta": _Protocol(
        plan_cta, (-1, -1, 1), (0.4, 0.5), (0.45, 0.45), 0.45, (190, 190, 126), (512, 512, 280),
        3.0, True,
    ),
}  # fmt: skip


def make_phantom(task: str, seed: int, size: int | None = None) -> Phantom:
    """Makes one synthetic subject, the same one for the same arguments.

    A smaller size is a smaller subject and not a coarser scan: the voxel spacing stays the
    task's, so that resampling treats phantoms as it treats scans. Structures too thin to be
    seen on the smaller subject are drawn thicker.

    Args:
        task: a key of `CLASS_LABELS`.
        seed: of the subject and of its scan.
        size: the largest extent in voxels of the scan after resampling to isotropic voxels
            (brain 1.0 mm, breast its in-plane spacing, CTA 0.45 mm), at least 32; None is near
            the paper's data.

    Returns:
        The scan on the scanner's own grid: brain LAS, breast and CTA LPS.

    Raises:
        InputError: if the task is unknown or the size is too small; it is a ValueError.
    """
    if task not in CLASS_LABELS:
        raise InputError(f"No phantom for task {task!r}: choose one of {', '.join(CLASS_LABELS)}.")
    if size is not None and size < SMALLEST_SIZE:
        raise InputError(f"A phantom's size is at least {SMALLEST_SIZE} voxels, not {size}.")
    protocol = _PROTOCOLS[task]
    rng = np.random.default_rng([list(CLASS_LABELS).index(task), seed])
    spacing_mm, shape, scale = _choose_grid(protocol, size, rng)
    affine = _place_grid(protocol, spacing_mm, shape, rng)
    terms = _pose_terms(protocol, affine, shape, scale, rng)
    voxel_mm = float(np.cbrt(spacing_mm.prod())) / scale
    layers = protocol.plan(rng, voxel_mm, CLASS_LABELS[task])
    acquire = _acquire_ct if protocol.is_ct else _acquire_mr(shape, rng)

    image, label_map = np.empty(shape, np.int16), np.empty(shape, np.uint8)
    step = max(1, SLAB_VOXELS // (shape[0] * shape[1]))
    for start in range(0, shape[2], step):
        slab = slice(start, min(start + step, shape[2]))
        painted, labels = _paint(
            layers, [[t[0], t[1], t[2][slab]] for t in terms], voxel_mm, protocol.is_ct
        )
        image[..., slab], label_map[..., slab] = acquire(painted, labels, slab, rng)
    return Phantom(image, label_map, affine)


def _choose_grid(
    protocol: _Protocol, size: int | None, rng: np.random.Generator
) -> tuple[np.ndarray, tuple[int, int, int], float]:
    """Spacing in mm, shape in voxels, and mm of the scan per mm of an adult."""
    in_plane_mm = round(rng.uniform(*protocol.in_plane_mm), 4)
    spacing_mm = np.array([in_plane_mm, in_plane_mm, round(rng.uniform(*protocol.slice_mm), 4)])
    extent_mm, scale = np.array(protocol.field_of_view_mm, float), 1.0
    if size is not None:
        scale = size * (protocol.isotropic_mm or in_plane_mm) / extent_mm.max()
    elif protocol.matrix is not None:
        return spacing_mm, protocol.matrix, scale
    # The nudge keeps rounding from losing a voxel; never more voxels than were asked for.
    i, j, k = (int(n) for n in np.floor(extent_mm * scale / spacing_mm + 1e-6))
    return spacing_mm, (i, j, k), scale


def _place_grid(
    protocol: _Protocol, spacing_mm: np.ndarray, shape: tuple, rng: np.random.Generator
) -> np.ndarray:
    """The affine of a grid whose middle is within some mm of the scanner's isocentre."""
    affine = np.diag([*(spacing_mm * protocol.direction), 1.0])
    affine[:3, 3] = rng.uniform(-20, 20, 3) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def _pose_terms(
    protocol: _Protocol, affine: np.ndarray, shape: tuple, scale: float, rng: np.random.Generator
) -> list[list[np.ndarray]]:
    """The subject's coordinates in mm as sums of one-dimensional terms.

    The subject lies tilted, off the middle, and a little bent: a slow wave along every axis
    shifts the other two coordinates.

    Returns:
        terms[c][a], float32 (shape[a],): what voxel axis a adds to coordinate c.
    """
    angles = np.radians(rng.uniform(-1, 1, 3) * protocol.tilt_degrees)
    rotation = np.eye(3)
    for axis, angle in enumerate(angles):
        turn = np.eye(3)
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn[[a, b], [a, b]] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        rotation = turn @ rotation
    stretch = rng.uniform(0.97, 1.03, 3)
    shift = rng.uniform(-2, 2, 3)
    waves = rng.uniform(-1, 1, (3, 3)) * 2.0
    phases = rng.uniform(0, 2 * np.pi, (3, 3))
    terms: list[list[np.ndarray]] = []
    for c in range(3):
        row = []
        for a in range(3):
            mm = affine[a, a] * (np.arange(shape[a]) - (shape[a] - 1) / 2) / scale
            term = rotation[c, a] * mm / stretch[c] + (shift[c] if a == c else 0)
            if a != c:
                term = term + waves[c, a] * np.sin(mm * (2 * np.pi / 150) + phases[c, a])
            row.append(term.astype(np.float32))
        terms.append(row)
    return terms


def _paint(
    layers: list[Layer], terms: list[list[np.ndarray]], voxel_mm: float, is_ct: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Paints the layers on one slab: intensities float32 and labels uint8, (i, j, k)."""
    x, y, z = (t[0][:, None, None] + t[1][:, None] + t[2] for t in terms)
    image = np.full(x.shape, -1000 if is_ct else 0, np.float32)
    labels = np.zeros(x.shape, np.uint8)
    for layer in layers:
        box = _find_box(layer.shape, terms, voxel_mm)
        if box is None:
            continue
        part = x[box], y[box], z[box]
        share = np.clip(0.5 - layer.shape.distance(*part) / np.float32(voxel_mm), 0, 1)
        value = layer.value(*part) if callable(layer.value) else np.float32(layer.value)
        image[box] += share * (value - image[box])
        labels[box][share > 0.5] = layer.label
    return image, labels


def _find_box(
    shape: Shape, terms: list[list[np.ndarray]], voxel_mm: float
) -> tuple[slice, slice, slice] | None:
    """The part of a slab that a shape may reach; None if it reaches none."""
    # Each coordinate runs nearly along its own voxel axis; the others' terms widen the box.
    box = []
    for c in range(3):
        others = [terms[c][a] for a in range(3) if a != c]
        low = shape.low[c] - voxel_mm - sum(float(t.max()) for t in others)
        high = shape.high[c] + voxel_mm - sum(float(t.min()) for t in others)
        inside = np.flatnonzero((terms[c][c] >= low) & (terms[c][c] <= high))
        if inside.size == 0:
            return None
        box.append(slice(int(inside[0]), int(inside[-1]) + 1))
    return box[0], box[1], box[2]


Acquisition = Callable[
    [np.ndarray, np.ndarray, slice, np.random.Generator], tuple[np.ndarray, np.ndarray]
]


def _acquire_mr(shape: tuple[int, int, int], rng: np.random.Generator) -> Acquisition:
    """A magnitude scan: coil sensitivity, Rician noise, and air set to 0 as scanners do it."""
    sigma = rng.uniform(38, 48)
    i, j, k = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    slope, bend = rng.normal(size=3), rng.normal(size=3)
    slope *= rng.uniform(0.15, 0.2) / np.abs(slope).sum()
    bend *= 0.1 / np.abs(bend).sum()

    def acquire(
        painted: np.ndarray, labels: np.ndarray, slab: slice, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        a, b, c = i[:, None, None], j[:, None], k[slab]
        bias = sum(s * p for s, p in zip(slope, (a, b, c), strict=True)) + sum(
            s * p * p for s, p in zip(bend, (a, b, c), strict=True)
        )
        real = painted * (1 + bias).astype(np.float32)
        real += sigma * rng.standard_normal(real.shape, dtype=np.float32)
        magnitude = np.hypot(real, sigma * rng.standard_normal(real.shape, dtype=np.float32))
        magnitude[magnitude < 2.2 * sigma] = 0
        return np.rint(magnitude), labels

    return acquire


def _acquire_ct(
    painted: np.ndarray, labels: np.ndarray, slab: slice, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A CT slab: blurred by the scanner, noise of 20 HU, nothing outside the scan's cylinder."""
    blur_voxels = (0.6, 0.6, 0)
    noise = rng.standard_normal(painted.shape, dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, blur_voxels)
    scanned = ndimage.gaussian_filter(painted, blur_voxels)
    scanned += noise * np.float32(20 / noise.std())
    i, j = (np.linspace(-1, 1, n)[:, None] for n in painted.shape[:2])
    outside = np.hypot(i, j.T) > 1
    scanned[outside] = -1024
    labels[outside] = 0
    return np.rint(np.clip(scanned, -1024, 3071)), labels
