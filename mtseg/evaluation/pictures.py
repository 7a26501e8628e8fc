"""Pictures of segmentations: a slice of a scan beside its coloured label maps, as RGB arrays."""

from __future__ import annotations

import numpy as np

PALETTE = np.array(
    [
        (0, 0, 0),
        (230, 159, 0),
        (86, 180, 233),
        (0, 158, 115),
        (240, 228, 66),
        (0, 114, 178),
        (213, 94, 0),
        (204, 121, 167),
        (153, 221, 255),
    ],
    np.uint8,
)
"""RGB of each combined class, background first: told apart by colour-blind eyes (Okabe and Ito)."""


def colour_labels(grey: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Lays labels over a grey picture.

    Args:
        grey: floats 0 to 1, (rows, columns).
        labels: combined class index, (rows, columns); more classes than colours start again.

    Returns:
        uint8 (rows, columns, 3).
    """
    base = np.repeat((grey * 255).astype(np.uint8)[..., None], 3, axis=-1)
    colours = PALETTE[np.where(labels > 0, (labels - 1) % (len(PALETTE) - 1) + 1, 0)]
    mixed = (0.35 * base + 0.65 * colours).astype(np.uint8)
    return np.where((labels > 0)[..., None], mixed, base)


def most_labelled_slice(reference: np.ndarray) -> int:
    """The number k of the axial slice of a label map (I, J, K) with most labelled voxels."""
    return int(np.count_nonzero(reference, axis=(0, 1)).argmax())


def compare_slices(image: np.ndarray, reference: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Scan, reference and prediction of an axial slice side by side.

    Args:
        image: of a prepared scan (I, J).
        reference: combined class index (I, J).
        predicted: combined class index (I, J).

    Returns:
        uint8 (J, 3 * I, 3), anterior up and the subject's left on the left.
    """
    grey = np.clip(image / 1.2, 0, 1)  # 1 is the 99th percentile of the foreground
    panels = [
        colour_labels(grey, labels) for labels in (np.zeros_like(reference), reference, predicted)
    ]
    return np.concatenate([np.flip(p.transpose(1, 0, 2), 0) for p in panels], axis=1)
