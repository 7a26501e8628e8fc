"""Synthetic subjects of the shipped tasks: an anatomy as a scanner would store it, with labels.

Begin with `make_phantom`. It draws a subject from the module that is named after its task, lays it
on a scanner's voxel grid, and lets `acquisition` scan it. Phantoms stand in for patient data that
cannot be shared: a figure measured on them says nothing about real scans.

The same task, seed and size give the same bits in every version, because presets and published
figures rest on them; between kinds of processors the signal of a voxel may be rounded
differently. Whoever adds a random number draws it after all that are drawn now.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.phantoms.acquisition import Terms, make_ct_acquisition, make_mr_acquisition, paint
from mtseg.phantoms.brain import plan_brain
from mtseg.phantoms.breast import plan_breast
from mtseg.phantoms.cta import plan_cta
from mtseg.phantoms.heart import plan_heart
from mtseg.phantoms.hippocampus import plan_hippocampus
from mtseg.phantoms.shapes import Floats, Layer

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
    "hippocampus": {"hippocampus_anterior": 1, "hippocampus_posterior": 2},
    "heart": {"right_ventricle": 1, "myocardium": 2, "left_ventricle": 3},
}
"""The label of every class in a phantom's label map, task by task; 0 is background.

The place of a task is part of its seeds: add new ones at the end."""

MIN_SIZE = 32
"""The smallest phantom, in voxels of its largest extent."""

MIN_SLICES = 4
"""The fewest voxels along any axis; a small subject has as many slices, however thick they are."""

SLAB_VOXELS = 2_000_000
"""A scan is painted slab by slab, so that memory does not grow with its number of slices."""


@dataclass(frozen=True, eq=False)
class Phantom:
    """One synthetic subject as a scanner stores it.

    Attributes:
        image: (i, j, k) int16; MR in arbitrary units from 0, CT in Hounsfield units from -1024.
        label_map: (i, j, k) uint8, the values of `CLASS_LABELS`; 0 is background.
        affine: (4, 4) float64, voxel index to RAS+ world in mm.
    """

    image: npt.NDArray[np.int16]
    label_map: npt.NDArray[np.uint8]
    affine: npt.NDArray[np.float64]


Plan = Callable[[np.random.Generator, float, Mapping[str, int]], list[Layer]]
"""Draws a subject: see `mtseg.phantoms.brain.plan_brain`."""


@dataclass(frozen=True, kw_only=True)
class _Protocol:
    """How a task's subjects are scanned.

    Attributes:
        plan: draws the anatomy.
        direction: signs of the voxel axes in the RAS+ world.
        in_plane_mm: lowest and highest in-plane voxel size.
        slice_mm: lowest and highest slice spacing.
        isotropic_mm: voxel size after resampling; None is the in-plane voxel size.
        field_of_view_mm: of an adult.
        full_shape: voxels of a scan in full size; None follows from the field of view.
        tilt_degrees: how far a subject lies tilted at most, about each axis.
        is_ct: CT, else MR.
    """

    plan: Plan
    direction: tuple[int, int, int]
    in_plane_mm: tuple[float, float]
    slice_mm: tuple[float, float]
    isotropic_mm: float | None
    field_of_view_mm: tuple[float, float, float]
    full_shape: tuple[int, int, int] | None = None
    tilt_degrees: float
    is_ct: bool = False


# Orientation, spacing and extent are near those of the paper's data (section 2).
_PROTOCOLS = {
    "brain": _Protocol(
        plan=plan_brain,
        direction=(-1, 1, 1),
        in_plane_mm=(1.0, 1.0),
        slice_mm=(1.25, 1.25),
        isotropic_mm=1.0,
        field_of_view_mm=(176, 212, 170),
        tilt_degrees=5.0,
    ),
    "breast": _Protocol(
        plan=plan_breast,
        direction=(-1, -1, 1),
        in_plane_mm=(1.21, 1.35),
        slice_mm=(1.35, 1.69),
        isotropic_mm=None,
        field_of_view_mm=(340, 284, 170),
        tilt_degrees=3.0,
    ),
    "cta": _Protocol(
        plan=plan_cta,
        direction=(-1, -1, 1),
        in_plane_mm=(0.4, 0.5),
        slice_mm=(0.45, 0.45),
        isotropic_mm=0.45,
        field_of_view_mm=(190, 190, 126),
        full_shape=(512, 512, 280),
        tilt_degrees=3.0,
        is_ct=True,
    ),
    # Near those of the Decathlon's crops and of ACDC.
    "hippocampus": _Protocol(
        plan=plan_hippocampus,
        direction=(1, 1, 1),
        in_plane_mm=(1.0, 1.0),
        slice_mm=(1.0, 1.0),
        isotropic_mm=1.0,
        field_of_view_mm=(36, 50, 38),
        tilt_degrees=8.0,
    ),
    "heart": _Protocol(
        plan=plan_heart,
        direction=(-1, -1, 1),
        in_plane_mm=(1.37, 1.68),
        slice_mm=(6.0, 10.0),
        isotropic_mm=None,
        field_of_view_mm=(230, 230, 110),
        tilt_degrees=8.0,
    ),
}


def make_phantom(
    task: str, seed: int, size: int | None = None, *, voxel_factor: float = 1.0
) -> Phantom:
    """Makes one synthetic subject, the same one for the same arguments.

    A smaller size is a smaller subject and not a coarser scan: the voxel spacing stays the
    task's, so that resampling treats phantoms as it treats scans. Structures too thin to be
    seen on the smaller subject are drawn thicker.

    `voxel_factor` is a coarser or finer scan of the same subject, which lies in the same place. The
    field of view stays the same to half a voxel, and so does the shape of every structure. Signal
    and label of a voxel are those of its own volume; a CT scan is blurred by the same share of a
    voxel. A voxel has as much noise as in the task's protocol: whoever asks a scanner for smaller
    voxels lets it measure longer, or with more dose, and whoever asks for larger ones saves time or
    dose. The noise itself is another one.

    Args:
        task: a key of `CLASS_LABELS`.
        seed: of the subject and of its scan.
        size: largest extent in voxels of the scan after resampling to isotropic voxels
            (brain and hippocampus 1.0 mm, CTA 0.45 mm, others their in-plane spacing), at least 32.
            None is near the size of the paper's or the challenge's data.
        voxel_factor: voxel size along every axis, as a multiple of the task's.

    Returns:
        The scan on the scanner's own grid: brain LAS, hippocampus RAS, others LPS.

    Raises:
        InputError: if the task is unknown, the size too small, or the voxel size not positive or so
            large that an axis has fewer than `MIN_SLICES` voxels; it is a ValueError.

    Example:
        >>> phantom = make_phantom("breast", seed=0, size=32)
        >>> phantom.image.shape, phantom.image.dtype
        ((32, 26, 12), dtype('int16'))
        >>> make_phantom("breast", seed=0, size=32, voxel_factor=0.5).image.shape
        (64, 52, 24)
    """
    protocol, rng = _begin_phantom(task, seed, size)
    task_spacing_mm, task_shape, scale = _choose_grid(protocol, size, rng)
    spacing_mm, shape = _change_voxels(task_spacing_mm, task_shape, voxel_factor)
    affine = _place_grid(protocol, spacing_mm, shape, rng)
    terms = _pose_terms(protocol, affine, shape, scale, rng)
    task_voxel_mm = float(np.cbrt(task_spacing_mm.prod())) / scale
    layers = protocol.plan(rng, task_voxel_mm, CLASS_LABELS[task])
    voxel_mm = voxel_factor * task_voxel_mm
    places = _relative_places(shape, task_shape, voxel_factor)
    acquire = make_ct_acquisition(places) if protocol.is_ct else make_mr_acquisition(places, rng)

    image, label_map = np.empty(shape, np.int16), np.empty(shape, np.uint8)
    slab_slices = max(1, SLAB_VOXELS // (shape[0] * shape[1]))
    for start in range(0, shape[2], slab_slices):
        slab = slice(start, min(start + slab_slices, shape[2]))
        painted, labels = paint(
            layers, [[t[0], t[1], t[2][slab]] for t in terms], voxel_mm, protocol.is_ct
        )
        image[..., slab], label_map[..., slab] = acquire(painted, labels, slab, rng)
    return Phantom(image, label_map, affine)


def phantom_grid(
    task: str, seed: int, size: int | None = None
) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """The shape in voxels and the spacing in mm of a phantom, without making it.

    Args and Raises: as for `make_phantom`.

    Example:
        >>> phantom_grid("breast", seed=0, size=32)[0]
        (32, 26, 12)
    """
    protocol, rng = _begin_phantom(task, seed, size)
    (i_mm, j_mm, k_mm), shape, _ = _choose_grid(protocol, size, rng)
    return shape, (float(i_mm), float(j_mm), float(k_mm))


def _begin_phantom(task: str, seed: int, size: int | None) -> tuple[_Protocol, np.random.Generator]:
    if task not in CLASS_LABELS:
        raise InputError(f"No phantom for task {task!r}: choose one of {', '.join(CLASS_LABELS)}.")
    if size is not None and size < MIN_SIZE:
        raise InputError(f"A phantom's size is at least {MIN_SIZE} voxels, not {size}.")
    return _PROTOCOLS[task], np.random.default_rng([list(CLASS_LABELS).index(task), seed])


def _choose_grid(
    protocol: _Protocol, size: int | None, rng: np.random.Generator
) -> tuple[Floats, tuple[int, int, int], float]:
    """Spacing in mm (3,), shape in voxels, and mm of the scan per mm of an adult."""
    in_plane_mm = round(rng.uniform(*protocol.in_plane_mm), 4)
    spacing_mm = np.array([in_plane_mm, in_plane_mm, round(rng.uniform(*protocol.slice_mm), 4)])
    extent_mm, scale = np.array(protocol.field_of_view_mm, float), 1.0
    if size is not None:
        scale = size * (protocol.isotropic_mm or in_plane_mm) / extent_mm.max()
    elif protocol.full_shape is not None:
        return spacing_mm, protocol.full_shape, scale
    # The small number keeps rounding from losing a voxel; never more voxels than asked for.
    i, j, k = (int(n) for n in np.floor(extent_mm * scale / spacing_mm + 1e-6))
    return spacing_mm, (i, j, max(k, MIN_SLICES)), scale


def _change_voxels(
    spacing_mm: Floats, shape: tuple[int, int, int], factor: float
) -> tuple[Floats, tuple[int, int, int]]:
    """Spacing and shape of a scan of the same field of view with voxels of another size."""
    if factor == 1:
        return spacing_mm, shape
    if not 0 < factor < math.inf:  # false for NaN too
        raise InputError(f"A phantom's voxel size is {factor:g} of its task's. Give it above 0.")
    i, j, k = (round(n / factor) for n in shape)
    if min(i, j, k) < MIN_SLICES:
        raise InputError(
            f"With voxels {factor:g} times as large a phantom of {' x '.join(map(str, shape))} has "
            f"fewer than {MIN_SLICES} along an axis. Give a smaller factor or a larger size."
        )
    return spacing_mm * factor, (i, j, k)


def _relative_places(
    shape: tuple[int, int, int], task_shape: tuple[int, int, int], factor: float
) -> list[Floats]:
    """Where the voxels of each axis are: -1 and 1 are the outermost ones at the task's size."""
    reaches = [
        (n - 1) * factor / (of_task - 1) for n, of_task in zip(shape, task_shape, strict=True)
    ]
    return [np.linspace(-reach, reach, n) for n, reach in zip(shape, reaches, strict=True)]


def _place_grid(
    protocol: _Protocol,
    spacing_mm: Floats,
    shape: tuple[int, int, int],
    rng: np.random.Generator,
) -> npt.NDArray[np.float64]:
    """The affine (4, 4) of a grid whose middle is within 20 mm of the isocentre on each axis."""
    affine = np.diag([*(spacing_mm * protocol.direction), 1.0])
    affine[:3, 3] = rng.uniform(-20, 20, 3) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def _pose_terms(
    protocol: _Protocol,
    affine: Floats,
    shape: tuple[int, int, int],
    scale: float,
    rng: np.random.Generator,
) -> Terms:
    """The subject's coordinates in mm as sums of one-dimensional terms.

    The subject lies tilted, off the middle, and a little bent: a slow wave along every axis
    shifts the other two coordinates.

    Returns:
        terms[c][a], float32 (shape[a],): what voxel axis a adds to coordinate c.
    """
    wave_height_mm, wavelength_mm = 2.0, 150
    angles = np.radians(rng.uniform(-1, 1, 3) * protocol.tilt_degrees)
    rotation = np.eye(3)
    for axis, angle in enumerate(angles):
        turn = np.eye(3)
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn[[a, b], [a, b]] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        rotation = turn @ rotation
    stretch = rng.uniform(0.97, 1.03, 3)
    shift_mm = rng.uniform(-2, 2, 3)
    waves_mm = rng.uniform(-1, 1, (3, 3)) * wave_height_mm
    phases = rng.uniform(0, 2 * np.pi, (3, 3))
    terms: Terms = []
    for c in range(3):
        row = []
        for a in range(3):
            mm = affine[a, a] * (np.arange(shape[a]) - (shape[a] - 1) / 2) / scale
            term = rotation[c, a] * mm / stretch[c] + (shift_mm[c] if a == c else 0)
            if a != c:
                wave = np.sin(mm * (2 * np.pi / wavelength_mm) + phases[c, a])
                term = term + waves_mm[c, a] * wave
            row.append(term.astype(np.float32))
        terms.append(row)
    return terms
