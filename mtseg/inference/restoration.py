"""The way back: probabilities from the prepared grid to the scan's own grid.

Prediction computes on the prepared grid, and a label map must be on the scan's grid. There the
logarithms of the probabilities are interpolated, not the probabilities themselves. Those of a sure
network are 0 on one side of a surface and 1 on the other, wherever between the two voxels the
surface is: half of them would be reached halfway, up to half a voxel off. Their logarithms grow
with the distance from the surface.

The logarithms are interpolated linearly, and what linear interpolation gets wrong of a curve is
taken away: it runs along the chords, so that what is thin and round, such as a vessel, would lose a
tenth of its volume. Along each axis the error is half the second difference times the distances to
both voxels. A voxel of the scan that is larger than those of the prepared grid stands for the mean
over it, which differs from the curve in the same direction, so less is taken away there: at twice
the size nothing.

Voxels outside the foreground have no probabilities and take no part, so that a structure reaches as
far as the foreground.

This is done slab by slab, so that all classes on the finer of the two grids are in memory for one
slab only. The division into slabs and tiles does not change the result: each voxel's neighbours and
weights follow from its place in the whole volume.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from mtseg.inference.tiling import ABOVE, BELOW, Block
from mtseg.scans.preprocessing import PreparedScan
from mtseg.scans.resampling import LinearAxis
from mtseg.scans.volume import to_ras

SMALLEST_PROBABILITY = 0.01
"""Added to probabilities before their logarithm is taken, and taken away afterwards. How much
smaller than that a probability is says nothing about where between two voxels a surface is. In a
scan with n voxels for one of the prepared grid, places are told apart n times as finely, so it is n
times as small."""

_SMALLEST_WEIGHT = 1e-3
"""A voxel of the scan with less foreground than that among its neighbours is background."""

_SLAB_VALUES = 1 << 22
"""Probabilities of all classes that are restored at once."""


class Restoration:
    """Interpolation from a prepared scan's grid to the scan's own voxels.

    Blocks of the result have the axes of the prepared grid, RAS+;
    `mtseg.scans.volume.from_ras` turns the joined result into the scan's own axes. Beyond the
    border of the prepared grid, the border's value is repeated.

    Args:
        prepared: the scan.

    Attributes:
        foreground: booleans (I, J, K), the foreground on the grid of the scan, with RAS+ axes.
        voxels_per_voxel: voxels of the scan's grid per voxel of the prepared grid.
        smallest_probability: `SMALLEST_PROBABILITY` for that many.
    """

    def __init__(self, prepared: PreparedScan) -> None:
        source = to_ras(prepared.source)
        self.foreground = source.array
        steps = np.divide(source.spacing_mm, prepared.volume.spacing_mm)
        self._axes = [
            LinearAxis.between(*sizes)
            for sizes in zip(prepared.volume.array.shape, source.array.shape, steps, strict=True)
        ]
        self._bend_weights = [
            # Over a voxel so many steps long, the mean of a curve differs from its middle by their
            # square over 24, in second differences; over one of the prepared grid by 1/24.
            np.maximum(axis.weight * (1 - axis.weight) / 2 - max(step**2 - 1, 0) / 24, 0)
            for axis, step in zip(self._axes, steps.tolist(), strict=True)
        ]
        self.voxels_per_voxel = source.array.size / prepared.volume.array.size
        self.smallest_probability = np.float32(SMALLEST_PROBABILITY / max(self.voxels_per_voxel, 1))

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

    def restore(
        self,
        rows: npt.NDArray[np.float32],
        mask: npt.NDArray[np.bool_],
        computed: Block,
        targets: Block,
    ) -> Iterator[tuple[Block, npt.NDArray[np.float32]]]:
        """Brings the probabilities of a tile to the scan's grid, slab by slab.

        Args:
            rows: float32 (voxels, num_classes), probabilities of the tile's foreground in C order.
                They add up to 1, or to less where classes were excluded.
            mask: booleans, the foreground in `computed`.
            computed: where the tile is on the prepared grid: a core and, within the box that the
                plan covers, `mtseg.inference.tiling.BELOW` and `ABOVE` voxels beyond it.
            targets: the voxels of the scan that are wanted, from `targets`.

        Yields:
            A part of `targets`, and its probabilities, float32 (num_classes, i, j, k). Their sum is
            interpolated too. At a voxel of the prepared grid they are those that were computed.
            Where no neighbour is foreground, background has probability 1.
        """
        first_rows = np.concatenate([[0], np.cumsum(np.count_nonzero(mask, axis=(1, 2)))])
        slice_values = rows.shape[1] * math.prod(t.stop - t.start for t in targets[1:])
        thickness = max(1, _SLAB_VALUES // max(slice_values, 1))
        lower, offset = self._axes[0].lower, computed[0].start
        for start in range(targets[0].start, targets[0].stop, thickness):
            stop = min(start + thickness, targets[0].stop)
            # The slices of the tile that the slab's voxels lie between, and those beyond.
            below = max(int(lower[start]) - offset - BELOW, 0)
            above = min(int(lower[stop - 1]) - offset + 1 + ABOVE, len(mask))
            within = slice(offset + below, offset + above), computed[1], computed[2]
            slab = slice(start, stop), targets[1], targets[2]
            of_slab = rows[first_rows[below] : first_rows[above]]
            yield slab, self._restore_block(of_slab, mask[below:above], within, slab)

    def _restore_block(
        self,
        rows: npt.NDArray[np.float32],
        mask: npt.NDArray[np.bool_],
        computed: Block,
        targets: Block,
    ) -> npt.NDArray[np.float32]:
        num_classes = rows.shape[1]
        restored = np.empty((num_classes, *(t.stop - t.start for t in targets)), np.float32)
        if self.is_identity:
            for class_index in range(num_classes):
                block = np.full(mask.shape, class_index == 0, np.float32)
                block[mask] = rows[:, class_index]
                restored[class_index] = self.interpolate(block, computed, targets)
            return restored
        logarithms = np.log(rows + self.smallest_probability)
        block = np.zeros(mask.shape, np.float32)
        straight = {  # where the values of every class count as straight, by axis
            number: ~_have_neighbours(mask, number)
            for number, weights in enumerate(self._bend_weights)
            if weights[targets[number]].any()
        }
        for class_index in range(num_classes):
            block[mask] = logarithms[:, class_index]
            restored[class_index] = self._interpolate_curved(block, straight, computed, targets)
        block[mask] = rows.sum(axis=1)
        total = self.interpolate(block, computed, targets)
        weight = self.interpolate(mask.astype(np.float32), computed, targets)
        is_known = weight >= _SMALLEST_WEIGHT
        weight[~is_known] = 1
        restored /= weight
        np.exp(restored, out=restored)
        added = self.smallest_probability
        restored *= (total / weight + num_classes * added) / restored.sum(axis=0)
        restored -= added
        # Rounding errors, and beside a steep surface a curve may fall below all of its voxels.
        np.maximum(restored, 0, out=restored)
        restored *= total / weight / np.maximum(restored.sum(axis=0), np.finfo(np.float32).tiny)
        restored[:, ~is_known] = 0
        restored[0, ~is_known] = 1
        return restored

    def _interpolate_curved(
        self,
        block: npt.NDArray[np.float32],
        straight: Mapping[int, npt.NDArray[np.bool_]],
        computed: Block,
        targets: Block,
    ) -> npt.NDArray[np.float32]:
        """`interpolate`, without the error of linear interpolation on a curve.

        Args:
            block: float32, values of one class in `computed`; 0 outside the foreground.
            straight: for each axis along which values lie between voxels, where they count as
                straight: `_have_neighbours` is False.
            computed: as for `restore`.
            targets: the voxels of the scan that are wanted.
        """
        # The second differences along an axis are interpolated like the values, until the axis
        # comes to which they belong.
        bends = {
            number: _second_differences(block, where, number) for number, where in straight.items()
        }
        for number, (axis, wanted) in enumerate(zip(self._axes, targets, strict=True)):
            start = computed[number].start
            block = axis.apply(block, number, start, wanted)
            bends = {key: axis.apply(bend, number, start, wanted) for key, bend in bends.items()}
            if number in bends:
                shape = [-1 if a == number else 1 for a in range(3)]
                weights = self._bend_weights[number][wanted].reshape(shape)
                block = block - bends.pop(number) * weights
        return block

    def interpolate(
        self, block: npt.NDArray[np.float32], computed: Block, targets: Block
    ) -> npt.NDArray[np.float32]:
        """Interpolates values of one class linearly.

        Args:
            block: float32, values in `computed`.
            computed: where the block is on the prepared grid, with all neighbours of the targets.
            targets: the voxels of the scan that are wanted, from `targets`.

        Returns:
            float32, in the size of `targets`.
        """
        for number, (axis, wanted) in enumerate(zip(self._axes, targets, strict=True)):
            block = axis.apply(block, number, computed[number].start, wanted)
        return block


def _have_neighbours(mask: npt.NDArray[np.bool_], axis: int) -> npt.NDArray[np.bool_]:
    """Whether a voxel and both beside it along an axis are in a mask, without outermost voxels."""
    return mask[_part(axis, 0, -2)] & mask[_part(axis, 1, -1)] & mask[_part(axis, 2, None)]


def _second_differences(
    block: npt.NDArray[np.float32], straight: npt.NDArray[np.bool_], axis: int
) -> npt.NDArray[np.float32]:
    """Second differences along an axis; 0 at the border and where values count as straight."""
    differences = np.zeros_like(block)
    if block.shape[axis] > 2:
        inner = differences[_part(axis, 1, -1)]
        np.add(block[_part(axis, 0, -2)], block[_part(axis, 2, None)], out=inner)
        inner -= 2 * block[_part(axis, 1, -1)]
        inner[straight] = 0
    return differences


def _part(axis: int, start: int, stop: int | None) -> Block:
    """A range of an axis, and all of the others."""
    i, j, k = (slice(start, stop) if a == axis else slice(None) for a in range(3))
    return i, j, k
