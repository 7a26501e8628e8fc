"""Ranked classes of a test scan, kept until the operating points of its test set are known.

An operating point is chosen from the counts of all test scans, so label maps and pictures can be
made only after the last scan was computed. Until then `StoredScan` keeps a whole scan in files, so
memory holds one scan at a time, and `StoredSlice` keeps the one slice that a picture shows.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.evaluation import metrics
from mtseg.evaluation.pictures import compare_slices, most_labelled_slice
from mtseg.inference.decision import Ranking, apply_thresholds
from mtseg.inference.tiling import Tile
from mtseg.scans.volume import Volume
from mtseg.sources.subject import PreparedSubject
from mtseg.system.hardware import allow_open_files
from mtseg.tasks.task import IGNORED

_REACHED = np.array([-1.0, *metrics.THRESHOLDS])
"""The highest of `metrics.THRESHOLDS` that a probability reaches, by how many it reaches; below 0
if it reaches none."""

_SPARE_FILES = 64
"""Files that an evaluation opens and closes beside those of the scans that wait."""


class StoredScan:
    """The reference and the ranked classes of one scan, in an unnamed file on disk.

    The file takes four bytes per voxel, or two without operating points. It disappears with the
    process, however it ends, and stays open as long as this object is used.

    Args:
        subject: the scan.
        to_combined: combined class index, uint8, at each of the task's own class indices.
        is_thresholded: for each combined class, whether it has an operating point.

    Attributes:
        name: the subject's name.
        reference: uint8 (I, J, K), combined class index, or `IGNORED` where it is not known.
        most_probable: uint8 (I, J, K), the most probable of all combined classes; 0 outside the
            foreground.
        affine: (4, 4), voxel to RAS+ world in mm.

    Raises:
        InputError: if the folder for temporary files has not enough free space, or the system does
            not let another file be open.
    """

    def __init__(
        self,
        subject: PreparedSubject,
        to_combined: npt.NDArray[np.uint8],
        is_thresholded: Sequence[bool],
    ) -> None:
        self.name, self.affine = subject.name, subject.affine
        self._is_thresholded = tuple(is_thresholded)
        shape = subject.image.shape
        num_maps = 4 if any(is_thresholded) else 2
        needed, folder = num_maps * math.prod(shape), tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        # Writing to a mapped file on a full disk ends the process without a message.
        if needed > free:
            raise InputError(
                f"{folder}: scoring {subject.name} needs {needed / 1e9:.1f} GB of temporary files "
                f"there, but {free / 1e9:.1f} GB are free. Make room, or set TMPDIR to "
                "another folder."
            )

        allow_open_files(
            1,
            _SPARE_FILES,
            f"{folder}: scoring {subject.name} needs a temporary file there",
            "Raise the limit (ulimit -Hn).",
        )
        # A file without a name: nothing is left of it, however this process ends.
        with tempfile.TemporaryFile() as file:
            maps = np.memmap(file, np.uint8, "w+", shape=(num_maps, *shape))
        lookup = np.full(256, IGNORED, np.uint8)
        lookup[: len(to_combined)] = to_combined
        self.reference: npt.NDArray[np.uint8] = maps[0]
        self.reference[:] = lookup[subject.class_index_map]
        self.most_probable: npt.NDArray[np.uint8] = maps[1]
        if any(is_thresholded):
            # The second: how many of `metrics.THRESHOLDS` the candidate's probability reaches.
            self._candidate, self._num_reached = maps[2:]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along the three axes, in mm."""
        return Volume(self.reference, self.affine).spacing_mm

    def keep(self, tile: Tile, mask: npt.NDArray[np.bool_], ranking: Ranking) -> None:
        """Stores the ranking of a tile; see `mtseg.evaluation.counts.TileObserver`."""
        self.most_probable[tile.core][mask] = ranking.most_probable
        if any(self._is_thresholded):
            self._candidate[tile.core][mask] = ranking.candidate
            self._num_reached[tile.core][mask] = metrics.thresholds_reached(
                ranking.candidate_probability
            )

    def labels(self, thresholds: Mapping[int, float]) -> npt.NDArray[np.uint8]:
        """The label map by the rule of `mtseg.inference.decision`.

        Args:
            thresholds: combined class index -> operating point, one of `metrics.THRESHOLDS`. See
                `mtseg.inference.decision.apply_thresholds` for classes that are left out, as those
                of other tasks are.

        Returns:
            uint8 (I, J, K), combined class index; 0 outside the foreground.
        """
        if not any(self._is_thresholded):
            return np.array(self.most_probable)
        labels = np.empty(self.most_probable.shape, np.uint8)
        # Slice by slice, so that the floats of a whole scan are never in memory.
        for i in range(len(labels)):
            reached = _REACHED[self._num_reached[i]]
            ranking = Ranking(self.most_probable[i], self._candidate[i], reached)
            labels[i] = apply_thresholds(ranking, self._is_thresholded, thresholds)
        return labels


class StoredSlice:
    """The ranked classes in the axial slice of a scan that has most labelled voxels.

    Args:
        subject: the scan.
        to_combined: combined class index, uint8, at each of the task's own class indices.
        is_thresholded: for each combined class, whether it has an operating point.
    """

    def __init__(
        self,
        subject: PreparedSubject,
        to_combined: npt.NDArray[np.uint8],
        is_thresholded: Sequence[bool],
    ) -> None:
        class_index_map = subject.class_index_map
        labelled = np.where(class_index_map == IGNORED, 0, class_index_map)
        self._is_thresholded = tuple(is_thresholded)
        self._k = most_labelled_slice(labelled)
        self._image = subject.image[..., self._k].copy()  # lets go of the rest of the scan
        self._reference = to_combined[labelled[..., self._k]]
        shape = self._image.shape
        self._ranking = Ranking(
            np.zeros(shape, np.uint8), np.zeros(shape, np.uint8), np.full(shape, -1, np.float32)
        )

    def keep(self, tile: Tile, mask: npt.NDArray[np.bool_], ranking: Ranking) -> None:
        """Stores what a tile has in the slice; see `mtseg.evaluation.counts.TileObserver`."""
        i, j, k = tile.core
        if k.start <= self._k < k.stop:
            within = self._k - k.start
            of_slice = ranking[np.nonzero(mask)[2] == within]
            foreground = mask[..., within]
            self._ranking.most_probable[i, j][foreground] = of_slice.most_probable
            self._ranking.candidate[i, j][foreground] = of_slice.candidate
            self._ranking.candidate_probability[i, j][foreground] = of_slice.candidate_probability

    def picture(self, thresholds: Mapping[int, float]) -> npt.NDArray[np.uint8]:
        """Scan, reference and prediction side by side; see `mtseg.evaluation.pictures`.

        Args:
            thresholds: as for `StoredScan.labels`.
        """
        labels = apply_thresholds(self._ranking, self._is_thresholded, thresholds)
        return compare_slices(self._image, self._reference, labels)
