"""The way back: probabilities from the prepared grid to the scan's own grid.

Prediction computes on the prepared grid, and a label map must be on the scan's grid. Probabilities
are interpolated block by block, so only one block of one class is in memory on the finer of the two
grids. The division into blocks does not change the result: each voxel's neighbours and weights
follow from its place in the whole volume.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mtseg.inference.tiling import Block
from mtseg.scans.preprocessing import PreparedScan
from mtseg.scans.resampling import LinearAxis
from mtseg.scans.volume import to_ras


class Restoration:
    """Linear interpolation from a prepared scan's grid to the scan's own voxels.

    Blocks of the result have the axes of the prepared grid, RAS+;
    `mtseg.scans.volume.from_ras` turns the joined result into the scan's own axes. Beyond the
    border of the prepared grid, the border's value is repeated.

    Args:
        prepared: the scan.

    Attributes:
        foreground: booleans (I, J, K), the foreground on the grid of the scan, with RAS+ axes.
        voxels_per_voxel: voxels of the scan's grid per voxel of the prepared grid.
    """

    def __init__(self, prepared: PreparedScan) -> None:
        source = to_ras(prepared.source)
        self.foreground = source.array
        steps = np.divide(source.spacing_mm, prepared.volume.spacing_mm)
        self._axes = [
            LinearAxis.between(*sizes)
            for sizes in zip(prepared.volume.array.shape, source.array.shape, steps, strict=True)
        ]
        self.voxels_per_voxel = source.array.size / prepared.volume.array.size

    @property
    def is_identity(self) -> bool:
        """Whether both grids are the same, so nothing is interpolated."""
        return all(axis.is_identity for axis in self._axes)

    def targets(self, core: Block) -> Block:
        """The block of the scan's voxels that a tile provides.

        Args:
            core: the tile's core, on the prepared grid. Blocks of different cores do not overlap.
        """
        i, j, k = (axis.targets(part) for axis, part in zip(self._axes, core, strict=True))
        return i, j, k

    def interpolate(
        self, block: npt.NDArray[np.float32], computed: Block, targets: Block
    ) -> npt.NDArray[np.float32]:
        """Interpolates the probabilities of one class.

        Args:
            block: float32, probabilities in `computed`.
            computed: where the block is on the prepared grid: a core and one voxel beyond it.
            targets: the voxels of the scan that are wanted, from `targets`.

        Returns:
            float32, in the size of `targets`.
        """
        for number, (axis, wanted) in enumerate(zip(self._axes, targets, strict=True)):
            block = axis.apply(block, number, computed[number].start, wanted)
        return block
