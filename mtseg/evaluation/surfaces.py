"""Surface distances between two masks, in mm.

Computed by the package surface-distance (Nikolov et al., 2021, arXiv:1809.04430): surfaces run
between voxel centres, and every surface element counts by its area.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from surface_distance import metrics as surface_distance

SURFACE_TOLERANCE_MM = 1.0
"""How far surfaces may be apart and still agree in `surface_dice`: one voxel of the brain's grid
(this project's choice; the paper measures no surfaces)."""


def surface_figures(
    mask_reference: np.ndarray, mask_predicted: np.ndarray, spacing_mm: tuple[float, float, float]
) -> tuple[float | None, float | None]:
    """95th-percentile Hausdorff distance and normalised surface Dice of two masks.

    Args:
        mask_reference: booleans (I, J, K).
        mask_predicted: booleans (I, J, K).
        spacing_mm: voxel size along the three axes.

    Returns:
        `(hd95_mm, surface_dice)`. The larger of both directions' 95th percentiles, and the share
        of both surfaces within `SURFACE_TOLERANCE_MM` of the other. Both are None if the reference
        is empty. If only the prediction is, no distance can be stated (None), and no surface
        agrees (0.0). What reaches the volume's border has a surface there.
    """
    if not mask_reference.any():
        return None, None
    if not mask_predicted.any():
        return None, 0.0
    # Only the box of both masks matters; one voxel around it lets every surface close.
    (box,) = ndimage.find_objects((mask_reference | mask_predicted).astype(np.uint8))
    reference, predicted = np.pad(mask_reference[box], 1), np.pad(mask_predicted[box], 1)
    distances = surface_distance.compute_surface_distances(reference, predicted, spacing_mm)
    return (
        float(surface_distance.compute_robust_hausdorff(distances, 95)),
        float(surface_distance.compute_surface_dice_at_tolerance(distances, SURFACE_TOLERANCE_MM)),
    )
