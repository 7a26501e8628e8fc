"""Reading one subject, and preparing it for sampling or evaluation.

Every way of preparing records calls `prepare_subject`, so all records have the same content.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from mtseg.errors import InputError
from mtseg.phantoms.scanner import make_phantom
from mtseg.scans.label_files import read_label_map
from mtseg.scans.preprocessing import prepare_label_map, prepare_scan
from mtseg.scans.reading import read_scan
from mtseg.scans.volume import Volume, match_grid, to_ras
from mtseg.sources.subject import PreparedSubject, Subject
from mtseg.tasks.task import LabelSource, Task


def read_subject(
    task: Task, source: str, subject: Subject, size: int | None = None
) -> tuple[Volume, Volume]:
    """Reads the scan and the label map of a subject, or generates those of a phantom.

    Args:
        task: the task.
        source: name of the subject's source.
        subject: from `mtseg.sources.find.find_subjects`.
        size: largest extent of a phantom in voxels; None is about that of the paper's scans.

    Returns:
        `(image, label_map)` on the same grid; labels are the source's, not class indices.

    Raises:
        InputError: if a file cannot be used, the two grids differ, or a size is given for a scan.
    """
    if subject.seed is not None:
        phantom = make_phantom(task.name, subject.seed, size)
        image = Volume(phantom.image.astype(np.float32), phantom.affine)
        return image, Volume(phantom.label_map, phantom.affine)
    if size is not None:
        raise InputError(
            f"{task.name}:{source}: --size of mtseg-prepare is for phantoms. Leave it out for "
            "scans."
        )
    if subject.image_path is None or subject.label_path is None:
        raise InputError(
            f"{task.name}:{source}: subject {subject.name} lacks a scan or a label map. Add it, or "
            "leave the subject out of the split."
        )
    image, label_map = read_scan(subject.image_path), read_label_map(subject.label_path)
    return image, match_grid(image, label_map, subject.image_path, subject.label_path)


def prepare_subject(
    task: Task, source: LabelSource, subject: Subject, size: int | None = None
) -> PreparedSubject:
    """Reads a subject and brings it to the task's voxel size, intensities and classes.

    Args:
        task: the task.
        source: the subject's source, in which every label is a value; from
            `mtseg.sources.find.find_subjects`.
        subject: one of its subjects.
        size: largest extent of a phantom in voxels; None is about that of the paper's scans.

    Raises:
        InputError: if the scan or its label map cannot be used; the message names the file.
    """
    image, label_map = read_subject(task, source.name, subject, size)
    # Before the slow resampling, because this refuses labels that are not listed.
    where = subject.label_path or subject.name
    class_index_map = task.map_labels(label_map.array, source, where)
    # Both are turned to RAS+ here, so that a large scan is in memory only once.
    label_map = to_ras(Volume(class_index_map, image.affine))
    image = to_ras(image)
    image = dataclasses.replace(image, array=np.ascontiguousarray(image.array, np.float32))
    try:
        prepared = prepare_scan(
            image, task.target_spacing_mm(image.spacing_mm), task.is_ct, may_overwrite=True
        )
    except InputError as error:
        raise InputError(f"{subject.image_path or subject.name}: {error}") from error
    return PreparedSubject(
        name=subject.name,
        image=prepared.volume.array,
        class_index_map=prepare_label_map(label_map, prepared),
        affine=prepared.volume.affine,
    )
