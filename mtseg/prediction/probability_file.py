"""Class probabilities as a 4-D NIfTI file, written block by block.

The probabilities of all classes take many times the memory of a scan, so they go to disk as they
are computed, as uint8 in steps of 1/255. The header states the scale, so a NIfTI reader gives 0 to
1.
"""

from __future__ import annotations

import gzip
import math
import os
import shutil
from pathlib import Path
from types import TracebackType

import numpy as np

from mtseg.errors import InputError
from mtseg.inference.tiling import Block
from mtseg.scans.label_files import make_header
from mtseg.scans.volume import Volume, canonicalise
from mtseg.system.atomic_files import remove_path, temporary_path

_STEPS = 255


_CHUNK_BYTES = 1 << 24


_DATA_OFFSET = 352
"""Where voxels begin in a NIfTI file without extensions."""


class ProbabilityFile:
    """A file that is written block by block and appears whole, by one rename, when finished.

    Used as a context: a file that is not finished leaves nothing behind.

    Args:
        path: `.nii.gz`.
        source: the scan, on whose grid the probabilities are; its array is not looked at.
        num_classes: the file's fourth dimension.

    Raises:
        InputError: if the file cannot be written, when the context is entered or left.
    """

    def __init__(self, path: Path, source: Volume, num_classes: int) -> None:
        self._path, self._source = path, source
        self._shape = (*source.array.shape, num_classes)
        self._folder = temporary_path(path)
        self._raw = self._folder / "raw"

    def __enter__(self) -> ProbabilityFile:
        try:
            self._folder.mkdir()
            with self._raw.open("wb") as file:
                # Background until told otherwise; what is skipped over reads as zeros.
                voxels = math.prod(self._shape[:3])
                for start in range(0, voxels, _CHUNK_BYTES):
                    file.write(bytes([_STEPS]) * min(_CHUNK_BYTES, voxels - start))
                # Room for all of it: the kernel ends a process whose mapped file finds none.
                os.posix_fallocate(file.fileno(), 0, math.prod(self._shape))
        except OSError as error:
            remove_path(self._folder)
            raise self._unwritable(error) from error
        return self

    def put(self, class_index: int, targets: Block, block: np.ndarray) -> None:
        """Writes a class's probabilities in a block.

        Args:
            class_index: which class.
            targets: where, in the axes that `mtseg.scans.volume.canonicalise` gives.
            block: floats 0 to 1, of that size.
        """
        # Mapped for this block alone, so that the pages do not stay in memory.
        mapped = np.memmap(self._raw, np.uint8, "r+", shape=self._shape, order="F")
        canonical = canonicalise(Volume(mapped[..., class_index], self._source.affine)).array
        canonical[targets] = np.rint(block * _STEPS)

    def finish(self) -> None:
        """Compresses the file and puts it in its place."""
        whole = self._folder / self._path.name
        header = make_header(self._source, self._shape, np.uint8)
        header.set_slope_inter(1 / _STEPS, 0)
        header.set_data_offset(_DATA_OFFSET)
        # Without the time, so that the same scan gives the same bytes.
        with (
            gzip.GzipFile(whole, "wb", compresslevel=1, mtime=0) as file,
            self._raw.open("rb") as raw,
        ):
            file.write(header.binaryblock.ljust(_DATA_OFFSET, b"\0"))
            shutil.copyfileobj(raw, file, _CHUNK_BYTES)
        os.replace(whole, self._path)

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(f"{self._path}: cannot be written ({error.strerror}).")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        remove_path(self._folder)
        if isinstance(error, OSError):
            raise self._unwritable(error) from error
