"""Class probabilities on the scan's grid, collected block by block as they are computed.

The probabilities of all classes take many times the memory of a scan. `ProbabilityFile` writes
them to a 4-D NIfTI file, as uint8 in steps of 1/255; its header states the scale, so a NIfTI reader
gives 0 to 1. `ProbabilityArray` keeps them in memory, as float32.
"""

from __future__ import annotations

import gzip
import math
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.inference.tiling import Block
from mtseg.prediction.results import PROBABILITY_STEPS, WRITE_REMEDY
from mtseg.scans.label_files import make_header
from mtseg.scans.volume import Volume, to_ras
from mtseg.system.atomic_files import remove_path, temporary_path

_CHUNK_BYTES = 1 << 24
"""Bytes that are written or compressed at a time."""

_DATA_OFFSET = 352
"""Position of the voxels in a NIfTI file without extensions."""


class ProbabilityStore(Protocol):
    """What collects the probabilities of a scan: a file or an array.

    It is entered before the first block and left after the last one, and once more if the scan is
    computed again. `finish` is called at the end, unless the probabilities are to be withheld.
    """

    def __enter__(self) -> ProbabilityStore:
        """Begins with background everywhere."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Ends the collection."""

    def put(self, class_index: int, targets: Block, block: npt.NDArray[np.float32]) -> None:
        """Takes the probabilities of a class in a block, as `ProbabilityFile.put` does."""

    def finish(self) -> None:
        """Completes the collection."""


class ProbabilityArray:
    """Probabilities in memory.

    Args:
        source: the scan whose grid the array gets.
        num_classes: size of its fourth dimension.

    Attributes:
        array: float32 (i, j, k, num_classes) on the scan's grid.
        num_bytes: size of the array.
    """

    def __init__(self, source: Volume, num_classes: int) -> None:
        self._source = source
        self._shape = (*source.array.shape, num_classes)
        self.array = np.empty(0, np.float32)
        self.num_bytes = 4 * math.prod(self._shape)

    def __enter__(self) -> ProbabilityArray:
        # A class after the other in memory, as in the file, since they are computed in turn.
        self.array = np.zeros(self._shape, np.float32, order="F")
        self.array[..., 0] = 1
        return self

    def put(self, class_index: int, targets: Block, block: npt.NDArray[np.float32]) -> None:
        """Takes the probabilities of a class in a block, as `ProbabilityFile.put` does."""
        of_class = Volume(self.array[..., class_index], self._source.affine)
        to_ras(of_class).array[targets] = block

    def finish(self) -> None:
        """Completes the array, which needs nothing more."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Keeps the array."""


class ProbabilityFile:
    """A file that is written block by block and appears complete, by a single rename.

    Use it in a `with` statement, and call `finish` at its end. A file that is not finished leaves
    nothing behind. Voxels that are never written are background.

    Args:
        path: name of the file, ending in `.nii.gz`.
        source: the scan whose grid the file gets; only its shape and header are used.
        num_classes: size of the file's fourth dimension.
        verdict_path: the verdict file of earlier results. It is removed before the new file
            appears, because it would say that this one belongs to them.

    Raises:
        InputError: if the file cannot be written, when the block is entered or left.
    """

    def __init__(
        self, path: Path, source: Volume, num_classes: int, verdict_path: Path | None = None
    ) -> None:
        self._path, self._source, self._verdict_path = path, source, verdict_path
        self._shape = (*source.array.shape, num_classes)
        self._folder = temporary_path(path)
        self._raw = self._folder / "raw"

    def __enter__(self) -> ProbabilityFile:
        try:
            self._folder.mkdir()
            with self._raw.open("wb") as file:
                # Background is 1 everywhere. The other classes are not written: they read as 0.
                voxels = math.prod(self._shape[:3])
                for start in range(0, voxels, _CHUNK_BYTES):
                    file.write(bytes([PROBABILITY_STEPS]) * min(_CHUNK_BYTES, voxels - start))
                # Reserves the whole size, because the kernel kills a process whose mapped file
                # finds no room on the disk.
                os.posix_fallocate(file.fileno(), 0, math.prod(self._shape))
        except OSError as error:
            remove_path(self._folder)
            raise self._unwritable(error) from error
        return self

    def put(self, class_index: int, targets: Block, block: npt.NDArray[np.float32]) -> None:
        """Writes the probabilities of a class in a block.

        Args:
            class_index: the combined class index.
            targets: the block, along the axes of `mtseg.scans.volume.to_ras` (RAS+).
            block: float32 in the shape of the block, 0 to 1.
        """
        # Mapped for this block only, so that its pages do not stay in memory.
        mapped = np.memmap(self._raw, np.uint8, "r+", shape=self._shape, order="F")
        canonical = to_ras(Volume(mapped[..., class_index], self._source.affine)).array
        canonical[targets] = np.rint(block * PROBABILITY_STEPS)

    def finish(self) -> None:
        """Compresses the file and renames it to its path."""
        whole = self._folder / self._path.name
        header = make_header(self._source, self._shape, np.uint8)
        header.set_slope_inter(1 / PROBABILITY_STEPS, 0)
        header.set_data_offset(_DATA_OFFSET)
        # Without the time of writing, so that the same scan gives the same bytes.
        with (
            gzip.GzipFile(whole, "wb", compresslevel=1, mtime=0) as file,
            self._raw.open("rb") as raw,
        ):
            file.write(header.binaryblock.ljust(_DATA_OFFSET, b"\0"))
            shutil.copyfileobj(raw, file, _CHUNK_BYTES)
        if self._verdict_path is not None:
            self._verdict_path.unlink(missing_ok=True)
        os.replace(whole, self._path)

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(f"{self._path}: cannot be written ({error.strerror}). {WRITE_REMEDY}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        remove_path(self._folder)
        if isinstance(error, OSError):
            raise self._unwritable(error) from error
