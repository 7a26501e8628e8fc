"""Training patches cut from whole volumes in memory, at any voxel, as the paper does.

TensorFlow is not needed: volume records are read without it.

Reference: Moeskops et al., MICCAI 2016, section 3.2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.records.prepared import prepare_command
from mtseg.records.reading import read_volumes
from mtseg.scans.patches import (
    PATCH_SIZE,
    PLANES,
    cut_patches,
    cut_turned_patches,
    pad_volume,
)
from mtseg.system.hardware import free_bytes
from mtseg.tasks.task import IGNORED

_READING_BYTES = 24
"""Of memory per voxel of a volume, while the voxels of each class are found."""


@dataclasses.dataclass(frozen=True, eq=False)
class VolumePatches:
    """The training volumes of one source in memory, and where the voxels of each class are.

    The samples of a class are its foreground voxels in all volumes, numbered volume by volume.

    Attributes:
        padded: the volumes, float16, each with zeros of half a patch around it.
        shapes: their shapes (I, J, K) without these zeros.
        voxels: for each class and each volume, flat indices of the class's foreground voxels.
        ends: for each class, int64 (volumes,), the number of its samples in this volume and those
            before it.
    """

    padded: tuple[npt.NDArray[np.float16], ...]
    shapes: tuple[tuple[int, ...], ...]
    voxels: tuple[tuple[npt.NDArray[np.unsignedinteger[Any]], ...], ...]
    ends: tuple[npt.NDArray[np.int64], ...]

    @property
    def num_samples(self) -> npt.NDArray[np.int64]:
        """Number of foreground voxels of each class in all volumes."""
        return np.array([ends[-1] for ends in self.ends], np.int64)

    @property
    def num_scans(self) -> npt.NDArray[np.int64]:
        """Number of volumes that show each class."""
        shown = [sum(voxels.size > 0 for voxels in of_class) for of_class in self.voxels]
        return np.array(shown, np.int64)

    def take(
        self,
        class_index: npt.NDArray[np.int64],
        turn: npt.NDArray[np.int64],
        draw: npt.NDArray[np.float64],
        key: tuple[int, ...],
        out: Sequence[npt.NDArray[np.float16]],
        transforms: npt.NDArray[np.float64] | None = None,
    ) -> None:
        """Cuts the patches of samples at random voxels of their classes.

        All voxels of a class are equally likely, and a voxel may be drawn again. `turn` and `key`
        are not used. See `mtseg.batches.balance.PatchStore`.
        """
        number = self._number(class_index, draw)
        for patches, cut in zip(out, self.cut(class_index, number, transforms), strict=True):
            patches[...] = cut

    def locate(
        self, class_index: npt.NDArray[np.int64], draw: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Finds the voxels whose patches `take` cuts.

        Args:
            class_index: (n,), the task's own class of each sample.
            draw: (n,), random numbers, at least 0 and less than 1.

        Returns:
            `(scan, index_ijk)`: int64 (n,), the number of the volume, and int64 (n, 3), the voxel
            of it before padding.
        """
        return self._find(class_index, self._number(class_index, draw))

    def cut(
        self,
        class_index: npt.NDArray[np.int64],
        number: npt.NDArray[np.int64],
        transforms: npt.NDArray[np.float64] | None = None,
    ) -> npt.NDArray[np.float16]:
        """Cuts the patches of some samples. Beyond the border of a volume they are 0.

        Args:
            class_index: (n,), the task's own class of each sample.
            number: (n,), each sample's number in its class, from 0.
            transforms: (n, 3, 3), see `mtseg.scans.patches.cut_turned_patches`; None turns none.

        Returns:
            float16 (n, 3, 51, 51).
        """
        patches = np.empty((len(number), len(PLANES), PATCH_SIZE, PATCH_SIZE), np.float16)
        scan, index_ijk = self._find(class_index, number)
        is_turned = np.zeros(len(number), np.bool_)
        if transforms is not None:
            is_turned = (transforms != np.eye(3)).any(axis=(1, 2))
        for s in np.unique(scan):
            mine = scan == s
            straight, turned = np.flatnonzero(mine & ~is_turned), np.flatnonzero(mine & is_turned)
            patches[straight] = cut_patches(self.padded[s], index_ijk[straight])
            if transforms is not None and turned.size:
                patches[turned] = cut_turned_patches(
                    self.padded[s], index_ijk[turned], transforms[turned]
                )
        return patches

    def _number(
        self, class_index: npt.NDArray[np.int64], draw: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.int64]:
        """The numbers of samples in their classes, all equally likely."""
        return (draw * self.num_samples[class_index]).astype(np.int64)

    def _find(
        self, class_index: npt.NDArray[np.int64], number: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The volume (n,) and the voxel (n, 3) of samples by their numbers."""
        scan, flat = np.empty((2, len(number)), np.int64)
        for sample, (c, n) in enumerate(zip(class_index, number, strict=True)):
            s = scan[sample] = np.searchsorted(self.ends[c], n, side="right")
            voxels = self.voxels[c][s]
            flat[sample] = voxels[n - (self.ends[c][s] - voxels.size)]
        index_ijk = np.empty((len(number), 3), np.int64)
        for s in np.unique(scan):
            mine = scan == s
            index_ijk[mine] = np.stack(np.unravel_index(flat[mine], self.shapes[s]), axis=1)
        return scan, index_ijk


def open_volumes(
    data_dir: str | Path, task_name: str, source: str, task_file: str = ""
) -> VolumePatches:
    """Reads the training scans of a source into memory.

    They take about 6 bytes per voxel: 2 of the volume, and 4 for the place of a foreground voxel in
    its class. Voxels with the ignore label are never samples.

    Args:
        data_dir: folder of prepared records.
        task_name: the task.
        source: name of one of its sources.
        task_file: path of the task's file, for messages, if it does not come with mtseg.

    Raises:
        InputError: if the data is not prepared, or damaged, or has no training scan, or there is
            too little memory for it.
    """
    padded: list[npt.NDArray[np.float16]] = []
    shapes, of_scans = [], []
    for subject in read_volumes(data_dir, task_name, source, "train", task_file):
        needed_bytes = _READING_BYTES * subject.image.size
        if (free := free_bytes()) < needed_bytes:
            remedy = prepare_command(data_dir, task_name, source, "patches", task_file)
            raise InputError(
                f"{data_dir}: the volumes of {task_name}:{source} do not fit in memory: after "
                f"{len(padded)} of them {free / 1e9:.1f} GB are free, and the next takes "
                f"{needed_bytes / 1e9:.1f} GB. Train on stored patches: {remedy}, then mtseg-train "
                "--input patches."
            )
        padded.append(pad_volume(subject.image, dtype=np.float16))
        shapes.append(subject.image.shape)
        foreground = np.flatnonzero(subject.image > 0)
        classes = subject.class_index_map.ravel()[foreground]
        order = np.argsort(classes, kind="stable")
        kind = np.uint32 if subject.image.size < 2**32 else np.uint64
        # The ignore label is the largest, so its voxels come last in the order and are cut off.
        counts = np.bincount(classes, minlength=256)[:IGNORED]
        ends = np.cumsum(counts)
        of_scans.append(np.split(foreground[order].astype(kind)[: ends[-1]], ends[:-1]))
    if not padded:
        raise InputError(
            f"{data_dir}: has no training scan of {task_name}:{source}. Prepare it again: "
            f"{prepare_command(data_dir, task_name, source, 'volumes', task_file)} --overwrite"
        )
    by_class = list(zip(*of_scans, strict=True))
    shown = [c for c, voxels in enumerate(by_class) if any(v.size for v in voxels)]
    voxels = tuple(by_class[: max(shown, default=-1) + 1])
    ends_of_class = tuple(np.cumsum([v.size for v in of_class]) for of_class in voxels)
    return VolumePatches(tuple(padded), tuple(shapes), voxels, ends_of_class)
