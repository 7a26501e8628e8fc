"""Anatomy of the synthetic subjects: random numbers come in, painted layers of tissue leave.

A subject is a list of layers in its own frame: mm of an adult, axes right, anterior and superior.
Layers are painted in order, later ones over earlier ones, as a signed distance that is negative
inside; a voxel that a surface crosses gets its share of both tissues.
"""

from __future__ import annotations

import numpy as np

from mtseg.phantoms.shapes import (
    ENDLESS,
    Layer,
    Shape,
    bony,
    ellipsoid,
    grow,
    meet,
    mirror,
    noise,
    rod,
    union,
)


def pectoral(wall: Shape, thick_mm: float, reach_mm: float, lowest_mm: float = -ENDLESS) -> Shape:
    """A pair of curved sheets on the chest wall, from the breastbone towards the armpits."""
    middle_y = (wall.low[1] + wall.high[1]) / 2

    def distance(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        side, off = np.abs(x), wall.distance(x, y, z)
        lateral = np.clip((reach_mm + 0.25 * z - side) / 30, 0, 1)
        lower = np.clip((z - lowest_mm - 0.2 * side) / 25, 0, 1)
        taper = np.sqrt(lateral * lower * np.clip((side - 9) / 12, 0, 1))
        # A film of fat lies between the muscle and the ribs.
        sheet = np.maximum(off - 1.5 - thick_mm * taper, 1.5 - off)
        return np.where((y > middle_y) & (taper > 0), sheet, 50)

    return Shape(distance, wall.low - 1.5 - thick_mm, wall.high + 1.5 + thick_mm)


def ribs(wall: Shape, period_mm: float, phase_mm: float) -> Shape:
    """Rings in the chest wall that run downwards to the front."""

    def distance(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        height = z + 0.35 * y + phase_mm
        height = height - period_mm * np.round(height / period_mm)
        return np.hypot(0.75 * height, wall.distance(x, y, z) + 6.5) - 5.5

    return Shape(distance, wall.low, wall.high)


def plan_breast(rng: np.random.Generator, voxel_mm: float, labels: dict[str, int]) -> list[Layer]:
    """A chest for T1-weighted MR without fat suppression, prone with hanging breasts.

    Args and Returns are those of `plan_brain`.
    """
    fat, muscle, gland = (v * rng.uniform(0.95, 1.05) for v in (1000.0, 400.0, 620.0))
    marrow, cortex = 0.55 * fat, 110.0
    wide, long, low = rng.uniform(52, 62), rng.uniform(66, 86), rng.uniform(-10, 4)
    side, heart_z, gland_share = (rng.uniform(*r) for r in ((70, 78), (-30, -15), (-0.5, 0.5)))
    wall = rod(0, -62, 126 * rng.uniform(0.97, 1.03), 70 * rng.uniform(0.97, 1.03))
    breasts = mirror(ellipsoid((side, 36, low), (wide, long, 1.12 * wide)))
    body = union(rod(0, -55, 150, 82), breasts, blend_mm=22)
    lumps, threads = noise(rng, max(26.0, 5 * voxel_mm)), noise(rng, 26.0, is_distance=True)
    core = mirror(ellipsoid((side, 50, low), (0.66 * wide, 0.62 * long, 0.72 * wide)))
    glands = meet(core, lambda *p: core.distance(*p) + 9 * (lumps(*p) - gland_share))

    sheet = pectoral(wall, max(rng.uniform(11, 15), 3 * voxel_mm), rng.uniform(98, 110), -68)
    inside = grow(wall, -14)
    heart = ellipsoid((-20, -42, heart_z), (50, 36, 52))
    heart_blood = ellipsoid((-28, -42, heart_z), (24, 18, 30))
    return [
        # Skin, fat crossed by thin dark ligaments, nipples, glands; back and chest wall.
        Layer(body, 0.55 * fat),
        Layer(grow(body, -2.2), lambda *p: fat * (1 - 0.18 * np.clip(1 - abs(threads(*p)), 0, 1))),
        Layer(mirror(ellipsoid((side, 36 + long, low), (6, 6, 6))), gland), Layer(glands, gland),
        Layer(mirror(rod(40, -121, 32, 12)), muscle), Layer(wall, muscle),
        *bony(ribs(wall, 27.0, rng.uniform(0, 27)), marrow, cortex, 2),
        # Lungs, middle, liver, heart, aorta; spine, breastbone; pectoral muscle.
        Layer(inside, 45.0), Layer(meet(rod(0, -70, 30, 80), inside), 0.6 * fat),
        Layer(meet(ellipsoid((50, -62, -105), (78, 60, 62)), inside), 480.0),
        Layer(heart, 380.0), Layer(heart_blood, 230.0), Layer(rod(-24, -92, 11, 11), 130.0),
        *bony(rod(0, -106, 20, 16), marrow, cortex, 3),
        *bony(ellipsoid((0, wall.high[1] - 7, 10), (17, 5.5, 90)), marrow, cortex, 2),
        Layer(sheet, muscle, labels["pectoral_muscle"]),
    ]  # fmt: skip
