"""How TFRecord files frame their records, for reading and copying them without TensorFlow.

A record is its length (8 bytes), a checksum of the length (4), the data, and a checksum of the data
(4). The schema of the data is in `mtseg.records.schema`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

HEADER_BYTES = 12
"""Bytes of a frame before the data."""

FRAME_BYTES = 16
"""Bytes of a frame in all, before and after the data."""


def list_frames(descriptor: int) -> Iterator[tuple[int, int]]:
    """Yields offset and size in bytes of each record of an open file, with its frame."""
    offset, end = 0, os.fstat(descriptor).st_size
    while offset < end:
        size = int.from_bytes(os.pread(descriptor, 8, offset), "little") + FRAME_BYTES
        yield offset, size
        offset += size
