"""Surface distances between two masks, in mm.

They are computed by the package surface-distance: a surface runs between voxel centres, and every
surface element counts by its area. The paper measures no surfaces; these figures are this project's
addition.

Reference: Nikolov et al., 2021, arXiv:1809.04430.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mtseg.evaluation import metrics

SURFACE_TOLERANCE_MM = 1.0
"""Two surfaces closer than this agree in `surface_dice`: one voxel of the brain's grid (this
project's choice)."""


def surface_figures(
    mask_reference: npt.NDArray[np.bool_],
    mask_predicted: npt.NDArray[np.bool_],
    spacing_mm: tuple[float, float, float],
) -> tuple[float | None, float | None]:
    """95th-percentile Hausdorff distance and normalised surface Dice of two masks.

    A mask that reaches the volume's border has a surface there.

    Args:
        mask_reference: booleans (I, J, K).
        mask_predicted: booleans (I, J, K).
        spacing_mm: voxel size along the three axes.

    Returns:
        `(hd95_mm, surface_dice)`: the larger of the 95th percentiles in both directions, and the
        share of both surfaces that is within `SURFACE_TOLERANCE_MM` of the other. Both are None if
        the reference is empty. If only the prediction is empty, the distance is undefined (None)
        and no surface agrees (0.0).
    """
    if not mask_reference.any():
        return None, None
    if not mask_predicted.any():
        return None, 0.0
    # Only the bounding box of both masks matters; one voxel around it lets every surface close.
    (box,) = ndimage.find_objects((mask_reference | mask_predicted).astype(np.uint8))
    reference, predicted = np.pad(mask_reference[box], 1), np.pad(mask_predicted[box], 1)
    # Here, so that a scan can be segmented where the package is not installed.
    from surface_distance import metrics as surface_distance

    distances = surface_distance.compute_surface_distances(reference, predicted, spacing_mm)
    return (
        float(surface_distance.compute_robust_hausdorff(distances, 95)),
        float(surface_distance.compute_surface_dice_at_tolerance(distances, SURFACE_TOLERANCE_MM)),
    )


def mask_figures(
    mask_reference: npt.NDArray[np.bool_],
    mask_predicted: npt.NDArray[np.bool_],
    spacing_mm: tuple[float, float, float],
    voxel_ml: float,
    mask_known: npt.NDArray[np.bool_] | None = None,
) -> dict[str, float | None]:
    """All figures of a class in a label map.

    Args:
        mask_reference: booleans (I, J, K).
        mask_predicted: booleans (I, J, K).
        spacing_mm: voxel size along the three axes.
        voxel_ml: volume of a voxel.
        mask_known: where the reference says what a voxel is; None is everywhere. Other voxels count
            in the predicted volume alone.

    Returns:
        `dice`, `precision`, `recall`, `hd95_mm`, `surface_dice`, `volume_reference_ml` and
        `volume_predicted_ml`. All but the last are None if the reference is empty.
    """
    volume_ml = int(np.count_nonzero(mask_predicted)) * voxel_ml
    predicted = mask_predicted if mask_known is None else mask_predicted & mask_known
    num_predicted, num_overlap, num_reference = (
        int(np.count_nonzero(mask))
        for mask in (predicted, predicted & mask_reference, mask_reference)
    )
    hd95_mm, surface_dice = surface_figures(mask_reference, predicted, spacing_mm)
    return metrics.overlap_figures(num_predicted, num_overlap, num_reference) | {
        "hd95_mm": hd95_mm,
        "surface_dice": surface_dice,
        "volume_reference_ml": num_reference * voxel_ml if num_reference else None,
        "volume_predicted_ml": volume_ml,
    }
