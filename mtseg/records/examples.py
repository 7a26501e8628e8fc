"""The records of one prepared subject: its training patches, or its whole volume."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from mtseg.records.schema import RecordConfig
from mtseg.scans.patches import choose_voxels, cut_patches, pad_volume
from mtseg.sources.reading import PreparedSubject
from mtseg.tasks.task import Task


def prepared_examples(
    task: Task, config: RecordConfig, prepared: PreparedSubject
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the keyed records of a subject that has been prepared."""
    if config.kind == "patches":
        yield from patch_examples(prepared, task.num_classes, config)
    else:
        yield prepared.name, volume_example(prepared)


def patch_examples(
    prepared: PreparedSubject, num_classes: int, config: RecordConfig
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields a subject's keyed patch records.

    The voxels and their order depend on the seed and the subject's name alone, not on the order in
    which subjects are prepared.
    """
    rng = np.random.default_rng([config.seed, zlib.crc32(prepared.name.encode())])
    image = prepared.image
    index_ijk, class_index = choose_voxels(
        prepared.class_index_map,
        image > 0,
        per_class=config.patches_per_class,
        num_classes=num_classes,
        rng=rng,
    )
    order = rng.permutation(len(index_ijk))
    index_ijk, class_index = index_ijk[order], class_index[order]
    padded = pad_volume(image, dtype=np.float16)
    for start in range(0, len(index_ijk), 128):  # bounded memory, whatever patches_per_class
        chunk = slice(start, start + 128)
        cut = cut_patches(padded, index_ijk[chunk])
        for n, patch in enumerate(cut, start):
            yield (
                f"{prepared.name}_{n:07d}",
                {
                    "patches": patch,
                    "class_index": int(class_index[n]),
                    "subject": prepared.name,
                    "index_ijk": index_ijk[n].astype(np.int32),
                },
            )


def volume_example(prepared: PreparedSubject) -> dict[str, Any]:
    """A subject's volume record."""
    return {
        "image": prepared.image,
        "class_index_map": prepared.class_index_map,
        "affine": prepared.affine,
        "subject": prepared.name,
    }
