"""Probabilities from the prepared grid back to the scan's own grid.

It works block by block, so only one block of one class is in memory on the finer of the two grids.
The division into blocks does not change the result: each voxel's neighbours and weights follow from
its place in the whole volume.
"""

from __future__ import annotations

import numpy as np

from mtseg.inference.tiling import Block
from mtseg.scans.preprocessing import PreparedScan
from mtseg.scans.resampling import LinearAxis
from mtseg.scans.volume import canonicalise


class Restoration:
    """The way back from a prepared scan's grid, by linear interpolation.

    Blocks of the result have the axes of the prepared grid, RAS+;
    `mtseg.scans.volume.decanonicalise` turns the whole into the source's. Beyond the prepared
    grid's border its value is repeated.

    Args:
        prepared: the scan.
    """

    def __init__(self, prepared: PreparedScan) -> None:
        source = canonicalise(prepared.source)
        self.foreground = source.array
        steps = np.divide(source.spacing_mm, prepared.volume.spacing_mm)
        self._axes = [
            LinearAxis.between(*sizes)
            for sizes in zip(prepared.volume.array.shape, source.array.shape, steps, strict=True)
        ]
        self.voxels_per_voxel = source.array.size / prepared.volume.array.size

    @property
    def is_identity(self) -> bool:
        """Whether both grids are the same, so that nothing is interpolated."""
        return all(axis.is_identity for axis in self._axes)

    def targets(self, core: Block) -> Block:
        """The block of source voxels that a tile's core answers for; cores share none."""
        i, j, k = (axis.targets(part) for axis, part in zip(self._axes, core, strict=True))
        return i, j, k

    def bring(self, block: np.ndarray, computed: Block, targets: Block) -> np.ndarray:
        """Interpolates one class.

        Args:
            block: float32, probabilities in `computed`.
            computed: where the block is on the prepared grid; a core and a voxel beyond it.
            targets: from `targets`.

        Returns:
            float32, of the targets' size.
        """
        for axis, (way, part) in enumerate(zip(self._axes, targets, strict=True)):
            block = way.apply(block, axis, computed[axis].start, part)
        return block
