"""The anatomy of the breast MR phantoms: a chest, prone, with hanging breasts.

Read this to check or change what a breast phantom shows. Coordinates are mm of an adult, to the
right, anterior and superior; signals are those of T1-weighted MR without fat suppression, in
arbitrary units. All sizes are this project's choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mtseg.phantoms.chest import pectoral_muscles, ribs
from mtseg.phantoms.shapes import (
    Field,
    Floats,
    Layer,
    Shape,
    at_least_voxels,
    bone_layers,
    cylinder,
    ellipsoid,
    expand,
    intersect,
    mirror,
    random_field,
    random_sheets,
    union,
)

SKIN_MM = 2.2
CHEST_WALL_MM = 14
RIB_SPACING_MM = 27.0

AORTA = 130.0
"""Signal of flowing blood: dark."""
HEART_BLOOD, HEART_MUSCLE = 230.0, 380.0
LIVER, LUNG, CORTICAL_BONE = 480.0, 45.0, 110.0


@dataclass(frozen=True)
class _Signals:
    """Signals that differ from subject to subject."""

    fat: float
    muscle: float
    gland: float

    @property
    def skin(self) -> float:
        return 0.55 * self.fat

    @property
    def marrow(self) -> float:
        return 0.55 * self.fat

    @property
    def mediastinum(self) -> float:
        return 0.6 * self.fat


@dataclass(frozen=True)
class _Breast:
    """The right breast, half an ellipsoid that the chest wall cuts off; the left one mirrors it.

    Attributes:
        width_mm: radius from side to side.
        length_mm: radius from back to front.
        height_mm: z of its middle.
        side_mm: x of its middle.
    """

    width_mm: float
    length_mm: float
    height_mm: float
    side_mm: float

    def surface(self) -> Shape:
        radii = (self.width_mm, self.length_mm, 1.12 * self.width_mm)
        return ellipsoid((self.side_mm, 36, self.height_mm), radii)

    def core(self) -> Shape:
        """The part that may be glands, away from skin and chest wall."""
        radii = (0.66 * self.width_mm, 0.62 * self.length_mm, 0.72 * self.width_mm)
        return ellipsoid((self.side_mm, 50, self.height_mm), radii)

    def nipple(self) -> Shape:
        return ellipsoid((self.side_mm, 36 + self.length_mm, self.height_mm), (6, 6, 6))


def plan_breast(
    rng: np.random.Generator, voxel_mm: float, labels: Mapping[str, int]
) -> list[Layer]:
    """A chest for T1-weighted MR without fat suppression, prone with hanging breasts.

    Args:
        rng: source of all that differs from subject to subject.
        voxel_mm: size of a voxel in mm of an adult; nothing labelled is drawn too thin for it.
        labels: label of `pectoral_muscle`.

    Returns:
        Layers in the order of painting, signals in arbitrary units.
    """
    # The order of the draws decides what a seed shows: add new ones at the end.
    fat, muscle, gland = (v * rng.uniform(0.95, 1.05) for v in (1000.0, 400.0, 620.0))
    signals = _Signals(fat, muscle, gland)
    width, length, height = rng.uniform(52, 62), rng.uniform(66, 86), rng.uniform(-10, 4)
    breast = _Breast(width, length, height, side_mm=rng.uniform(70, 78))
    heart_z, gland_threshold = rng.uniform(-30, -15), rng.uniform(-0.5, 0.5)
    wall = cylinder(0, -62, 126 * rng.uniform(0.97, 1.03), 70 * rng.uniform(0.97, 1.03))
    lumps = random_field(rng, at_least_voxels(26.0, 5, voxel_mm))
    ligaments = random_sheets(rng, 26.0)
    thickness_mm = at_least_voxels(rng.uniform(11, 15), 3, voxel_mm)
    pectoral = pectoral_muscles(wall, thickness_mm, reach_mm=rng.uniform(98, 110), lowest_mm=-68)
    rib_mm = rng.uniform(0, RIB_SPACING_MM)

    body = union(cylinder(0, -55, 150, 82), mirror(breast.surface()), blend_mm=22)
    back_muscle = mirror(cylinder(40, -121, 32, 12))
    return [
        Layer(body, signals.skin),
        Layer(expand(body, -SKIN_MM), _fat_with_ligaments(signals.fat, ligaments)),
        Layer(mirror(breast.nipple()), signals.gland),
        Layer(_glands(breast, lumps, gland_threshold), signals.gland),
        Layer(back_muscle, signals.muscle),
        Layer(wall, signals.muscle),
        *bone_layers(ribs(wall, RIB_SPACING_MM, rib_mm), signals.marrow, CORTICAL_BONE, 2),
        *_organs(expand(wall, -CHEST_WALL_MM), heart_z, signals),
        *_spine_and_sternum(wall, signals),
        Layer(pectoral, signals.muscle, labels["pectoral_muscle"]),
    ]


def _fat_with_ligaments(fat: float, ligaments: Field) -> Field:
    """Fat crossed by ligaments: sheets 1 mm to either side that are up to 18 % darker."""

    def signal(x: Floats, y: Floats, z: Floats) -> Floats:
        return fat * (1 - 0.18 * np.clip(1 - abs(ligaments(x, y, z)), 0, 1))

    return signal


def _glands(breast: _Breast, lumps: Field, threshold: float) -> Shape:
    """Lobes of glandular tissue: the core of both breasts, its surface moved by a random field.

    Args:
        breast: the right breast.
        lumps: moves the surface inwards by 9 mm a standard deviation.
        threshold: in standard deviations; the higher, the more gland.
    """
    core = mirror(breast.core())
    return intersect(core, lambda *p: core.distance(*p) + 9 * (lumps(*p) - threshold))


def _organs(inside: Shape, heart_z: float, signals: _Signals) -> list[Layer]:
    """Lungs, mediastinum, liver, heart and descending aorta, inside of the chest wall."""
    mediastinum = intersect(cylinder(0, -70, 30, 80), inside)
    liver = intersect(ellipsoid((50, -62, -105), (78, 60, 62)), inside)
    return [
        Layer(inside, LUNG),
        Layer(mediastinum, signals.mediastinum),
        Layer(liver, LIVER),
        Layer(ellipsoid((-20, -42, heart_z), (50, 36, 52)), HEART_MUSCLE),
        Layer(ellipsoid((-28, -42, heart_z), (24, 18, 30)), HEART_BLOOD),
        Layer(cylinder(-24, -92, 11, 11), AORTA),
    ]


def _spine_and_sternum(wall: Shape, signals: _Signals) -> list[Layer]:
    spine = cylinder(0, -106, 20, 16)
    sternum = ellipsoid((0, wall.high_mm[1] - 7, 10), (17, 5.5, 90))
    return [
        *bone_layers(spine, signals.marrow, CORTICAL_BONE, 3),
        *bone_layers(sternum, signals.marrow, CORTICAL_BONE, 2),
    ]
