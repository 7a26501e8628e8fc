"""The anatomy of the brain MR phantoms: a head with a folded cortex, deep nuclei and a hindbrain.

Read this to check or change what a brain phantom shows. Coordinates are mm of an adult, to the
right, anterior and superior; signals are those of T1-weighted MR, in arbitrary units. All sizes
are this project's choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mtseg.phantoms.shapes import (
    Field,
    Floats,
    Layer,
    Shape,
    above,
    at_least_voxels,
    deeper_than,
    ellipsoid,
    expand,
    intersect,
    mirror,
    random_field,
    random_sheets,
    smooth_curve,
    subtract,
    tapering_tube,
    tube,
    union,
)

# Ellipsoids: centre and radii in mm. Of a pair the right one; the left one mirrors it.
CEREBRUM = ((0, 0, 6), (66, 86, 57))
TEMPORAL_LOBE = ((40, 12, -26), (24, 44, 24))
CEREBELLAR_HEMISPHERE = ((22, -45, -46), (26.5, 29, 22))
VERMIS = ((0, -42, -42), (12, 26, 24))
CISTERNS = ((0, -8, -40), (24, 26, 27))
PUTAMEN = ((27, 9, 0), (9, 21, 14.5))
PALLIDUM = ((20, 4, -2), (6, 11, 9))
THALAMUS = ((13, -15, 4), (11, 18, 12.5))
JAW = ((0, 42, -62), (54, 50, 58))
NECK = ((0, -18, -95), (52, 50, 70))
NOSE = ((0, 90, -50), (13, 14, 22))
ORBIT = ((31, 70, -32), (17, 21, 16))
EYE = ((31, 76, -32), (12, 12, 12))
CORPUS_CALLOSUM_YZ = ((-3, -2), (43, 27))
"""An ellipse in the midsagittal plane, where the fissure between the hemispheres ends."""

# Tubes: knots of the centre line (right, anterior, superior) and the radius there, in mm.
BRAIN_STEM_AND_CORD = [
    (0, -14, -6, 11), (0, -14, -22, 11), (0, -9, -38, 12.6),  # midbrain, pons
    (0, -15, -56, 9.2), (0, -19, -74, 8), (0, -22, -100, 7),  # medulla, cord
]  # fmt: skip
CAUDATE = [(14, 31, 2, 8), (15, 22, 12, 8), (18, 2, 19, 6), (22, -20, 16, 4.5)]
LATERAL_VENTRICLE = [
    (5, 40, 4, 3.5), (7, 28, 10, 6), (9, 5, 21, 5.5),  # frontal horn, body
    (17, -22, 20, 6.5), (26, -42, 6, 7),  # atrium
    (31, -30, -12, 5), (31, -8, -22, 3),  # temporal horn
]  # fmt: skip
AIRWAY_KNOTS_MM = [(0, 84, -58), (0, 55, -52), (0, 28, -60), (0, 18, -78), (0, 17, -110)]

BRAIN_STEM_END_Z = -72
"""Below it is the cord, which has no label."""

MUSCLE, CORTICAL_BONE, MARROW, AIR = 480.0, 60.0, 260.0, 0.0


@dataclass(frozen=True)
class _Signals:
    """Signals that differ from subject to subject, and those that follow from them."""

    white_matter: float
    grey_matter: float
    fluid: float
    fat: float

    @property
    def deep_nuclei(self) -> float:
        return 0.5 * (self.white_matter + self.grey_matter)

    @property
    def pallidum(self) -> float:
        return self.deep_nuclei + 60

    @property
    def brain_stem(self) -> float:
        return 0.9 * self.white_matter

    @property
    def skin(self) -> float:
        return 0.7 * self.fat


def plan_brain(rng: np.random.Generator, voxel_mm: float, labels: Mapping[str, int]) -> list[Layer]:
    """A head for T1-weighted MR.

    Args:
        rng: source of all that differs from subject to subject.
        voxel_mm: size of a voxel in mm of an adult; nothing labelled is drawn too thin for it.
        labels: label of each of the six tissues.

    Returns:
        Layers in the order of painting, signals in arbitrary units.
    """
    # The order of the draws decides what a seed shows: add new ones at the end.
    white, grey, fluid = (v * rng.uniform(0.96, 1.04) for v in (900.0, 620.0, 230.0))
    signals = _Signals(white, grey, fluid, fat=1150.0 * rng.uniform(0.95, 1.05))
    cerebrum_floor_z, ventricle_scale = rng.uniform(-26, -23), rng.uniform(0.9, 1.1)

    upper = intersect(ellipsoid(*CEREBRUM), above(cerebrum_floor_z))
    temporal = mirror(ellipsoid(*TEMPORAL_LOBE))
    forebrain = union(upper, temporal, blend_mm=6)
    cerebellum = union(mirror(ellipsoid(*CEREBELLAR_HEMISPHERE)), ellipsoid(*VERMIS), blend_mm=6)
    tentorium_mm = at_least_voxels(3.0, 0.9, voxel_mm)
    cerebrum = subtract(subtract(forebrain, cerebellum, tentorium_mm), ellipsoid(*CISTERNS))
    depth = _pial_depth(rng, cerebrum, voxel_mm)
    cortex_mm = at_least_voxels(2.9, 0.95, voxel_mm)
    stem_and_cord = tapering_tube(smooth_curve(BRAIN_STEM_AND_CORD))
    brain_stem = intersect(stem_and_cord, above(BRAIN_STEM_END_Z))
    folia = _cerebellar_signal(rng, cerebellum, signals, voxel_mm)
    cavity = expand(union(upper, temporal, cerebellum, blend_mm=10), 3)
    return [
        *_head(cavity, signals, voxel_mm),
        Layer(intersect(forebrain, deeper_than(0, depth)), grey, labels["cortical_grey_matter"]),
        Layer(intersect(forebrain, deeper_than(cortex_mm, depth)), white, labels["white_matter"]),
        Layer(cerebellum, folia, labels["cerebellum"]),
        Layer(stem_and_cord, signals.brain_stem),
        Layer(brain_stem, signals.brain_stem, labels["brain_stem"]),
        *_deep_nuclei(signals, labels["basal_ganglia_thalami"]),
        Layer(_ventricles(ventricle_scale, voxel_mm), fluid, labels["ventricular_csf"]),
    ]


def _head(cavity: Shape, signals: _Signals, voxel_mm: float) -> list[Layer]:
    """Skin, fat, muscle, orbits, airway, skull with its marrow, and the fluid around the brain.

    Args:
        cavity: the inside of the skull.
        signals: of the tissues.
        voxel_mm: size of a voxel.
    """
    face = union(ellipsoid(*JAW), ellipsoid(*NECK), blend_mm=25)
    head = union(expand(cavity, 11), face, ellipsoid(*NOSE), blend_mm=14)
    skin_mm = at_least_voxels(1.5, 0.4, voxel_mm)
    airway = smooth_curve(AIRWAY_KNOTS_MM)
    return [
        Layer(head, signals.skin),
        Layer(expand(head, -skin_mm), signals.fat),
        Layer(subtract(expand(head, -6), cavity, 8), MUSCLE),
        Layer(mirror(ellipsoid(*ORBIT)), signals.fat),
        Layer(mirror(ellipsoid(*EYE)), signals.fluid),
        Layer(tube(airway, np.linspace(9, 7, len(airway))), AIR),
        Layer(expand(cavity, 6), CORTICAL_BONE),
        Layer(subtract(expand(cavity, 4), cavity, 2), MARROW),
        Layer(cavity, signals.fluid),
    ]


def _pial_depth(rng: np.random.Generator, cerebrum: Shape, voxel_mm: float) -> Field:
    """Distance in mm to the nearest pial surface, positive in the tissue.

    The pial surface is the outside of the cerebrum, its sulci, the fissure between the hemispheres
    and the Sylvian fissures.

    Sulci are sheets that run inwards from the outside: the zeros of a random field that is
    constant along every ray from the centre, with the rays bent by a second field.
    """
    sheets = random_sheets(rng, at_least_voxels(24.0, 7.5, voxel_mm))
    sulcal_depth, bending = random_field(rng, 40.0), random_field(rng, 48.0)
    sylvian_slope, sylvian_z = rng.uniform(0.15, 0.3), rng.uniform(-10, -6)
    (_, _, centre_z), (radius_x, radius_y, radius_z) = CEREBRUM

    def sulci(x: Floats, y: Floats, z: Floats, depth: Floats) -> Floats:
        # 0 at the centre, 1 on the outside; the small number keeps it from zero.
        ray = np.sqrt(
            (x / radius_x) ** 2 + (y / radius_y) ** 2 + ((z - centre_z) / radius_z) ** 2 + 1e-3
        )
        bend_mm = 2.5 * bending(x, y, z)
        on_ray = x / ray + bend_mm, y / ray - bend_mm, (z - centre_z) / ray + bend_mm
        floor_mm = 17 + 4 * sulcal_depth(*on_ray)
        # A sulcus ends at its floor, and nowhere reaches the inner 62 % of a ray.
        below_floor = np.maximum(np.maximum(depth - floor_mm, 70 * (0.62 - ray)), 0)
        half_width_mm = 0.9 * np.clip(1 - depth / floor_mm, 0, 1)  # narrower towards the floor
        distance: Floats = np.hypot(sheets(*on_ray), below_floor)
        return distance - half_width_mm

    def interhemispheric_fissure(x: Floats, y: Floats, z: Floats) -> Floats:
        (callosum_y, callosum_z), (radius_callosum_y, radius_callosum_z) = CORPUS_CALLOSUM_YZ
        callosum = 1 - np.sqrt(
            ((y - callosum_y) / radius_callosum_y) ** 2
            + ((z - callosum_z) / radius_callosum_z) ** 2
        )
        half_width_mm, mean_radius_mm = 1, 30
        distance: Floats = np.hypot(x, np.maximum(callosum, 0) * mean_radius_mm)
        return distance - half_width_mm

    def sylvian_fissure(x: Floats, y: Floats, z: Floats) -> Floats:
        side = np.abs(x)
        # A sheet that rises to the back and falls to the side. It begins above the insula, 43 mm
        # from the midline, and is 56 mm long.
        off_insula = np.maximum(43 - side, 0) ** 2 + np.maximum(np.abs(y - 6) - 28, 0) ** 2
        off_sheet = z - sylvian_z - sylvian_slope * (y - 8) + 0.4 * (side - 50)
        half_width_mm = 1.2
        distance: Floats = np.sqrt(off_sheet * off_sheet + off_insula)
        return distance - half_width_mm

    def pial_depth(x: Floats, y: Floats, z: Floats) -> Floats:
        depth = -cerebrum.distance(x, y, z)
        folded = np.minimum(depth, sulci(x, y, z, depth))
        fissures = np.minimum(interhemispheric_fissure(x, y, z), sylvian_fissure(x, y, z))
        return np.minimum(folded, fissures)

    return pial_depth


def _deep_nuclei(signals: _Signals, label: int) -> list[Layer]:
    """Caudate, putamen and thalamus, and the brighter pallidum."""
    caudate = tapering_tube(smooth_curve(CAUDATE))
    nuclei = union(caudate, ellipsoid(*PUTAMEN), ellipsoid(*THALAMUS))
    return [
        Layer(mirror(nuclei), signals.deep_nuclei, label),
        Layer(mirror(ellipsoid(*PALLIDUM)), signals.pallidum, label),
    ]


def _ventricles(scale: float, voxel_mm: float) -> Shape:
    """Lateral, third and fourth ventricles; `scale` widens them without lengthening them."""
    horn = smooth_curve(LATERAL_VENTRICLE)
    lateral = tube(horn[:, :3], np.maximum(horn[:, 3] * scale, 0.9 * voxel_mm))
    third = ellipsoid((0, -6, -1), (at_least_voxels(3.0 * scale, 0.8, voxel_mm), 14, 11))
    fourth = ellipsoid((0, -26, -42), (8 * scale, 5.5 * scale, 11))
    return union(mirror(lateral), third, fourth)


def _cerebellar_signal(
    rng: np.random.Generator, cerebellum: Shape, signals: _Signals, voxel_mm: float
) -> Field:
    """Folia that fan out from the fourth ventricle, around a branching white core."""
    # So many in a full turn: as many as the grid can show.
    num_folia = int(np.clip(200 / at_least_voxels(5.0, 2.6, voxel_mm), 8, 44))
    ripple = random_field(rng, 30.0)
    grey, white = signals.grey_matter, signals.white_matter

    def signal(x: Floats, y: Floats, z: Floats) -> Floats:
        angle = np.arctan2(z + 42, -(y + 24)) * num_folia + 0.9 * ripple(x, y, z)
        depth = -cerebellum.distance(x, y, z)
        # White matter from about 9 mm below the surface, with branches; folia in the outer 11 mm.
        white_share = np.clip((depth - 9 + 6 * np.cos(angle / 4)) / 5, 0, 1)
        darkening = 0.14 * np.clip(1 - depth / 11, 0, 1) * (1 + np.cos(angle))
        tissue: Floats = grey * (1.04 - darkening) + white_share * (0.92 * white - grey)
        return tissue

    return signal
