"""Anatomy of the synthetic subjects: random numbers come in, painted layers of tissue leave.

A subject is a list of layers in its own frame: mm of an adult, axes right, anterior and superior.
Layers are painted in order, later ones over earlier ones, as a signed distance that is negative
inside; a voxel that a surface crosses gets its share of both tissues.
"""

from __future__ import annotations

import numpy as np

from mtseg.phantoms.shapes import (
    Layer,
    curve,
    cut,
    ellipsoid,
    grow,
    meet,
    mirror,
    noise,
    tube,
    union,
)


def plan_brain(rng: np.random.Generator, voxel_mm: float, labels: dict[str, int]) -> list[Layer]:
    """A head for T1-weighted MR: scalp, skull, folded cortex, deep nuclei, hindbrain.

    Args:
        rng: the source of randomness.
        voxel_mm: a voxel's size in mm of an adult; nothing labelled is drawn too thin to show.
        labels: the label of every class.

    Returns:
        Layers from the outside inwards, values in the scanner's units.
    """
    white, grey, csf = (v * rng.uniform(0.96, 1.04) for v in (900.0, 620.0, 230.0))
    fat, muscle, bone = 1150.0 * rng.uniform(0.95, 1.05), 480.0, 60.0
    nuclei, stem_value = 0.5 * (white + grey), 0.9 * white
    base, swell = rng.uniform(-26, -23), rng.uniform(0.9, 1.1)  # forebrain's floor, ventricles
    upper = meet(ellipsoid((0, 0, 6), (66, 86, 57)), lambda x, y, z: np.float32(base) - z)
    temporal = mirror(ellipsoid((40, 12, -26), (24, 44, 24)))
    whole = union(upper, temporal, blend_mm=6)
    lobe, vermis = ellipsoid((22, -45, -46), (26.5, 29, 22)), ellipsoid((0, -42, -42), (12, 26, 24))
    cerebellum = union(mirror(lobe), vermis, blend_mm=6)
    path = curve([(0, -14, -6, 11), (0, -14, -22, 11), (0, -9, -38, 12.6), (0, -15, -56, 9.2),
                  (0, -19, -74, 8), (0, -22, -100, 7)])  # fmt: skip
    cord = tube(path[:, :3], path[:, 3])
    cerebrum = cut(whole, cerebellum, max(3.0, 0.9 * voxel_mm))
    cerebrum = cut(cerebrum, ellipsoid((0, -8, -40), (24, 26, 27)))  # the cisterns
    # Sulci are sheets that run inwards from the surface: the zero crossings of a random field
    # that is constant along every ray from the centre, rays bent by a second field.
    folds = noise(rng, max(24.0, 7.5 * voxel_mm), is_distance=True)
    depths, bends = noise(rng, 40.0), noise(rng, 48.0)
    cortex_mm = max(2.9, 0.95 * voxel_mm)
    sylvian_slope, sylvian_z = rng.uniform(0.15, 0.3), rng.uniform(-10, -6)

    def pial_depth(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Distance in mm to the nearest pial surface, positive in the tissue."""
        depth = -cerebrum.distance(x, y, z)
        radius = np.sqrt((x / 66) ** 2 + (y / 86) ** 2 + ((z - 6) / 57) ** 2 + 1e-3)
        bend = 2.5 * bends(x, y, z)
        rays = x / radius + bend, y / radius - bend, (z - 6) / radius + bend
        floor = 17 + 4 * depths(*rays)
        below = np.maximum(np.maximum(depth - floor, 70 * (0.62 - radius)), 0)
        sulcus = np.hypot(folds(*rays), below) - 0.9 * np.clip(1 - depth / floor, 0, 1)
        callosum = 1 - np.sqrt(((y + 3) / 43) ** 2 + ((z + 2) / 27) ** 2)
        fissure = np.hypot(x, np.maximum(callosum, 0) * 30) - 1
        side = np.abs(x)
        insula = np.maximum(43 - side, 0) ** 2 + np.maximum(np.abs(y - 6) - 28, 0) ** 2
        lid = z - sylvian_z - sylvian_slope * (y - 8) + 0.4 * (side - 50)
        sylvian = np.sqrt(lid * lid + insula) - 1.2
        return np.minimum(np.minimum(depth, sulcus), np.minimum(fissure, sylvian))

    tail = curve([(14, 31, 2, 8), (15, 22, 12, 8), (18, 2, 19, 6), (22, -20, 16, 4.5)])
    caudate, putamen = tube(tail[:, :3], tail[:, 3]), ellipsoid((27, 9, 0), (9, 21, 14.5))
    thalamus, pallidum = ellipsoid((13, -15, 4), (11, 18, 12.5)), ellipsoid((20, 4, -2), (6, 11, 9))
    horn = curve([(5, 40, 4, 3.5), (7, 28, 10, 6), (9, 5, 21, 5.5), (17, -22, 20, 6.5),
                  (26, -42, 6, 7), (31, -30, -12, 5), (31, -8, -22, 3)])  # fmt: skip
    lateral = mirror(tube(horn[:, :3], np.maximum(horn[:, 3] * swell, 0.9 * voxel_mm)))
    third = ellipsoid((0, -6, -1), (max(3.0 * swell, 0.8 * voxel_mm), 14, 11))
    fourth = ellipsoid((0, -26, -42), (8 * swell, 5.5 * swell, 11))
    folia, ripple = int(np.clip(200 / max(5.0, 2.6 * voxel_mm), 8, 44)), noise(rng, 30.0)

    def leaf(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Folia that fan out from the fourth ventricle, around a branching white core."""
        fan = np.arctan2(z + 42, -(y + 24)) * folia + 0.9 * ripple(x, y, z)
        depth = -cerebellum.distance(x, y, z)
        tree = np.clip((depth - 9 + 6 * np.cos(fan / 4)) / 5, 0, 1)
        dark = 0.14 * np.clip(1 - depth / 11, 0, 1) * (1 + np.cos(fan))
        return grey * (1.04 - dark) + tree * (0.92 * white - grey)

    cavity = grow(union(upper, temporal, cerebellum, blend_mm=10), 3)
    jaw, neck = ellipsoid((0, 42, -62), (54, 50, 58)), ellipsoid((0, -18, -95), (52, 50, 70))
    nose = ellipsoid((0, 90, -50), (13, 14, 22))
    head = union(grow(cavity, 11), union(jaw, neck, blend_mm=25), nose, blend_mm=14)
    airway = curve([(0, 84, -58), (0, 55, -52), (0, 28, -60), (0, 18, -78), (0, 17, -110)])
    orbits, eyes = (mirror(ellipsoid((31, y, -32), r)) for y, r in
                    [(70, (17, 21, 16)), (76, (12, 12, 12))])  # fmt: skip
    return [
        # Skin and scalp, face, skull with marrow, fluid, brain.
        Layer(head, 0.7 * fat), Layer(grow(head, -max(1.5, 0.4 * voxel_mm)), fat),
        Layer(cut(grow(head, -6), cavity, 8), muscle), Layer(orbits, fat), Layer(eyes, csf),
        Layer(tube(airway, np.linspace(9, 7, len(airway))), 0.0),
        Layer(grow(cavity, 6), bone), Layer(cut(grow(cavity, 4), cavity, 2), 260.0),
        Layer(cavity, csf),
        Layer(meet(whole, lambda *p: -pial_depth(*p)), grey, labels["cortical_grey_matter"]),
        Layer(meet(whole, lambda *p: cortex_mm - pial_depth(*p)), white, labels["white_matter"]),
        Layer(cerebellum, leaf, labels["cerebellum"]),
        Layer(cord, stem_value),
        Layer(meet(cord, lambda x, y, z: -72 - z), stem_value, labels["brain_stem"]),
        Layer(mirror(union(caudate, putamen, thalamus)), nuclei, labels["basal_ganglia_thalami"]),
        Layer(mirror(pallidum), nuclei + 60, labels["basal_ganglia_thalami"]),
        Layer(union(lateral, third, fourth), csf, labels["ventricular_csf"]),
    ]  # fmt: skip
