"""One subject on the grid of its task: its prepared image and class indices.

Every way of preparing records calls `prepare_subject`, so all records hold the same.
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
from mtseg.sources.subject import Subject
from mtseg.tasks.task import LabelSource, Task


def read_subject(
    task: Task, source: str, subject: Subject, size: int | None = None
) -> tuple[Volume, Volume]:
    """Reads, or makes, a subject's scan and label map.

    Args:
        task: the task.
        source: name of the source that the subject is of.
        subject: from `find_subjects`.
        size: largest extent of a phantom in voxels; None is near the paper's data.

    Returns:
        `(image, label_map)` on one grid; the labels are the source's, not class indices.

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
            f"{task.name}:{source}: subject {subject.name} lacks a scan or a label map."
        )
    image, label_map = read_scan(subject.image_path), read_label_map(subject.label_path)
    return image, match_grid(image, label_map, subject.image_path, subject.label_path)


@dataclasses.dataclass(frozen=True)
class PreparedSubject:
    """A subject ready for sampling or evaluation.

    Attributes:
        name: the subject's name.
        image: float32 (I, J, K), isotropic, RAS+, after the intensity rule; foreground is > 0.
        class_index_map: uint8 (I, J, K), the task's own class index or `mtseg.tasks.task.IGNORED`;
            0 outside the foreground.
        affine: float64 (4, 4), voxel to RAS+ world in mm.
    """

    name: str
    image: np.ndarray
    class_index_map: np.ndarray
    affine: np.ndarray


def prepare_subject(
    task: Task, source: LabelSource, subject: Subject, size: int | None = None
) -> PreparedSubject:
    """Reads a subject and brings it to the task's grid, intensities and classes.

    Args:
        task: the task.
        source: the source, from `mtseg.sources.find.find_subjects`.
        subject: one of its subjects.
        size: largest extent of a phantom in voxels; None is near the paper's data.

    Raises:
        InputError: if the scan or its label map cannot be used; the message names the file.
    """
    image, label_map = read_subject(task, source.name, subject, size)
    # Checked before the slow resampling, and in the source's own values.
    where = subject.label_path or subject.name
    class_index_map = task.map_labels(label_map.array, source, where)
    # Both in RAS+ from here, so that a large scan is in memory once.
    label_map = to_ras(Volume(class_index_map, image.affine))
    image = to_ras(image)
    image = dataclasses.replace(image, array=np.ascontiguousarray(image.array, np.float32))
    try:
        prepared = prepare_scan(image, task.target_spacing_mm(image.spacing_mm), may_overwrite=True)
    except InputError as error:
        raise InputError(f"{subject.image_path or subject.name}: {error}") from error
    return PreparedSubject(
        name=subject.name,
        image=prepared.volume.array,
        class_index_map=prepare_label_map(label_map, prepared),
        affine=prepared.volume.affine,
    )
