"""Geometry that the synthetic anatomy is built from: solids, and what can be made of them.

Read this before the module of an anatomy. A solid is a `Shape`: its signed distance in mm to its
own surface, negative inside and positive outside, and a box around it. Working with distances
makes the rest of the algebra short:

| to get | write | the distance |
| --- | --- | --- |
| all of a and b | `union(a, b)` | the smaller one |
| what is in both | `intersect(a, b)` | the larger one |
| a without b | `subtract(a, b)` | the larger one of a and minus b |
| a, 2 mm larger | `expand(a, 2)` | minus 2 |
| a and its mirror image | `mirror(a)` | at the absolute x |

Away from a surface the distances are approximate, after `union` and `intersect` too. Only
the sign, and the distance within about a voxel of the surface, decide what is painted.

Coordinates are x, y, z in mm of an adult: to the subject's right, anterior and superior. A `Field`
is any function of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Floats = npt.NDArray[np.floating[Any]]
"""An array of float32 or float64."""

Point = Sequence[float] | Floats
"""x, y, z in mm."""

Field = Callable[[Floats, Floats, Floats], Floats]
"""A function of x, y, z in mm (float32 arrays of one shape) to an array of that shape."""

FAR_MM = 1e6
"""Farther than any scan reaches; as a radius of an ellipsoid it makes a cylinder."""

NOISE_LATTICE = 72
"""Points along each axis of the periodic lattice of a random field."""

NOISE_POINTS_PER_WAVE = 8
"""Lattice points in one wavelength of a random field."""


@dataclass(frozen=True, eq=False)
class Shape:
    """A solid.

    Attributes:
        distance: signed distance to the surface in mm, negative inside.
        low_mm: (3,), lowest x, y, z of a box that holds the solid.
        high_mm: (3,), highest x, y, z of the box; outside of it the distance is positive.
    """

    distance: Field
    low_mm: Floats
    high_mm: Floats


@dataclass(frozen=True, eq=False)
class Layer:
    """A solid filled with one tissue, painted over the layers before it.

    Attributes:
        shape: the solid.
        intensity: MR signal in arbitrary units or CT value in HU; a field where it varies.
        label: value in the label map; 0 is background.
    """

    shape: Shape
    intensity: float | Field
    label: int = 0


def at_least_voxels(size_mm: float, num_voxels: float, voxel_mm: float) -> float:
    """A size in mm, but never less than a number of voxels, so that a small subject shows it."""
    return max(size_mm, num_voxels * voxel_mm)


def project(vector: Point, coordinates: Sequence[Floats]) -> Floats:
    """The coordinate along a vector, of points given as arrays x, y, z."""
    x, y, z = (np.float32(v) * c for v, c in zip(vector, coordinates, strict=True))
    along: Floats = x + y + z
    return along


# Solids.


def ellipsoid(centre_mm: Point, radii_mm: Point, frame: Floats | None = None) -> Shape:
    """An ellipsoid; a radius of `FAR_MM` makes it an elliptic cylinder along that axis.

    Args:
        centre_mm: its centre.
        radii_mm: half its length along each of its three axes.
        frame: (3, 3), its axes as unit vectors in rows; None is x, y, z.

    Returns:
        The solid. Its distance is exact on the surface and right to first order near it: the
        implicit function over the length of its gradient. It is 0 at the very centre too, where
        the gradient vanishes; a subject lies tilted, so that no voxel is there.
    """
    centre, radii = np.asarray(centre_mm, float), np.asarray(radii_mm, float)

    def distance(x: Floats, y: Floats, z: Floats) -> Floats:
        offsets = [c - np.float32(o) for c, o in zip((x, y, z), centre, strict=True)]
        squares, slopes = np.zeros_like(x), np.full_like(x, 1e-9)
        for n, radius in enumerate(radii):
            if radius < FAR_MM:
                along = offsets[n] if frame is None else project(frame[n], offsets)
                square = (along / np.float32(radius)) ** 2
                squares += square
                slopes += square * np.float32(radius**-2)
        norm = np.sqrt(squares)
        signed: Floats = norm * (norm - 1) / np.sqrt(slopes)
        return signed

    reach = radii if frame is None else np.abs(frame.T) @ radii
    return Shape(distance, centre - reach, centre + reach)


def cylinder(x_mm: float, y_mm: float, radius_x_mm: float, radius_y_mm: float) -> Shape:
    """An endless elliptic cylinder along z, from feet to head."""
    return ellipsoid((x_mm, y_mm, 0), (radius_x_mm, radius_y_mm, FAR_MM))


def smooth_curve(knots: Sequence[Point] | Floats, points_per_knot: int = 8) -> Floats:
    """A cubic spline through knots.

    Args:
        knots: (n, columns); columns may be x, y, z or x, y, z and a radius, all in mm.
        points_per_knot: points from one knot to the next.

    Returns:
        ((n - 1) * points_per_knot + 1, columns), float64.
    """
    from scipy.interpolate import CubicSpline  # a third of a second, which commands would wait

    t = np.linspace(0, len(knots) - 1, points_per_knot * (len(knots) - 1) + 1)
    curve: Floats = CubicSpline(np.arange(len(knots)), knots)(t)
    return curve


def tube(points_mm: Floats, radii_mm: Floats) -> Shape:
    """A tube with round ends along a polyline.

    Args:
        points_mm: (n, 3).
        radii_mm: (n,); between two points the radius changes linearly.

    Returns:
        The solid. The distance is `FAR_MM` where no part of the tube is near the block of
        coordinates that was asked for.
    """
    points, radii = np.asarray(points_mm, np.float32), np.asarray(radii_mm, np.float32)
    margin_mm = 4

    def distance(x: Floats, y: Floats, z: Floats) -> Floats:
        nearest = np.full(x.shape, FAR_MM, np.float32)
        low = np.array([c.min() for c in (x, y, z)]) - radii.max() - margin_mm
        high = np.array([c.max() for c in (x, y, z)]) + radii.max() + margin_mm
        for a, b, radius_a, radius_b in zip(points, points[1:], radii, radii[1:], strict=False):
            if (np.maximum(a, b) < low).any() or (np.minimum(a, b) > high).any():
                continue
            offsets = (x - a[0], y - a[1], z - a[2])
            share = np.clip(project((b - a) / ((b - a) @ (b - a)), offsets), 0, 1)
            square = sum((c - share * s) ** 2 for c, s in zip(offsets, b - a, strict=True))
            radius = radius_a + share * (radius_b - radius_a)
            nearest = np.minimum(nearest, np.sqrt(square) - radius)
        return nearest

    return Shape(distance, points.min(0) - radii.max(), points.max(0) + radii.max())


def tapering_tube(centre_line_mm: Floats) -> Shape:
    """A tube along rows of x, y, z and radius, (n, 4) in mm."""
    return tube(centre_line_mm[:, :3], centre_line_mm[:, 3])


# What is made of solids.


def expand(shape: Shape, mm: float) -> Shape:
    """The solid with its surface moved outwards by `mm`; inwards, if it is negative."""
    return Shape(
        lambda *p: shape.distance(*p) - np.float32(mm), shape.low_mm - mm, shape.high_mm + mm
    )


def union(*shapes: Shape, blend_mm: float = 0.0) -> Shape:
    """All of the solids; their junctions are filled and rounded over `blend_mm`."""

    def distance(x: Floats, y: Floats, z: Floats) -> Floats:
        joined = shapes[0].distance(x, y, z)
        for shape in shapes[1:]:
            other = shape.distance(x, y, z)
            overlap = np.maximum(blend_mm - np.abs(joined - other), 0)
            joined = np.minimum(joined, other)
            joined -= overlap * overlap * np.float32(0.25 / (blend_mm or 1))
        return joined

    low = np.stack([shape.low_mm for shape in shapes]).min(0)
    high = np.stack([shape.high_mm for shape in shapes]).max(0)
    return Shape(distance, low - blend_mm, high + blend_mm)


def intersect(shape: Shape, other: Shape | Field) -> Shape:
    """What is inside both: a solid, and another one or a field that is negative inside."""
    inside = other.distance if isinstance(other, Shape) else other
    return Shape(lambda *p: np.maximum(shape.distance(*p), inside(*p)), shape.low_mm, shape.high_mm)


def subtract(shape: Shape, other: Shape, gap_mm: float = 0.0) -> Shape:
    """The solid without all that lies within `gap_mm` of another one."""
    return intersect(shape, lambda *p: np.float32(gap_mm) - other.distance(*p))


def mirror(shape: Shape) -> Shape:
    """A pair: the solid, which is on the right (x > 0), and its reflection on the left."""
    low = np.array([-shape.high_mm[0], *shape.low_mm[1:]])
    return Shape(lambda x, y, z: shape.distance(np.abs(x), y, z), low, shape.high_mm)


def above(z_mm: float) -> Field:
    """The half of space that is superior to a height, negative inside."""
    return lambda x, y, z: np.float32(z_mm) - z


def deeper_than(mm: float, depth: Field) -> Field:
    """The part of space where a depth in mm, which grows inwards, is more than `mm`."""
    return lambda *p: mm - depth(*p)


def bone_layers(shape: Shape, marrow: float, cortex: float, cortex_mm: float) -> list[Layer]:
    """A bone: cortical bone of a thickness in mm around marrow, as two layers."""
    return [Layer(shape, cortex), Layer(expand(shape, -cortex_mm), marrow)]


# Random fields. Each takes its numbers from `rng` when it is made, not when it is called.


def random_field(rng: np.random.Generator, wavelength_mm: float) -> Field:
    """A smooth random field, mean 0 and standard deviation 1."""
    return _interpolate(_band_passed_noise(rng), wavelength_mm)


def random_sheets(rng: np.random.Generator, wavelength_mm: float) -> Field:
    """Signed distance in mm to folded sheets at random places: the zeros of a random field.

    It is cut off at plus and minus `wavelength_mm`.
    """
    lattice = _band_passed_noise(rng)
    per_mm = np.float32(NOISE_POINTS_PER_WAVE / wavelength_mm)
    gradient = np.gradient(np.pad(lattice, 1, mode="wrap"))
    slope = np.linalg.norm(gradient, axis=0)[1:-1, 1:-1, 1:-1] * per_mm
    # A distance is the value over the slope. Only two of the gradient's three directions run along
    # a surface that the field folds, hence 0.82, the root of two thirds; 0.04 keeps flat places
    # from dividing by zero.
    distance_mm = lattice / (0.82 * slope + 0.04 * per_mm)
    return _interpolate(np.clip(distance_mm, -wavelength_mm, wavelength_mm), wavelength_mm)


def _band_passed_noise(rng: np.random.Generator) -> Floats:
    """White noise without its finest and coarsest waves, on the periodic lattice, float32."""
    white = rng.standard_normal((NOISE_LATTICE,) * 3, dtype=np.float32)
    fine, coarse = (ndimage.gaussian_filter(white, sigma, mode="wrap") for sigma in (1.2, 1.9))
    band = fine - coarse
    noise: Floats = band / band.std()
    return noise


def _interpolate(lattice: Floats, wavelength_mm: float) -> Field:
    per_mm = np.float32(NOISE_POINTS_PER_WAVE / wavelength_mm)
    return lambda *p: ndimage.map_coordinates(
        lattice, [c * per_mm for c in p], order=1, mode="grid-wrap"
    )
