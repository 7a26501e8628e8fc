"""What a network says of every voxel of one test scan, kept on disk until thresholds are known.

An operating point is known only after the last scan of a test set. Until then the ranking of each
voxel's classes waits in files, three or four bytes per voxel, so memory holds one scan at a time.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence

import nibabel as nib
import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.evaluation import metrics
from mtseg.inference.decision import is_argmax_class, rank
from mtseg.inference.tiling import Tile
from mtseg.sources.reading import PreparedSubject
from mtseg.tasks.task import IGNORED


class StoredScan:
    """The reference and the ranked classes of one scan, in nameless files on disk.

    Args:
        subject: the scan.
        to_combined: combined class index, uint8, at each of the task's own class indices.
        is_thresholded: for each combined class, whether it has an operating point.

    Attributes:
        name: the subject's name.
        reference: uint8 (I, J, K), combined class index, or `IGNORED` where it is not known.
        most_probable: uint8 (I, J, K), combined class index; 0 outside the foreground.
        affine: (4, 4), voxel to RAS+ world in mm.

    Raises:
        InputError: if the folder for temporary files has no room for it.
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
        num_files = 4 if any(is_thresholded) else 2
        needed, folder = num_files * math.prod(shape), tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        if needed > free:  # a mapped file without room would end the process
            raise InputError(
                f"{folder}: {needed / 1e9:.1f} GB are needed there until the scans are scored, "
                f"and {free / 1e9:.1f} GB are free. Make room, or set TMPDIR to another folder."
            )

        def on_disk() -> npt.NDArray[np.uint8]:
            # A file without a name: nothing is left of it, however this process ends.
            with tempfile.TemporaryFile() as file:
                return np.memmap(file, np.uint8, "w+", shape=shape)

        lookup = np.full(256, IGNORED, np.uint8)
        lookup[: len(to_combined)] = to_combined
        self.reference = on_disk()
        self.reference[:] = lookup[subject.class_index_map]
        self.most_probable = on_disk()
        if any(is_thresholded):
            self._candidate = on_disk()
            # How many of `metrics.THRESHOLDS` the candidate's probability reaches.
            self._num_reached = on_disk()

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along the three axes."""
        i, j, k = nib.affines.voxel_sizes(self.affine)
        return float(i), float(j), float(k)

    def keep(
        self, tile: Tile, mask: npt.NDArray[np.bool_], probabilities: npt.NDArray[np.float32]
    ) -> None:
        """Stores the ranking of a tile; see `mtseg.evaluation.counts.TileObserver`."""
        ranking = rank(np.moveaxis(probabilities, -1, 0), self._is_thresholded)
        self.most_probable[tile.core][mask] = ranking.most_probable
        if any(self._is_thresholded):
            self._candidate[tile.core][mask] = ranking.candidate
            self._num_reached[tile.core][mask] = metrics.thresholds_reached(
                ranking.candidate_probability
            )

    def labels(self, thresholds: Mapping[int, float]) -> npt.NDArray[np.uint8]:
        """The label map by the rule of `mtseg.inference.decision`, uint8 (I, J, K).

        Args:
            thresholds: combined class index -> its operating point. A class with an operating
                point that is not given (that of another task, chosen on other scans) is found
                where it is the most probable of all classes.
        """
        most_probable = np.asarray(self.most_probable)
        if not any(self._is_thresholded):
            return most_probable.copy()
        is_argmax = is_argmax_class(most_probable, self._is_thresholded)
        candidate = np.asarray(self._candidate)
        needed = np.full(len(self._is_thresholded), 255, np.uint8)
        for class_index, threshold in thresholds.items():
            needed[class_index] = metrics.threshold_number(threshold) + 1
        is_reached = np.asarray(self._num_reached) >= needed[candidate]
        without_point = [
            c for c, is_one in enumerate(self._is_thresholded) if is_one and c not in thresholds
        ]
        is_reached |= np.isin(most_probable, without_point)
        at_threshold = np.where(is_reached, candidate, 0)
        return np.where(is_argmax, most_probable, at_threshold).astype(np.uint8)
