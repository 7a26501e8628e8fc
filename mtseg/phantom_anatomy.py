"""Anatomy of the synthetic subjects: random numbers come in, painted layers of tissue leave.

A subject is a list of layers in its own frame: mm of an adult, axes right, anterior and superior.
Layers are painted in order, later ones over earlier ones, as a signed distance that is negative
inside; a voxel that a surface crosses gets its share of both tissues.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.interpolate import CubicSpline

Floats = Sequence[float] | np.ndarray
Field = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""A function of x, y, z in mm (float32 arrays of one shape), e.g. a signed distance in mm."""

ENDLESS = 1e6
"""The radius in mm of an ellipsoid along the axis of a cylinder."""


@dataclass(frozen=True)
class Shape:
    """A signed distance in mm, and the box low..high in mm outside of which it is positive."""

    distance: Field
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Layer:
    """A shape filled with one tissue; label 0 is unlabelled."""

    shape: Shape
    value: float | Field
    label: int = 0


def dot(vector: np.ndarray, coordinates: Sequence[np.ndarray]) -> np.ndarray:
    """The coordinate along a vector, of points given as x, y, z."""
    x, y, z = (np.float32(v) * c for v, c in zip(vector, coordinates, strict=True))
    return x + y + z


def ellipsoid(centre: Floats, radii: Floats, frame: np.ndarray | None = None) -> Shape:
    """An ellipsoid, or a cylinder where a radius is `ENDLESS`; the rows of `frame` are its axes."""
    centre_mm, radii_mm = np.asarray(centre, float), np.asarray(radii, float)

    def distance(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        # To first order, the implicit function over the length of its gradient.
        p = [c - np.float32(o) for c, o in zip((x, y, z), centre_mm, strict=True)]
        squares, slopes = np.zeros_like(x), np.full_like(x, 1e-9)
        for n, radius in enumerate(radii_mm):
            if radius < ENDLESS:
                along = p[n] if frame is None else dot(frame[n], p)
                square = (along / np.float32(radius)) ** 2
                squares += square
                slopes += square * np.float32(radius**-2)
        norm = np.sqrt(squares)
        return norm * (norm - 1) / np.sqrt(slopes)

    reach = radii_mm if frame is None else np.abs(frame.T) @ radii_mm
    return Shape(distance, centre_mm - reach, centre_mm + reach)


def rod(x: float, y: float, radius_x: float, radius_y: float) -> Shape:
    """A cylinder along z."""
    return ellipsoid((x, y, 0), (radius_x, radius_y, ENDLESS))


def curve(knots: Sequence[Floats] | np.ndarray, step: int = 8) -> np.ndarray:
    """A smooth polyline through knots, `step` points from one to the next."""
    t = np.linspace(0, len(knots) - 1, step * (len(knots) - 1) + 1)
    return CubicSpline(np.arange(len(knots)), knots)(t)


def tube(points: np.ndarray, radii: np.ndarray) -> Shape:
    """A tapering tube along a polyline: points (n, 3) and radii (n,), in mm."""
    points, radii = np.asarray(points, np.float32), np.asarray(radii, np.float32)

    def distance(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        nearest = np.full(x.shape, ENDLESS, np.float32)
        low = np.array([c.min() for c in (x, y, z)]) - radii.max() - 4
        high = np.array([c.max() for c in (x, y, z)]) + radii.max() + 4
        for a, b, r_a, r_b in zip(points, points[1:], radii, radii[1:], strict=False):
            if (np.maximum(a, b) < low).any() or (np.minimum(a, b) > high).any():
                continue
            p = (x - a[0], y - a[1], z - a[2])
            t = np.clip(dot((b - a) / ((b - a) @ (b - a)), p), 0, 1)
            square = sum((c - t * s) ** 2 for c, s in zip(p, b - a, strict=True))
            nearest = np.minimum(nearest, np.sqrt(square) - (r_a + t * (r_b - r_a)))
        return nearest

    return Shape(distance, points.min(0) - radii.max(), points.max(0) + radii.max())


def grow(shape: Shape, mm: float) -> Shape:
    """The shape with its surface moved outwards by `mm`."""
    return Shape(lambda *p: shape.distance(*p) - np.float32(mm), shape.low - mm, shape.high + mm)


def union(*shapes: Shape, blend_mm: float = 0.0) -> Shape:
    """All of the shapes, their junctions rounded over `blend_mm`."""

    def distance(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        joined = shapes[0].distance(x, y, z)
        for shape in shapes[1:]:
            other = shape.distance(x, y, z)
            overlap = np.maximum(blend_mm - np.abs(joined - other), 0)
            joined = np.minimum(joined, other)
            joined -= overlap * overlap * np.float32(0.25 / (blend_mm or 1))
        return joined

    low, high = (np.stack([getattr(s, side) for s in shapes]) for side in ("low", "high"))
    return Shape(distance, low.min(0) - blend_mm, high.max(0) + blend_mm)


def meet(shape: Shape, other: Shape | Field) -> Shape:
    """What is inside both of two shapes."""
    inside = other.distance if isinstance(other, Shape) else other
    return Shape(lambda *p: np.maximum(shape.distance(*p), inside(*p)), shape.low, shape.high)


def cut(shape: Shape, other: Shape, gap_mm: float = 0.0) -> Shape:
    """The shape without all that lies within `gap_mm` of another."""
    return meet(shape, lambda *p: np.float32(gap_mm) - other.distance(*p))


def mirror(shape: Shape) -> Shape:
    """The shape, which lies at x > 0, and its reflection in the plane x = 0."""
    low = np.array([-shape.high[0], *shape.low[1:]])
    return Shape(lambda x, y, z: shape.distance(np.abs(x), y, z), low, shape.high)


def bony(shape: Shape, marrow: float, cortex: float, rim_mm: float) -> list[Layer]:
    """A bone: a rim of cortical bone around marrow."""
    return [Layer(shape, cortex), Layer(grow(shape, -rim_mm), marrow)]


def noise(rng: np.random.Generator, wavelength_mm: float, is_distance: bool = False) -> Field:
    """A smooth random field, mean 0 and deviation 1, or the distance in mm to its zeros."""
    white = rng.standard_normal((72, 72, 72), dtype=np.float32)
    blurred = [ndimage.gaussian_filter(white, sigma, mode="wrap") for sigma in (1.2, 1.9)]
    lattice = (blurred[0] - blurred[1]) / (blurred[0] - blurred[1]).std()
    per_mm = np.float32(8 / wavelength_mm)
    if is_distance:
        gradient = np.gradient(np.pad(lattice, 1, mode="wrap"))
        slope = np.linalg.norm(gradient, axis=0)[1:-1, 1:-1, 1:-1] * per_mm
        # Only two of the gradient's three directions run along a surface that the field folds.
        lattice = np.clip(lattice / (0.82 * slope + 0.04 * per_mm), -wavelength_mm, wavelength_mm)

    return lambda *p: ndimage.map_coordinates(
        lattice, [c * per_mm for c in p], order=1, mode="grid-wrap"
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
