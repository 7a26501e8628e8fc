"""The anatomy of the heart MR phantoms: both ventricles in a stack of thick short-axis slices.

Read this to check or change what a heart phantom shows. Coordinates are mm of an adult from the
middle of the left ventricle; z runs along its long axis, from the apex to the base, and x away from
the right ventricle. Signals are those of cine MR (bright blood), in arbitrary units. All sizes are
this project's choice.

A slice is 3.5 to 7 times as thick as its pixels are wide. Its labels are those of its middle: they
jump from slice to slice, as labels drawn by hand do. Its signal is an average over a cube of the
voxel's volume: in the plane, borders are more blurred than in a real slice, through it less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from mtseg.phantoms.shapes import (
    Floats,
    Layer,
    Shape,
    at_least_voxels,
    cylinder,
    ellipsoid,
    expand,
    intersect,
    random_field,
    subtract,
    union,
)

Place = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Centre and radii of an ellipsoid in mm."""

LEFT_CAVITY = ((0, 0, 0), (25, 25, 46))
RIGHT_CHAMBER = ((-26, 6, 4), (35, 38, 40))
LEFT_ATRIUM = ((8, -12, 50), (28, 26, 24))
RIGHT_ATRIUM = ((-42, -4, 48), (26, 28, 24))
PAPILLARY = (((12, 11, -6), (5, 5, 14)), ((9, -13, -6), (5, 5, 14)))
LIVER = ((-60, -60, -40), (80, 60, 60))
LUNGS = (((-95, 30, 20), (52, 85, 120)), ((85, 20, 10), (58, 90, 120)))

BASE_Z = 26.0
"""Where the ventricles end and the atria begin."""
RIGHT_WALL_MM = 3.0
BODY_MM, FAT_MM = (140, 112), 16.0
"""Half the width and depth of the chest, and the fat under its skin."""
AORTA_XY, AORTA_MM = (30, -62), 12.0

LARGEST_CONTRACTION = 0.34
"""Share of the left cavity's radius by which it shrinks in systole."""


def plan_heart(rng: np.random.Generator, voxel_mm: float, labels: Mapping[str, int]) -> list[Layer]:
    """A chest for cine MR in the short axis, at a random moment between diastole and systole.

    Papillary muscles are dark, but have the label of the blood around them, as in ACDC.

    Args:
        rng: source of all that differs from subject to subject.
        voxel_mm: size of a voxel in mm of an adult; nothing labelled is drawn too thin for it.
        labels: label of `right_ventricle`, `myocardium` and `left_ventricle`.

    Returns:
        Layers in the order of painting, signals in arbitrary units.
    """
    # The order of the draws decides what a seed shows: add new ones at the end.
    blood, muscle, fat = (v * rng.uniform(0.94, 1.06) for v in (900.0, 330.0, 760.0))
    contraction, size = rng.uniform(0, LARGEST_CONTRACTION), rng.uniform(0.9, 1.1)
    base_z = BASE_Z + rng.uniform(-4, 4)
    right_size = size * rng.uniform(0.92, 1.08) * (1 - 0.6 * contraction)
    flow, turn = random_field(rng, 40.0), rng.uniform(-0.5, 0.5)

    cavity = _sized(LEFT_CAVITY, size * (1 - contraction))
    wall_mm = at_least_voxels(size * (8.0 + 12.0 * contraction), 1.3, voxel_mm)
    outside = expand(cavity, wall_mm)
    right_chamber = _sized(_turned(RIGHT_CHAMBER, turn), right_size)
    right = subtract(right_chamber, outside)
    papillary = union(*(ellipsoid(*place) for place in PAPILLARY))

    def pool(x: Floats, y: Floats, z: Floats) -> Floats:
        signal: Floats = blood * (1 + np.float32(0.05) * flow(x, y, z))
        return signal

    def to_base(shape: Shape) -> Shape:
        return intersect(shape, lambda x, y, z: z - np.float32(base_z))

    return [
        *_chest(fat, muscle, blood),
        Layer(expand(right_chamber, 9), fat),
        Layer(ellipsoid(*LEFT_ATRIUM), pool),
        Layer(ellipsoid(*_turned(RIGHT_ATRIUM, turn)), pool),
        Layer(to_base(expand(right, RIGHT_WALL_MM)), muscle),
        Layer(to_base(right), pool, labels["right_ventricle"]),
        Layer(to_base(outside), muscle, labels["myocardium"]),
        Layer(to_base(cavity), pool, labels["left_ventricle"]),
        Layer(intersect(cavity, papillary), muscle, labels["left_ventricle"]),
    ]


def _turned(place: Place, angle: float) -> Place:
    """An ellipsoid elsewhere around the long axis: scans differ in how they lie on the heart.

    Args:
        place: centre and radii.
        angle: in radians.
    """
    (x, y, z), radii = place
    cos, sin = math.cos(angle), math.sin(angle)
    return (x * cos - y * sin, x * sin + y * cos, z), radii


def _sized(place: Place, factor: float) -> Shape:
    """An ellipsoid whose width is multiplied; its length along z changes by half as much."""
    centre, (x_mm, y_mm, z_mm) = place
    return ellipsoid(centre, (x_mm * factor, y_mm * factor, z_mm * (1 + factor) / 2))


def _chest(fat: float, muscle: float, blood: float) -> list[Layer]:
    """Fat, chest wall, lungs, liver and aorta."""
    body = cylinder(0, 0, *BODY_MM)
    inside = expand(body, -FAT_MM)
    return [
        Layer(body, fat),
        Layer(inside, muscle),
        *(Layer(intersect(ellipsoid(*lung), expand(inside, -8)), 40.0) for lung in LUNGS),
        Layer(intersect(ellipsoid(*LIVER), inside), 1.2 * muscle),
        Layer(cylinder(*AORTA_XY, AORTA_MM, AORTA_MM), blood),
    ]
