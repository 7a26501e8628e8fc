"""Pictures of segmentations: a slice of a scan beside its coloured label maps, as RGB arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mtseg.tasks.label_table import default_color

_NUM_COLOURS = 24
"""After so many classes colours repeat."""

PALETTE = np.array(
    [(0, 0, 0), *(tuple(bytes.fromhex(default_color(n)[1:])) for n in range(_NUM_COLOURS))],
    np.uint8,
)
"""RGB of each combined class, background first. Colour-blind people can tell the first eight apart;
the others are darker shades of these."""

_COLOUR_WEIGHT = 0.65
"""Share of the colour where a label lies over the grey picture."""

WHITE = 1.2
"""Prepared intensity that is shown white; 1 is the 99th percentile of the foreground."""


def palette_index(class_index: npt.ArrayLike) -> npt.NDArray[np.intp]:
    """The place of each class in `PALETTE`, which repeats if there are more classes than colours.

    Args:
        class_index: combined class index, of any shape; 0 is background.
    """
    index = np.asarray(class_index, np.intp)
    return np.where(index > 0, (index - 1) % (len(PALETTE) - 1) + 1, 0)


def colour_labels(
    grey: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """Lays coloured labels over a grey picture.

    Args:
        grey: floats 0 (black) to 1 (white), (rows, columns).
        labels: combined class index, (rows, columns). Colours repeat if there are more classes
            than colours. Background stays grey.

    Returns:
        uint8 RGB (rows, columns, 3).
    """
    base = np.repeat((grey * 255).astype(np.uint8)[..., None], 3, axis=-1)
    colours = PALETTE[palette_index(labels)]
    mixed = ((1 - _COLOUR_WEIGHT) * base + _COLOUR_WEIGHT * colours).astype(np.uint8)
    return np.where((labels > 0)[..., None], mixed, base)


def most_labelled_slice(reference: npt.NDArray[np.uint8]) -> int:
    """Index k of the axial slice with most labelled voxels.

    Args:
        reference: label map (I, J, K), 0 for background.

    Returns:
        The first such slice; 0 if nothing is labelled.
    """
    return int(np.count_nonzero(reference, axis=(0, 1)).argmax())


def compare_slices(
    image: npt.NDArray[np.floating[Any]],
    reference: npt.NDArray[np.uint8],
    predicted: npt.NDArray[np.uint8],
) -> npt.NDArray[np.uint8]:
    """Scan, reference and prediction of an axial slice side by side.

    Args:
        image: prepared intensities (I, J).
        reference: combined class index (I, J).
        predicted: combined class index (I, J).

    Returns:
        uint8 RGB (J, 3 * I, 3), anterior up and the subject's left on the left.
    """
    grey = np.clip(image / WHITE, 0, 1)
    panels = [
        colour_labels(grey, labels) for labels in (np.zeros_like(reference), reference, predicted)
    ]
    return np.concatenate([np.flip(p.transpose(1, 0, 2), 0) for p in panels], axis=1)
