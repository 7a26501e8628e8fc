"""The anatomy of the hippocampus MR phantoms: a crop of a temporal lobe around one hippocampus.

Read this to check or change what a hippocampus phantom shows. Coordinates are mm of an adult from
the middle of the hippocampus, to the right, anterior and superior; signals are those of T1-weighted
MR, in arbitrary units. All sizes are this project's choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mtseg.phantoms.shapes import (
    Field,
    Floats,
    Layer,
    ellipsoid,
    expand,
    intersect,
    random_sheets,
    smooth_curve,
    tapering_tube,
    union,
)

# Of a right hippocampus; a left one has x exchanged. Ellipsoids: centre and radii in mm.
LOBE = ((4, 0, -4), (30, 60, 26))
AMYGDALA = ((0, 19, 9), (8, 8, 7))
BRAIN_STEM = ((-24, -12, 4), (12, 16, 40))
CISTERN = ((-16, -4, 2), (5, 26, 12))

# Tubes: knots of the centre line (right, anterior, superior) and the radius there, in mm.
HIPPOCAMPUS = [
    (-1, 16, -4, 5.2), (1, 8, -4, 5.4), (2, -1, -2, 4.2), (0, -10, 1, 3.8), (-5, -18, 6, 3.0),
]  # fmt: skip
"""From the head, which lies anterior, over the body to the tail."""
TEMPORAL_HORN = [(7, 19, -1, 2.2), (8, 8, 0, 1.8), (7, -6, 3, 1.6), (4, -20, 9, 2.6)]

FOLD_MM = 26.0
"""Between two sulci of the lobe."""
SULCUS_MM, CORTEX_MM = 1.0, 3.0
"""Half the width of a sulcus, and the thickness of the cortex beside it."""


def plan_hippocampus(
    rng: np.random.Generator, voxel_mm: float, labels: Mapping[str, int]
) -> list[Layer]:
    """A temporal lobe for T1-weighted MR, left or right, that fills the scan.

    The two parts touch at a coronal plane. They have the same signal, and so has the amygdala
    beside them: only place and shape tell them apart.

    Args:
        rng: source of all that differs from subject to subject.
        voxel_mm: size of a voxel in mm of an adult; nothing labelled is drawn too thin for it.
        labels: label of `hippocampus_anterior` and `hippocampus_posterior`.

    Returns:
        Layers in the order of painting, signals in arbitrary units.
    """
    # The order of the draws decides what a seed shows: add new ones at the end.
    white, grey, fluid = (v * rng.uniform(0.96, 1.04) for v in (900.0, 620.0, 230.0))
    side = rng.choice([-1.0, 1.0])
    thickness, border_y = rng.uniform(0.88, 1.12), rng.uniform(0, 4)
    horn_width = rng.uniform(0.7, 1.5)
    sulci = random_sheets(rng, FOLD_MM)

    head_to_tail, horn = _on_side(side, HIPPOCAMPUS), _on_side(side, TEMPORAL_HORN)
    head_to_tail[:, 3] = np.maximum(head_to_tail[:, 3] * thickness, 1.2 * voxel_mm)
    horn[:, 3] *= horn_width
    hippocampus = tapering_tube(smooth_curve(head_to_tail))
    places = (AMYGDALA, BRAIN_STEM, CISTERN, LOBE)
    amygdala, brain_stem, cistern, lobe = (
        ellipsoid(*_ellipsoid_on_side(side, place)) for place in places
    )
    # The crop ends inside of the head, so fluid is all around.
    everywhere = ellipsoid((0, 0, 0), (200, 200, 200))
    return [
        Layer(everywhere, fluid),
        Layer(lobe, _folded(white, grey, fluid, sulci)),
        Layer(brain_stem, 0.9 * white),
        Layer(cistern, fluid),
        Layer(expand(union(hippocampus, amygdala, blend_mm=2), 1.2), white),
        Layer(tapering_tube(smooth_curve(horn)), fluid),
        Layer(amygdala, grey),
        Layer(hippocampus, grey, labels["hippocampus_posterior"]),
        Layer(
            intersect(hippocampus, lambda x, y, z: np.float32(border_y) - y),
            grey,
            labels["hippocampus_anterior"],
        ),
    ]


def _on_side(side: float, knots: Sequence[tuple[float, ...]]) -> Floats:
    """Knots of a tube on the right (1) or left (-1) side, (n, 4)."""
    return np.array(knots, float) * (side, 1, 1, 1)


def _ellipsoid_on_side(
    side: float, place: tuple[tuple[float, ...], tuple[float, ...]]
) -> tuple[Floats, tuple[float, ...]]:
    centre, radii = place
    return np.array(centre, float) * (side, 1, 1), radii


def _folded(white: float, grey: float, fluid: float, sulci: Field) -> Field:
    """White matter with cortex along sulci."""

    def signal(x: Floats, y: Floats, z: Floats) -> Floats:
        depth = np.abs(sulci(x, y, z))
        in_cortex = np.clip(SULCUS_MM + CORTEX_MM - depth, 0, 1)
        in_fluid = np.clip(SULCUS_MM - depth, 0, 1)
        tissue: Floats = white + in_cortex * (grey - white)
        return tissue + in_fluid * (fluid - tissue)

    return signal
