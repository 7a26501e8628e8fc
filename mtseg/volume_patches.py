"""Patches from whole scans: prepared volumes are held in memory, patches of any voxel leave.

What `mtseg.prepared.PatchRecords` is for stored patches, this is for all voxels of the training
scans, as the paper draws them: no patch is chosen beforehand and none is written.

Reference: Moeskops et al., MICCAI 2016, section 3.2.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from mtseg.errors import InputError
from mtseg.prepared import prepare_command, read_volumes
from mtseg.sampling import PATCH_SIZE, PLANES, cut_patches, pad_volume
from mtseg.task import IGNORED


@dataclasses.dataclass(frozen=True)
class VolumePatches:
    """The training scans of one task, and where the voxels of each class are.

    Attributes:
        padded: float16, each scan with half a patch of zeros around it.
        shapes: of the scans without it.
        voxels: for each class, int64 flat indices of its foreground voxels in each scan.
        ends: for each class, int64 (scans,), how many voxels there are up to each scan's last.
    """

    padded: tuple[np.ndarray, ...]
    shapes: tuple[tuple[int, ...], ...]
    voxels: tuple[tuple[np.ndarray, ...], ...]
    ends: tuple[np.ndarray, ...]

    @property
    def num_voxels(self) -> tuple[int, ...]:
        """Foreground voxels of each class in all scans together."""
        return tuple(int(ends[-1]) for ends in self.ends)

    def cut(self, class_index: np.ndarray, number: np.ndarray) -> np.ndarray:
        """Cuts the patches of voxels that are given by their class and number in that class.

        Args:
            class_index: integers (n,), the task's own.
            number: integers (n,), from 0 to the class's `num_voxels`.

        Returns:
            float16 (n, 3, 51, 51).
        """
        patches = np.empty((len(number), len(PLANES), PATCH_SIZE, PATCH_SIZE), np.float16)
        scan, flat = np.empty((2, len(number)), np.int64)
        for sample, (c, n) in enumerate(zip(class_index, number, strict=True)):
            s = scan[sample] = np.searchsorted(self.ends[c], n, side="right")
            voxels = self.voxels[c][s]
            flat[sample] = voxels[n - (self.ends[c][s] - voxels.size)]
        for s in np.unique(scan):
            mine = np.flatnonzero(scan == s)
            index_ijk = np.stack(np.unravel_index(flat[mine], self.shapes[s]), axis=1)
            patches[mine] = cut_patches(self.padded[s], index_ijk)
        return patches


def open_volumes(data_dir: str | Path, task_name: str, source: str) -> VolumePatches:
    """Reads the training scans of a task into memory: about 6 bytes a voxel.

    Raises:
        InputError: if the task is not prepared, or has no training scan.
    """
    padded, shapes, of_scans = [], [], []
    for subject in read_volumes(data_dir, task_name, source, "train"):
        padded.append(pad_volume(subject.image, dtype=np.float16))
        shapes.append(subject.image.shape)
        foreground = np.flatnonzero(subject.image > 0)
        classes = subject.class_index_map.ravel()[foreground]
        order = np.argsort(classes, kind="stable")
        kind = np.uint32 if subject.image.size < 2**32 else np.uint64
        counts = np.bincount(classes, minlength=256)[:IGNORED]  # the last in the order
        ends = np.cumsum(counts)
        of_scans.append(np.split(foreground[order].astype(kind)[: ends[-1]], ends[:-1]))
    if not padded:
        raise InputError(
            f"{data_dir}: holds no training scan of {task_name}:{source}. Prepare it again: "
            f"{prepare_command(data_dir, task_name, source)} --overwrite"
        )
    by_class = [voxels for voxels in zip(*of_scans, strict=True)]
    last = max(c for c, voxels in enumerate(by_class) if any(v.size for v in voxels))
    voxels = tuple(by_class[: last + 1])
    ends = tuple(np.cumsum([v.size for v in of_class]) for of_class in voxels)
    return VolumePatches(tuple(padded), tuple(shapes), voxels, ends)
