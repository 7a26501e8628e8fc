"""The anatomy of the cardiac CT angiography phantoms: a chest with contrast-filled coronaries.

Read this to check or change what a CTA phantom shows. Coordinates are mm of an adult, to the
right, anterior and superior; values are Hounsfield units (HU). All sizes are this project's
choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mtseg.phantoms.chest import pectoral_muscles, ribs
from mtseg.phantoms.shapes import (
    Field,
    Floats,
    Layer,
    Point,
    Shape,
    at_least_voxels,
    bone_layers,
    cylinder,
    ellipsoid,
    expand,
    intersect,
    project,
    random_sheets,
    smooth_curve,
    subtract,
    tube,
    union,
)

# Values in HU.
FAT, MUSCLE, SKIN, CHEST_WALL = -100.0, 52.0, 30.0, 45.0
LUNG, LUNG_VESSEL_ABOVE_LUNG = -850, 950
VESSEL_WALL, OESOPHAGUS, SPINAL_CANAL = 60.0, 40.0, 35.0
RIB_MARROW, RIB_CORTEX = 320.0, 600.0
STERNUM_MARROW, STERNUM_CORTEX = 250.0, 550.0
SPINE_MARROW, SPINE_CORTEX = 260.0, 600.0

# Sizes in mm.
SKIN_MM = 2
CHEST_WALL_MM = 13
RIB_SPACING_MM = 30.0
FAT_UNDER_ARTERY_MM = 1.5
"""Between a coronary artery and the heart's surface."""
BASE_U_MM = -34
"""Where the ventricles end and the atria begin, on the heart's long axis."""

# Mean directions (right, anterior, superior) in the heart.
TO_APEX = (-0.68, 0.52, -0.52)
"""From the base to the apex."""
TO_RIGHT_VENTRICLE = (0.62, 0.75, -0.1)
"""From the left ventricle; what it has of the direction to the apex is taken away."""

# Centre lines of the great vessels: knots (right, anterior, superior) from the aortic root.
AORTA_KNOTS_MM = [(-4, 4, -12), (0, 0, 0), (8, 4, 26), (9, 2, 60), (4, -4, 90)]
PULMONARY_TRUNK_KNOTS_MM = [
    (-14, 18, 3), (-14, 12, 20), (-22, 4, 40), (-28, -20, 50), (-60, -38, 55),
]  # fmt: skip
PULMONARY_TRUNK_RADIUS_MM = 11.5

# Coronary arteries: knots on the heart's surface as (theta, phi) in degrees, see
# `_Heart.artery_point`, and the radius in mm at the first and at the last of them.
LEFT_MAIN = ([(112, 104)], (2.1, 2.0))
LEFT_ANTERIOR_DESCENDING = ([(92, 98), (72, 96), (52, 93), (34, 92), (16, 92)], (1.9, 0.8))
LEFT_CIRCUMFLEX = ([(119, 128), (123, 152), (123, 178), (122, 205), (121, 228)], (1.7, 0.8))
RIGHT_CORONARY = (
    [(118, 62), (122, 35), (124, 8), (124, -20), (122, -50), (118, -82)],
    (1.9, 1.1),
)
DIAGONAL = ([(68, 118), (50, 132), (36, 142)], (1.3, 0.7))
OBTUSE_MARGINAL = ([(100, 172), (78, 180), (56, 186)], (1.3, 0.7))
POSTERIOR_DESCENDING = ([(96, -86), (74, -88), (54, -90)], (1.2, 0.7))
# Where two of the branches leave their artery, in points of its centre line (8 for each knot).
DIAGONAL_ORIGIN, OBTUSE_MARGINAL_ORIGIN = 12, 18
KNOT_SPREAD_DEGREES = 2.5
"""Standard deviation of the knots' angles from subject to subject."""


@dataclass(frozen=True, eq=False)
class _Heart:
    """The heart's own frame: u from base to apex, v to the right ventricle, w to the groove.

    Attributes:
        frame: (3, 3), u, v and w as unit vectors in rows.
        origin_mm: (3,), the heart's middle.
        radii_mm: (3,), half the heart's length along u, v and w.
    """

    frame: Floats
    origin_mm: Floats
    radii_mm: Floats

    @classmethod
    def draw(cls, rng: np.random.Generator) -> _Heart:
        apex = np.array(TO_APEX) + rng.normal(0, 0.04, 3)
        groove = np.cross(TO_RIGHT_VENTRICLE, apex)
        frame = np.stack([apex, np.cross(apex, groove), groove])
        frame /= np.linalg.norm(frame, axis=1, keepdims=True)
        radii = np.array([58.0, 45.0, 43.0]) * rng.uniform(0.95, 1.05, 3)
        return cls(frame, np.array([-8.0, 4.0, -6.0]), radii)

    def place(self, u: float, v: float, w: float) -> Floats:
        """x, y, z in mm of a point given in the heart's frame."""
        point: Floats = self.origin_mm + np.array([u, v, w]) @ self.frame
        return point

    def chamber(self, centre_uvw: tuple[float, float, float], radii_mm: Point) -> Shape:
        """An ellipsoid along the heart's axes."""
        return ellipsoid(self.place(*centre_uvw), radii_mm, self.frame)

    def artery_point(self, theta: float, phi: float, radius_mm: float) -> Floats:
        """The centre of an artery that runs on the heart's surface.

        Args:
            theta: angle from the apex in degrees: 0 at the apex, 90 at the widest place.
            phi: angle around the long axis in degrees: 0 is v, the right ventricle; 90 is w, the
                anterior groove.
            radius_mm: of the artery; a film of fat is below it.
        """
        t, p = np.radians(theta), np.radians(phi)
        outwards = np.array([np.cos(t), np.sin(t) * np.cos(p), np.sin(t) * np.sin(p)])
        reach_mm = self.radii_mm + radius_mm + FAT_UNDER_ARTERY_MM
        point: Floats = self.origin_mm + (outwards * reach_mm) @ self.frame
        return point

    def is_apical(self) -> Field:
        """The ventricles' side of the base, negative inside."""
        base = np.float32(self.frame[0] @ self.origin_mm)
        return lambda *p: BASE_U_MM - project(self.frame[0], p) + base


@dataclass(frozen=True, eq=False)
class _Artery:
    """A coronary artery: its centre line (n, 3) and its radius (n,) along it, in mm."""

    points_mm: Floats
    radii_mm: Floats

    def lumen(self, extra_mm: float = 0.0) -> Shape:
        return tube(self.points_mm, self.radii_mm + extra_mm)


def plan_cta(rng: np.random.Generator, voxel_mm: float, labels: Mapping[str, int]) -> list[Layer]:
    """A chest for CT angiography of the heart.

    Args:
        rng: source of all that differs from subject to subject.
        voxel_mm: size of a voxel in mm of an adult; nothing labelled is drawn too thin for it.
        labels: label of `coronary_arteries`.

    Returns:
        Layers in the order of painting, values in HU.
    """
    # The order of the draws decides what a seed shows: add new ones at the end.
    blood, right_blood = rng.uniform(380, 450), rng.uniform(260, 330)
    myocardium = rng.uniform(100, 125)
    heart = _Heart.draw(rng)
    root = heart.place(-40, 2, 14)
    aorta_line = smooth_curve(np.add(AORTA_KNOTS_MM, root))
    aorta = tube(aorta_line, np.full(len(aorta_line), rng.uniform(13, 15)))
    arteries = _coronary_arteries(rng, heart, thinnest_mm=1.7 * voxel_mm)
    wall = cylinder(0, -24, 118 * rng.uniform(0.97, 1.03), 98 * rng.uniform(0.97, 1.03))
    body = expand(wall, rng.uniform(26, 34))
    sheets = random_sheets(rng, 20.0), random_sheets(rng, 20.0)
    rib_mm = rng.uniform(0, RIB_SPACING_MM)

    inside = expand(wall, -CHEST_WALL_MM)
    mass = heart.chamber((0, 0, 0), heart.radii_mm)
    mediastinum = union(
        cylinder(0, -50, 34, 62), expand(mass, 7), cylinder(0, 52, 26, 22), blend_mm=14
    )
    # Not labelled, though the breast task has such a class: a network must tell the tasks apart.
    pectoral = pectoral_muscles(wall, at_least_voxels(14.0, 2, voxel_mm), reach_mm=95)
    fat_sleeve_mm = at_least_voxels(4.0, 1.2, voxel_mm)
    return [
        Layer(body, SKIN),
        Layer(expand(body, -SKIN_MM), FAT),
        Layer(pectoral, MUSCLE),
        Layer(wall, CHEST_WALL),
        *bone_layers(ribs(wall, RIB_SPACING_MM, rib_mm), RIB_MARROW, RIB_CORTEX, 2),
        Layer(inside, _lung_with_vessels(*sheets)),
        Layer(intersect(mediastinum, inside), FAT),
        *_behind_the_heart(wall, blood),
        *_atria_and_great_vessels(heart, root, blood, right_blood),
        *_ventricles(heart, mass, blood, right_blood, myocardium),
        *(Layer(artery.lumen(fat_sleeve_mm), FAT) for artery in arteries),
        Layer(expand(aorta, 1.5), VESSEL_WALL),
        Layer(aorta, blood),
        *(
            Layer(subtract(artery.lumen(), aorta, 0.5), blood, labels["coronary_arteries"])
            for artery in arteries
        ),
    ]


def _coronary_arteries(
    rng: np.random.Generator, heart: _Heart, thinnest_mm: float
) -> list[_Artery]:
    """The left and right coronary arteries and three branches, in the fat on the heart.

    Args:
        rng: for the places of the knots.
        heart: whose surface they run on.
        thinnest_mm: the least radius that the grid still shows.
    """
    radius_mm = max(2.0, thinnest_mm)

    def draw(
        start: Floats,
        course: tuple[Sequence[tuple[float, float]], tuple[float, float]],
    ) -> _Artery:
        knots, (first_mm, last_mm) = course
        angles = np.array(knots) + rng.normal(0, KNOT_SPREAD_DEGREES, (len(knots), 2))
        on_heart = (heart.artery_point(theta, phi, radius_mm) for theta, phi in angles)
        points = smooth_curve(np.stack([start, *on_heart]))
        radii = np.linspace(first_mm, last_mm, len(points))
        return _Artery(points, np.maximum(radii, thinnest_mm))

    left_main = draw(heart.place(-38, -2, 24), LEFT_MAIN)
    bifurcation = left_main.points_mm[-1]
    descending = draw(bifurcation, LEFT_ANTERIOR_DESCENDING)
    circumflex = draw(bifurcation, LEFT_CIRCUMFLEX)
    right = draw(heart.place(-38, 12, 20), RIGHT_CORONARY)
    return [
        left_main,
        descending,
        circumflex,
        right,
        draw(descending.points_mm[DIAGONAL_ORIGIN], DIAGONAL),
        draw(circumflex.points_mm[OBTUSE_MARGINAL_ORIGIN], OBTUSE_MARGINAL),
        draw(right.points_mm[-1], POSTERIOR_DESCENDING),
    ]


def _lung_with_vessels(first: Field, second: Field) -> Field:
    """Lung with bright vessels where two families of sheets meet, which is in lines."""

    def value(x: Floats, y: Floats, z: Floats) -> Floats:
        # In full within 0.6 mm of a line, nothing beyond 1.6 mm.
        vessel = np.clip(1.6 - np.hypot(first(x, y, z), second(x, y, z)), 0, 1)
        return LUNG_VESSEL_ABOVE_LUNG * vessel + LUNG

    return value


def _behind_the_heart(wall: Shape, blood: float) -> list[Layer]:
    """Breastbone, spine with its canal, descending aorta and oesophagus."""
    sternum = cylinder(0, wall.high_mm[1] - 7, 17, 6)
    return [
        *bone_layers(sternum, STERNUM_MARROW, STERNUM_CORTEX, 2.5),
        *bone_layers(cylinder(0, -92, 21, 17), SPINE_MARROW, SPINE_CORTEX, 2.5),
        Layer(cylinder(0, -114, 8, 8), SPINAL_CANAL),
        Layer(cylinder(-22, -64, 12.5, 12.5), VESSEL_WALL),
        Layer(cylinder(-22, -64, 11, 11), blood),
        Layer(cylinder(-4, -58, 7, 6), OESOPHAGUS),
    ]


def _atria_and_great_vessels(
    heart: _Heart, root: Floats, blood: float, right_blood: float
) -> list[Layer]:
    """Pulmonary trunk, left and right atrium, superior vena cava with undiluted contrast."""
    trunk_line = smooth_curve(np.add(PULMONARY_TRUNK_KNOTS_MM, root))
    trunk = tube(trunk_line, np.full(len(trunk_line), PULMONARY_TRUNK_RADIUS_MM))
    return [
        Layer(trunk, 0.5 * (blood + right_blood)),
        Layer(heart.chamber((-64, -12, -4), (25, 36, 29)), 0.97 * blood),
        Layer(heart.chamber((-62, 31, -4), (24, 23, 27)), right_blood),
        Layer(ellipsoid((30, -12, 60), (9, 9, 50)), right_blood + 120),
    ]


def _ventricles(
    heart: _Heart, mass: Shape, blood: float, right_blood: float, myocardium: float
) -> list[Layer]:
    """Muscle of the ventricles with the two blood pools in it.

    The septum is 11 mm thick and the wall of the right ventricle at least 4 mm.
    """
    muscle = intersect(mass, heart.is_apical())
    left = heart.chamber((-6, -13, 0), (43, 19, 20))
    right_pool = subtract(heart.chamber((-6, 8, 0), (46, 31, 35)), left, 11)
    right = intersect(right_pool, expand(muscle, -4))
    return [Layer(muscle, myocardium), Layer(left, blood), Layer(right, right_blood)]
