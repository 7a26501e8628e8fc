"""Synthetic scans with exact labels, for tests, demonstrations and benchmarks.

Begin with `scanner.make_phantom`. `brain`, `breast`, `cta`, `hippocampus` and `heart` describe the
anatomy of one task each, `chest` what two of them share, in the geometry of `shapes`. `head` paints
a head around a real brain.
"""

from mtseg.phantoms.scanner import CLASS_LABELS, Phantom, make_phantom

__all__ = ["CLASS_LABELS", "Phantom", "make_phantom"]
