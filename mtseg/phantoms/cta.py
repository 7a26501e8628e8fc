"""Anatomy of the synthetic subjects: random numbers come in, painted layers of tissue leave.

A subject is a list of layers in its own frame: mm of an adult, axes right, anterior and superior.
Layers are painted in order, later ones over earlier ones, as a signed distance that is negative
inside; a voxel that a surface crosses gets its share of both tissues.
"""

from __future__ import annotations

import numpy as np

from mtseg.phantoms.breast import pectoral, ribs
from mtseg.phantoms.shapes import (
    Floats,
    Layer,
    Shape,
    bony,
    curve,
    cut,
    dot,
    ellipsoid,
    grow,
    meet,
    noise,
    rod,
    tube,
    union,
)


def plan_cta(rng: np.random.Generator, voxel_mm: float, labels: dict[str, int]) -> list[Layer]:
    """A chest for CT angiography of the heart, values in Hounsfield units.

    Args and Returns are those of `plan_brain`.
    """
    blood, right_blood = rng.uniform(380, 450), rng.uniform(260, 330)
    fat, muscle, myocardium = -100.0, 52.0, rng.uniform(100, 125)
    # The heart's own axes u, v, w: base to apex, to the right ventricle, to the anterior groove.
    apex = np.array([-0.68, 0.52, -0.52]) + rng.normal(0, 0.04, 3)
    groove = np.cross([0.62, 0.75, -0.1], apex)
    frame = np.stack([apex, np.cross(apex, groove), groove])
    frame /= np.linalg.norm(frame, axis=1, keepdims=True)
    origin = np.array([-8.0, 4.0, -6.0])
    radii = np.array([58.0, 45.0, 43.0]) * rng.uniform(0.95, 1.05, 3)

    def place(u: float, v: float, w: float) -> np.ndarray:
        return origin + np.array([u, v, w]) @ frame

    def chamber(u: float, v: float, w: float, size: Floats) -> Shape:
        return ellipsoid(place(u, v, w), size, frame)

    mass = chamber(0, 0, 0, radii)
    muscle_mass = meet(mass, lambda *p: -34 - dot(frame[0], p) + np.float32(frame[0] @ origin))
    left = chamber(-6, -13, 0, (43, 19, 20))
    right = meet(cut(chamber(-6, 8, 0, (46, 31, 35)), left, 11), grow(muscle_mass, -4))
    root = place(-40, 2, 14)
    arch_steps = [(-4, 4, -12), (0, 0, 0), (8, 4, 26), (9, 2, 60), (4, -4, 90)]
    trunk_steps = [(-14, 18, 3), (-14, 12, 20), (-22, 4, 40), (-28, -20, 50), (-60, -38, 55)]
    arch, trunk = curve(np.add(arch_steps, root)), curve(np.add(trunk_steps, root))
    aorta = tube(arch, np.full(len(arch), rng.uniform(13, 15)))
    thinnest, sleeve_mm = 1.7 * voxel_mm, max(4.0, 1.2 * voxel_mm)  # a vessel, the fat around it

    def on_heart(theta: float, phi: float) -> np.ndarray:
        """A point in the fat on the heart, at angles in degrees from u and from v to w."""
        u, v = np.radians(theta), np.radians(phi)
        outwards = np.array([np.cos(u), np.sin(u) * np.cos(v), np.sin(u) * np.sin(v)])
        return origin + (outwards * (radii + max(2.0, thinnest) + 1.5)) @ frame

    def vessel(start: np.ndarray, stops: list[tuple], radius: tuple[float, float]) -> tuple:
        """Points and radii of a vessel that runs on the heart's surface."""
        wander = rng.normal(0, 2.5, (len(stops), 2))
        points = curve(np.stack([start, *(on_heart(*s) for s in np.array(stops) + wander)]))
        return points, np.maximum(np.linspace(radius[0], radius[1], len(points)), thinnest)

    main = vessel(place(-38, -2, 24), [(112, 104)], (2.1, 2.0))
    fork = main[0][-1]
    lad = vessel(fork, [(92, 98), (72, 96), (52, 93), (34, 92), (16, 92)], (1.9, 0.8))
    lcx = vessel(fork, [(119, 128), (123, 152), (123, 178), (122, 205), (121, 228)], (1.7, 0.8))
    rca_stops = [(118, 62), (122, 35), (124, 8), (124, -20), (122, -50), (118, -82)]
    rca = vessel(place(-38, 12, 20), rca_stops, (1.9, 1.1))
    vessels = [
        *(main, lad, lcx, rca),
        vessel(lad[0][12], [(68, 118), (50, 132), (36, 142)], (1.3, 0.7)),
        vessel(lcx[0][18], [(100, 172), (78, 180), (56, 186)], (1.3, 0.7)),
        vessel(rca[0][-1], [(96, -86), (74, -88), (54, -90)], (1.2, 0.7)),
    ]
    wall = rod(0, -24, 118 * rng.uniform(0.97, 1.03), 98 * rng.uniform(0.97, 1.03))
    body, inside = grow(wall, rng.uniform(26, 34)), grow(wall, -13)
    # Two sheets meet in lines, which are the lung's vessels.
    a, b = noise(rng, 20.0, is_distance=True), noise(rng, 20.0, is_distance=True)
    middle = union(rod(0, -50, 34, 62), grow(mass, 7), rod(0, 52, 26, 22), blend_mm=14)
    return [
        # Skin, fat, an unlabelled pectoral muscle, chest wall; lungs, middle.
        Layer(body, 30.0), Layer(grow(body, -2), fat),
        Layer(pectoral(wall, max(14.0, 2 * voxel_mm), 95), muscle), Layer(wall, 45.0),
        *bony(ribs(wall, 30.0, rng.uniform(0, 30)), 320.0, 600.0, 2),
        Layer(inside, lambda *p: 950 * np.clip(1.6 - np.hypot(a(*p), b(*p)), 0, 1) - 850),
        Layer(meet(middle, inside), fat),
        # Breastbone, spine and its canal, descending aorta, gullet.
        *bony(rod(0, wall.high[1] - 7, 17, 6), 250.0, 550.0, 2.5),
        *bony(rod(0, -92, 21, 17), 260.0, 600.0, 2.5), Layer(rod(0, -114, 8, 8), 35.0),
        Layer(rod(-22, -64, 12.5, 12.5), 60.0), Layer(rod(-22, -64, 11, 11), blood),
        Layer(rod(-4, -58, 7, 6), 40.0),
        # Pulmonary trunk, atria, upper vena cava, ventricles.
        Layer(tube(trunk, np.full(len(trunk), 11.5)), 0.5 * (blood + right_blood)),
        Layer(chamber(-64, -12, -4, (25, 36, 29)), 0.97 * blood),
        Layer(chamber(-62, 31, -4, (24, 23, 27)), right_blood),
        Layer(ellipsoid((30, -12, 60), (9, 9, 50)), right_blood + 120),
        Layer(muscle_mass, myocardium), Layer(left, blood), Layer(right, right_blood),
        # Fat around the coronaries, the aorta and its wall, the coronaries.
        *(Layer(tube(points, r + sleeve_mm), fat) for points, r in vessels),
        Layer(grow(aorta, 1.5), 60.0), Layer(aorta, blood),
        *(Layer(cut(tube(*v), aorta, 0.5), blood, labels["coronary_arteries"]) for v in vessels),
    ]  # fmt: skip
