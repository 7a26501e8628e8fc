"""The records of one prepared subject: patches at randomly chosen voxels, or the whole volume.

Both ways of writing records call `make_records`: the staging of `mtseg-prepare` and TFDS's own
writer. So they write the same.

Reference: Moeskops et al., MICCAI 2016, section 3.2.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from mtseg.records.schema import RecordConfig, make_patch_record, make_volume_record
from mtseg.scans.patches import choose_voxels, cut_patches, pad_volume
from mtseg.sources.reading import PreparedSubject
from mtseg.tasks.task import Task

_PATCHES_AT_ONCE = 128
"""Bounds the memory for patches, however many are drawn from a subject."""


def make_records(
    task: Task, config: RecordConfig, subject: PreparedSubject
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the records of one subject.

    Args:
        task: the subject's task.
        config: what to make: patches or a volume.
        subject: the subject after preprocessing.

    Yields:
        `(key, record)`; the key is unique within a split.
    """
    if config.kind == "patches":
        yield from _make_patch_records(task.num_classes, config, subject)
    else:
        yield subject.name, make_volume_record(subject)


def _make_patch_records(
    num_classes: int, config: RecordConfig, subject: PreparedSubject
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields patch records in random order.

    The generator is seeded with the subject's name, so the voxels do not depend on which subjects
    are prepared before this one.
    """
    rng = np.random.default_rng([config.seed, zlib.crc32(subject.name.encode())])
    index_ijk, class_index = choose_voxels(
        subject.class_index_map,
        subject.image > 0,
        per_class=config.patches_per_class,
        num_classes=num_classes,
        rng=rng,
    )
    order = rng.permutation(len(index_ijk))
    index_ijk, class_index = index_ijk[order], class_index[order]
    padded = pad_volume(subject.image, dtype=np.float16)
    for start in range(0, len(index_ijk), _PATCHES_AT_ONCE):
        cut = cut_patches(padded, index_ijk[start : start + _PATCHES_AT_ONCE])
        for n, patches in enumerate(cut, start):
            record = make_patch_record(patches, int(class_index[n]), subject.name, index_ijk[n])
            yield f"{subject.name}_{n:07d}", record
