"""The names of the signatures of an exported SavedModel, for who asks a server for them.

`mtseg.models.signatures` says what each of them computes, and writes them.
"""

from __future__ import annotations

DESCRIBE, CLASSIFY = "describe", "classify_patches"

PRECISIONS = ("float32", "bfloat16")
"""Precisions of the convolutions; each has signatures of its own."""


def segment_signature(precision: str) -> str:
    """Name of the signature that segments a whole volume of float32 intensities."""
    return _named("segment", precision)


def tile_signature(precision: str) -> str:
    """Name of the signature that segments a tile."""
    return _named("segment_tile", precision)


def tile_probabilities_signature(precision: str) -> str:
    """Name of the signature that gives the probabilities of a tile and nothing else."""
    return _named("tile_probabilities", precision)


def labels_signature(precision: str) -> str:
    """Name of the signature that gives the labels of a whole volume and nothing else."""
    return _named("segment_labels", precision)


def list_signatures() -> list[str]:
    """The names of all signatures, for the manifest."""
    with_precisions = (
        segment_signature,
        tile_signature,
        labels_signature,
        tile_probabilities_signature,
    )
    names = [name(precision) for name in with_precisions for precision in PRECISIONS]
    return sorted([*names, "segment_int16", CLASSIFY, DESCRIBE])


def _named(name: str, precision: str) -> str:
    return name if precision == "float32" else f"{name}_{precision}"
