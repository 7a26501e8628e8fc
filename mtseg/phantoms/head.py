"""A head painted around a real brain: what a scan shows whose skull was not stripped.

Labelled brains come without their heads, and users' scans with them. `paint_head` puts fluid,
meninges, skull with its marrow, muscle, fat, skin, eyes, airway, jaw and neck around a brain, and
leaves every voxel of the brain as it is. What differs from person to person (how thick, how bright,
how much of the neck is in view) differs from seed to seed. All sizes are this project's choice;
coordinates and signals are those of `mtseg.phantoms.brain`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mtseg.errors import InputError
from mtseg.phantoms.acquisition import Terms, paint
from mtseg.phantoms.shapes import (
    Field,
    Floats,
    Layer,
    Point,
    Shape,
    ellipsoid,
    expand,
    mirror,
    random_field,
    smooth_curve,
    subtract,
    tube,
    union,
)

BRAIN_TOP_MM, BRAIN_HALF_WIDTH_MM, BRAIN_HALF_LENGTH_MM = 63.0, 66.0, 86.0
"""The cerebrum that all places here refer to, that of the brain phantom; a real one is scaled to
its width and length."""

MARGIN_MM = 30.0
"""Room for the head beside, in front of, behind and above the brain."""

LOWEST_CUT_MM, HIGHEST_CUT_MM = -150.0, -75.0
"""How far down a scan reaches, drawn between these heights."""

LOWEST_PART_MM = 3.0
"""Height of the part of a brain whose middle is that of the brain stem."""

CLOSING_MM = 6.0
"""Fissures and sulci narrower than twice this belong to the cavity of the skull."""

SMALLEST_PART = 0.01
"""Share of the voxels above 0 that a part of a brain has at least."""

SMALLEST_SCALE, LARGEST_SCALE = 0.4, 2.0
"""Size of a brain as a multiple of an adult's."""

WHITE_MATTER = 900.0
"""Its signal; the brain's own is scaled to it."""

WHITE_PERCENTILE = 80
"""Percentile of a brain's intensities that counts as that of white matter in T1-weighted MR."""


def paint_head(
    brain: npt.NDArray[np.float32],
    label_map: npt.NDArray[np.uint8],
    affine: npt.NDArray[np.float64],
    seed: int,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """Paints a head around a skull-stripped brain in T1-weighted MR.

    Args:
        brain: float32 (i, j, k), RAS+ axes; exactly 0 outside the brain.
        label_map: uint8, in the same shape.
        affine: (4, 4), voxel to RAS+ world in mm.
        seed: of all that differs from head to head.

    Returns:
        `(image, label_map, affine)` on a larger grid of the same voxels: the scan in the brain's
        unit of intensity, the labels of the brain's voxels with background everywhere else, and the
        grid. Specks apart from the brain are left out.

    Raises:
        InputError: if it is not a skull-stripped brain. The message does not name the file.
    """
    if not np.isfinite(brain).all() or brain.min() < 0:
        raise InputError("has intensities below 0 or not finite. Give those of the scanner.")
    is_brain = _without_specks(brain != 0)
    rng = np.random.default_rng(seed)
    signal_unit = float(np.percentile(brain[is_brain], WHITE_PERCENTILE)) / WHITE_MATTER
    box = ndimage.find_objects(is_brain.astype(np.uint8))[0]
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    extents_mm = [(part.stop - part.start) * mm for part, mm in zip(box, spacing_mm, strict=True)]
    scale = float(
        np.mean([extents_mm[0] / BRAIN_HALF_WIDTH_MM, extents_mm[1] / BRAIN_HALF_LENGTH_MM]) / 2
    )
    if not SMALLEST_SCALE < scale < LARGEST_SCALE:
        raise InputError(
            f"its brain is {scale:.2g} times as large as an adult's. Give a skull-stripped brain."
        )
    margin = np.ceil(MARGIN_MM * scale / spacing_mm).astype(int)
    depth_mm = -rng.uniform(LOWEST_CUT_MM, HIGHEST_CUT_MM) + BRAIN_TOP_MM
    slices_below = int(np.ceil(depth_mm * scale / spacing_mm[2])) - (box[2].stop - box[2].start)
    below = np.array([*margin[:2], max(slices_below, int(margin[2]) // 2)])
    pads = list(zip(below, margin, strict=True))
    mask = np.pad(is_brain[box], pads)
    terms = _terms(mask.shape, spacing_mm / scale, below, box)
    cavity = _cavity(mask, terms, spacing_mm / scale, rng.uniform(0.5, 3.5))
    voxel_mm = float(np.cbrt(spacing_mm.prod())) / scale
    painted, _ = paint(_plan(rng, cavity, _brain_end(mask, terms)), terms, voxel_mm, is_ct=False)
    sigma = WHITE_MATTER * rng.uniform(0.01, 0.05)
    painted += sigma * rng.standard_normal(painted.shape, dtype=np.float32)
    painted = np.hypot(painted, sigma * rng.standard_normal(painted.shape, dtype=np.float32))
    if rng.random() < 0.5:  # many scanners set air to 0
        painted[painted < 2.5 * sigma] = 0
    image = painted * np.float32(signal_unit)
    image[mask] = brain[box][is_brain[box]]
    larger = affine.copy()
    larger[:3, 3] += affine[:3, :3] @ ([part.start for part in box] - below)
    return image, np.pad(np.where(is_brain, label_map, 0)[box], pads), larger


def _without_specks(is_brain: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The parts of a mask that have a hundredth of its voxels or more.

    Raises:
        InputError: if there is none.
    """
    parts, _ = ndimage.label(is_brain)
    sizes = np.bincount(parts.ravel())
    is_large = sizes >= SMALLEST_PART * np.count_nonzero(is_brain)
    is_large[0] = False
    if not is_large.any():
        raise InputError("has no voxel that differs from 0. Give a skull-stripped brain.")
    large: npt.NDArray[np.bool_] = is_large[parts]
    return large


def _terms(
    shape: Sequence[int], voxel_mm: Floats, below: npt.NDArray[np.int64], box: tuple[slice, ...]
) -> Terms:
    """Coordinates of the voxels in mm of an adult, with the brain where the phantom has its own."""
    middle = [n + (part.stop - part.start - 1) / 2 for n, part in zip(below, box, strict=True)]
    top = below[2] + box[2].stop - box[2].start - 1
    origin = [middle[0], middle[1], top - BRAIN_TOP_MM / voxel_mm[2]]
    terms: Terms = []
    for c in range(3):
        row = [np.zeros(n, np.float32) for n in shape]
        row[c] = ((np.arange(shape[c]) - origin[c]) * voxel_mm[c]).astype(np.float32)
        terms.append(row)
    return terms


def _cavity(mask: npt.NDArray[np.bool_], terms: Terms, voxel_mm: Floats, fluid_mm: float) -> Shape:
    """The inside of the skull: the brain without its sulci, and fluid of some thickness.

    Its distance is known at the voxels of the scan alone.
    """
    outside = ndimage.distance_transform_edt(~mask, voxel_mm)
    inside = ndimage.distance_transform_edt(outside <= CLOSING_MM, voxel_mm) - CLOSING_MM
    closed = (inside > 0) | mask
    signed = ndimage.distance_transform_edt(~closed, voxel_mm).astype(np.float32)
    signed -= ndimage.distance_transform_edt(closed, voxel_mm).astype(np.float32)
    signed = ndimage.gaussian_filter(signed, 1.5 / voxel_mm)
    starts = np.array([terms[c][c][0] for c in range(3)])

    def distance(x: Floats, y: Floats, z: Floats) -> Floats:
        along = x[:, 0, 0], y[0, :, 0], z[0, 0, :]
        at_voxels = [
            np.rint((p - start) / mm).astype(int)
            for p, start, mm in zip(along, starts, voxel_mm, strict=True)
        ]
        found: Floats = signed[np.ix_(*at_voxels)] - np.float32(fluid_mm)
        return found

    low, high = starts, np.array([terms[c][c][-1] for c in range(3)])
    return Shape(distance, low, high)


def _brain_end(mask: npt.NDArray[np.bool_], terms: Terms) -> Floats:
    """Where the brain stem leaves the brain: the middle of its lowest slices, in mm."""
    lowest = int(np.flatnonzero(mask.any(axis=(0, 1)))[0])
    end = terms[2][2] <= terms[2][2][lowest] + LOWEST_PART_MM
    i, j, _ = np.argwhere(mask[:, :, end]).mean(axis=0)
    at = zip((i, j, lowest), (terms[c][c] for c in range(3)), strict=True)
    return np.array([np.interp(place, np.arange(along.size), along) for place, along in at])


def _plan(rng: np.random.Generator, cavity: Shape, brain_end: Floats) -> list[Layer]:
    """The layers of a head around the cavity of its skull, in the order of painting."""
    fluid, muscle, marrow, bone = (
        WHITE_MATTER * rng.uniform(*between)
        for between in ((0.08, 0.3), (0.35, 0.65), (0.25, 0.9), (0.02, 0.15))
    )
    fat = WHITE_MATTER * rng.uniform(0.9, 1.7)
    skin = fat * rng.uniform(0.5, 0.9)
    bone_mm, muscle_mm, fat_mm, skin_mm = (
        rng.uniform(*between) for between in ((4, 8), (1, 5), (1.5, 7), (1, 2.5))
    )
    marrow_share = rng.uniform(0.2, 0.7)
    face = [
        _vary(rng, *of_adult)
        for of_adult in (
            ((0, 42, -62), (54, 50, 58)),  # the jaw
            ((0, -18, -95), (52, 50, 90)),  # the neck
            ((0, 90, -50), (13, 14, 22)),  # the nose
        )
    ]
    orbit, sinus = (
        _vary(rng, (31, 75, -32), (17, 21, 16)),
        _vary(rng, (16, 66, -56), (12, 14, 14)),
    )
    eye = ellipsoid((orbit.low_mm + orbit.high_mm) / 2 + [0, 5, 0], np.full(3, 12.0))
    uneven = random_field(rng, 90.0)  # no layer is as thick everywhere
    skull = _expand_by(cavity, lambda *p: bone_mm * (1 + 0.15 * uneven(*p)), 2 * bone_mm)
    scalp_mm = bone_mm + muscle_mm + fat_mm + skin_mm
    scalp = _expand_by(cavity, lambda *p: scalp_mm * (1 + 0.05 * uneven(*p)), 2 * scalp_mm)
    head = union(scalp, *face, blend_mm=14)
    airway = smooth_curve(
        np.add([(0, 84, -58), (0, 55, -52), (0, 28, -60), (0, 18, -78), (0, 17, -150)],
               [0, *rng.uniform(-5, 5, 2)])
    )  # fmt: skip
    cord = smooth_curve(np.add(brain_end, [(0, 0, 4), (0, -4, -25), (0, -6, -110)]))
    spine = smooth_curve(np.add(brain_end, [(0, 8, -22), (0, 10, -120)]))
    teeth = _vary(rng, (0, 68, -85), (24, 14, 12))
    return [
        Layer(head, skin),
        Layer(expand(head, -skin_mm), _textured(rng, fat, 0.12)),
        Layer(subtract(expand(head, -skin_mm - fat_mm), cavity, 2), _marbled(rng, muscle, fat)),
        Layer(teeth, bone),
        Layer(mirror(orbit), _textured(rng, fat, 0.1)),
        Layer(mirror(eye), fluid),
        Layer(tube(airway, np.linspace(9, 7, len(airway)) * rng.uniform(0.7, 1.4)), 0.0),
        Layer(mirror(sinus), 0.0),
        Layer(tube(spine, np.full(len(spine), 15.0)), _textured(rng, marrow, 0.15)),
        Layer(tube(cord, np.full(len(cord), 10.0)), fluid),
        Layer(skull, bone),
        Layer(
            subtract(
                expand(cavity, bone_mm * (1 + marrow_share) / 2),
                cavity,
                bone_mm * (1 - marrow_share) / 2,
            ),
            _textured(rng, marrow, 0.2),
        ),
        Layer(expand(cavity, rng.uniform(0.3, 1.2)), muscle * rng.uniform(0.6, 1.2)),  # meninges
        Layer(cavity, fluid),
        Layer(tube(cord, np.full(len(cord), 6.0)), 0.85 * WHITE_MATTER),
    ]


def _vary(rng: np.random.Generator, centre_mm: Point, radii_mm: Point) -> Shape:
    """An ellipsoid of an adult's head that is elsewhere, and of another size, in every head."""
    centre = np.add(centre_mm, [0, *rng.uniform(-6, 6, 2)])
    return ellipsoid(centre, np.multiply(radii_mm, rng.uniform(0.85, 1.15, 3)))


def _expand_by(shape: Shape, mm: Field, most_mm: float) -> Shape:
    """The solid with its surface moved outwards by a field."""
    return Shape(
        lambda *p: shape.distance(*p) - mm(*p), shape.low_mm - most_mm, shape.high_mm + most_mm
    )


def _textured(rng: np.random.Generator, signal: float, share: float) -> Field:
    """A tissue whose signal varies from place to place by a share of it."""
    coarse, fine = random_field(rng, 25.0), random_field(rng, 9.0)
    return lambda *p: np.maximum(signal * (1 + share * (coarse(*p) + fine(*p)) / 1.4), 0)


def _marbled(rng: np.random.Generator, muscle: float, fat: float) -> Field:
    """Muscles, with sheets of fat between them."""
    sheets, texture = random_field(rng, 18.0), _textured(rng, muscle, 0.15)

    def signal(x: Floats, y: Floats, z: Floats) -> Floats:
        of_fat = np.clip(1.3 - 4 * np.abs(sheets(x, y, z)), 0, 1)
        mixed: Floats = texture(x, y, z) * (1 - of_fat) + fat * of_fat
        return mixed

    return signal
