"""Mini-batches as places in one buffer of all training volumes, for patches cut on a device.

A device that holds the buffer cuts the patches itself (`mtseg.training.engines.cutting`). The host
still chooses the voxels, so the samples are those of `mtseg.batches.balance`, bit for bit; only
about 40 bytes of each are moved.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mtseg.batches.augmentation import draw_flips_and_factors
from mtseg.batches.balance import BalancedSamples
from mtseg.batches.volume_patches import VolumePatches
from mtseg.errors import InputError
from mtseg.scans.patches import PATCH_SIZE

AUGMENTATIONS_OF_PLACES = ("flip", "intensity")
"""Those that need no more than the voxels of a patch, and one product of each. The others are
made on the host."""

MOST_VOXELS = 2**31 - 1
"""Of a buffer: places are counted with 32 bits."""


class Places(NamedTuple):
    """Where the patches of samples are in a buffer, and by what they are multiplied.

    Attributes:
        steps: int64 (n, 4), the place of the voxel, and the steps from there to the next voxel
            along i, j and k. A step back along i exchanges left and right.
        factors: float16 (n,).
    """

    steps: npt.NDArray[np.int64]
    factors: npt.NDArray[np.float16]


def count_voxels(samples: BalancedSamples) -> int:
    """Number of voxels of a buffer of all volumes, each with zeros of half a patch around it."""
    return sum(volume.size for store in _volume_stores(samples) for volume in store.padded)


class PlacedSamples:
    """The mini-batches of a run, which can be read in any order by their numbers.

    Args:
        samples: drawn from volumes alone, with no augmentation but `AUGMENTATIONS_OF_PLACES`.

    Attributes:
        read_error: as of `BalancedSamples`. Volumes in memory can always be read.
    """

    read_error: InputError | None = None

    def __init__(self, samples: BalancedSamples) -> None:
        self._samples, self._stores = samples, _volume_stores(samples)
        self._first: list[npt.NDArray[np.int64]] = []  # of each store, where its volumes begin
        self._steps: list[npt.NDArray[np.int64]] = []  # of each store, int64 (volumes, 3)
        begin = 0
        for store in self._stores:
            shapes = np.array([volume.shape for volume in store.padded], np.int64)
            sizes = shapes.prod(axis=1)
            self._first.append(begin + np.cumsum(sizes) - sizes)
            ones = np.ones(len(shapes), np.int64)
            self._steps.append(np.stack([shapes[:, 1] * shapes[:, 2], shapes[:, 2], ones], axis=1))
            begin += int(sizes.sum())

    def make_buffer(self) -> npt.NDArray[np.float16]:
        """All volumes one after the other, float16 (voxels,): a copy."""
        return np.concatenate([v.ravel() for store in self._stores for v in store.padded])

    def read_minibatch(
        self, n: int, global_batch_size: int, rows: slice = slice(None)
    ) -> tuple[Places, npt.NDArray[np.int32]]:
        """Chooses the voxels of mini-batch n, or of some of its samples.

        Args:
            n: number of the mini-batch, from 0.
            global_batch_size: samples in the whole mini-batch.
            rows: the samples that are wanted.

        Returns:
            `(places, score_index)`, see `BalancedSamples.read_minibatch`.
        """
        samples = self._samples
        drawn = samples.draw_minibatch(n, global_batch_size, rows)
        is_flipped, factors = draw_flips_and_factors(
            drawn.is_symmetric, samples.augmentations, (samples.seed, n)
        )
        steps = np.empty((len(drawn.score_index), 4), np.int64)
        for number, (part, store) in enumerate(zip(drawn.parts, self._stores, strict=True)):
            scan, index_ijk = store.locate(part.class_index, part.draw)
            of_scan = self._steps[number][scan]
            centre = ((index_ijk + PATCH_SIZE // 2) * of_scan).sum(axis=1)
            steps[part.samples, 0] = self._first[number][scan] + centre
            steps[part.samples, 1:] = of_scan
        steps[is_flipped[rows], 1] *= -1
        return Places(steps, factors[rows]), drawn.score_index


def _volume_stores(samples: BalancedSamples) -> list[VolumePatches]:
    """The stores of all sources of all tasks, in the order of `DrawnMinibatch.parts`."""
    stores = [store for of_task in samples.stores for store in of_task]
    volumes = [store for store in stores if isinstance(store, VolumePatches)]
    if len(volumes) != len(stores):
        raise ValueError("patches that were cut before are in no buffer of volumes")
    return volumes
