"""Memory and disk that a preparation will take, from the headers of the scans alone.

No voxel is read or generated for it. The figures are upper bounds that `mtseg-prepare` prints; they
were compared with what preparations of real scans and phantoms took, and are near it for those.
"""

from __future__ import annotations

import math

from mtseg.phantoms.scanner import SLAB_VOXELS, phantom_grid
from mtseg.records.builder import RecordConfig
from mtseg.records.schema import PATCH_RECORD_BYTES, SPLITS, VOXEL_BYTES
from mtseg.records.shards import array_record_bytes
from mtseg.scans.preprocessing import preparation_bytes
from mtseg.scans.reading import open_scan
from mtseg.scans.resampling import resampled_shape
from mtseg.sources.subject import Subject
from mtseg.tasks.task import Task

_CHECK_BYTES = 18
"""Of memory per voxel of a scan that is checked: the scan, its label map, copies in reading."""

_LABEL_BYTES = 2
"""Per voxel of a scan that is prepared: its label map."""

_WRITING_BYTES = {"patches": 24, "volumes": VOXEL_BYTES * 3}
"""Per voxel of a prepared scan whose records are written. Patches: the voxels of a class and their
order. Volumes: the scan with its label map, the same encoded, and the writer's copy."""

_PAINTING_BYTES = 80
"""Per voxel of the slab of a phantom that is painted at a time."""

_STORED_BYTES = 3
"""Per voxel of a phantom: an intensity and a label."""


def estimate_memory(task: Task, subject: Subject, configs: tuple[RecordConfig, ...]) -> int:
    """The bytes that a process grows by while it checks and prepares a subject.

    Args:
        task: the task.
        subject: a scan or a phantom.
        configs: the kinds of records that are written.

    Raises:
        InputError: if the header of the scan is not valid.
    """
    shape, spacing_mm, new_shape = _find_grid(task, subject, configs[0].size)
    source, new = math.prod(shape), math.prod(new_shape)
    preparing = preparation_bytes(shape, spacing_mm, task.target_spacing_mm(spacing_mm))
    moments = [preparing + _LABEL_BYTES * source]
    if subject.seed is None:
        moments.append(_CHECK_BYTES * source)
    else:
        painted = min(source, max(SLAB_VOXELS, shape[0] * shape[1]))
        moments.append(_STORED_BYTES * source + _PAINTING_BYTES * painted)
    kinds = [config.kind for config in configs if subject.split in SPLITS[config.kind]]
    moments += [_WRITING_BYTES[kind] * new for kind in kinds]
    return max(moments)


def estimate_record_bytes(task: Task, subject: Subject, configs: tuple[RecordConfig, ...]) -> int:
    """The most bytes that the records of a subject take on disk.

    Raises:
        InputError: if the header of the scan is not valid.
    """
    total = 0
    for config in configs:
        if subject.split not in SPLITS[config.kind]:
            continue
        if config.kind == "patches":
            total += task.num_classes * config.patches_per_class * PATCH_RECORD_BYTES
        else:
            *_, new_shape = _find_grid(task, subject, config.size)
            total += array_record_bytes(math.prod(new_shape) * VOXEL_BYTES)
    return total


def _find_grid(
    task: Task, subject: Subject, size: int | None
) -> tuple[tuple[int, ...], tuple[float, float, float], tuple[int, ...]]:
    """Shape and voxel size of a subject's scan, and its shape at the task's voxel size."""
    shape: tuple[int, ...]
    if subject.seed is not None:
        shape, spacing_mm = phantom_grid(task.name, subject.seed, size)
    else:
        scan = open_scan(str(subject.image_path))
        shape, spacing_mm = tuple(scan.shape), scan.spacing_mm
    new_mm = task.target_spacing_mm(spacing_mm)
    return shape, spacing_mm, resampled_shape(shape, spacing_mm, new_mm) or shape
