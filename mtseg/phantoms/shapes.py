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
