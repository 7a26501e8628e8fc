"""Pectoral muscles and ribs, which the breast MR and the cardiac CT phantoms share.

Both lie on a chest wall: an elliptic cylinder along z that each phantom gives its own size.
Coordinates are mm of an adult, to the right, anterior and superior.
"""

from __future__ import annotations

import numpy as np

from mtseg.phantoms.shapes import FAR_MM, Floats, Shape

FAT_FILM_MM = 1.5
"""Fat between the pectoral muscle and the chest wall."""

STERNUM_HALF_WIDTH_MM = 9
"""The pectoral muscles begin this far from the midline."""


def pectoral_muscles(
    wall: Shape, thickness_mm: float, reach_mm: float, lowest_mm: float = -FAR_MM
) -> Shape:
    """A pair of curved sheets on the chest wall, from the breastbone towards the armpits.

    Args:
        wall: the chest wall.
        thickness_mm: where a sheet is thickest; it tapers towards all its borders.
        reach_mm: distance of the lateral border from the midline at z = 0.
        lowest_mm: z of the lower border at the midline; without it the sheet has no lower border.
    """
    middle_y = (wall.low_mm[1] + wall.high_mm[1]) / 2
    # A border slopes by so many mm, and over so many mm the sheet reaches its full thickness.
    lateral_slope, lateral_taper_mm = 0.25, 30
    lower_slope, lower_taper_mm = 0.2, 25
    medial_taper_mm = 12
    outside_mm = 50  # any distance that is clearly outside

    def distance(x: Floats, y: Floats, z: Floats) -> Floats:
        from_midline, off_wall = np.abs(x), wall.distance(x, y, z)
        lateral = np.clip((reach_mm + lateral_slope * z - from_midline) / lateral_taper_mm, 0, 1)
        lower = np.clip((z - lowest_mm - lower_slope * from_midline) / lower_taper_mm, 0, 1)
        medial = np.clip((from_midline - STERNUM_HALF_WIDTH_MM) / medial_taper_mm, 0, 1)
        taper = np.sqrt(lateral * lower * medial)
        sheet = np.maximum(off_wall - FAT_FILM_MM - thickness_mm * taper, FAT_FILM_MM - off_wall)
        is_in_front = (y > middle_y) & (taper > 0)
        return np.where(is_in_front, sheet, outside_mm)

    outermost_mm = FAT_FILM_MM + thickness_mm
    return Shape(distance, wall.low_mm - outermost_mm, wall.high_mm + outermost_mm)


def ribs(wall: Shape, spacing_mm: float, first_mm: float) -> Shape:
    """Rings in the chest wall that run downwards to the front.

    Args:
        wall: the chest wall.
        spacing_mm: from one rib to the next, along z.
        first_mm: how far below z = 0 one of the ribs is.
    """
    descent = 0.35  # mm downwards per mm to the front
    depth_mm = 6.5  # of a rib's middle below the surface of the wall
    flattening = 0.75  # a rib is higher than it is deep
    radius_mm = 5.5

    def distance(x: Floats, y: Floats, z: Floats) -> Floats:
        height = z + descent * y + first_mm
        height = height - spacing_mm * np.round(height / spacing_mm)
        from_middle: Floats = np.hypot(flattening * height, wall.distance(x, y, z) + depth_mm)
        return from_middle - radius_mm

    return Shape(distance, wall.low_mm, wall.high_mm)
