"""All layouts by name, and finding the files of a data set by its layout.

Only file names and the data set's own description are read here. `mtseg.sources.find` decides which
subjects are complete, and `mtseg.sources.checks` whether their voxels are usable.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mtseg.errors import InputError
from mtseg.sources.layouts.acdc import find_acdc
from mtseg.sources.layouts.bids import find_bids
from mtseg.sources.layouts.dataset_files import DatasetFiles, SubjectFiles
from mtseg.sources.layouts.decathlon import find_msd, find_nnunet
from mtseg.sources.layouts.folders import (
    find_asoca,
    find_by_patterns,
    find_folder,
    find_freesurfer,
    find_imagecas,
    find_miccai2012,
)
from mtseg.tasks.task import LabelSource


class Layout(NamedTuple):
    """A way to name and arrange the files of a data set.

    Attributes:
        find: finds the files in the folder of a data set. It may raise an OSError for a folder
            that it expects.
        expected: what a folder must have, for messages.
        person_before: the part of a subject's name before this text is the person; empty if the
            layout does not say whose scans belong together.
    """

    find: Callable[[Path], DatasetFiles]
    expected: str
    person_before: str = ""


LAYOUTS = {
    "miccai2012": Layout(
        find_miccai2012,
        "NNNN_SS.nii.gz or NNNN*.nii.gz (scans) beside NNNN*_glm.nii.gz (label maps), NNNN being "
        "the subject",
    ),
    "folder": Layout(find_folder, "images/ and labels/ with equal names in both"),
    "nnunet": Layout(
        find_nnunet,
        "dataset.json, imagesTr/NAME_0000.nii.gz and labelsTr/NAME.nii.gz, as nnU-Net v2 has them",
    ),
    "msd": Layout(find_msd, "dataset.json, imagesTr/ and labelsTr/, as the Decathlon has them"),
    "bids": Layout(
        find_bids,
        "sub-*/anat/sub-*_T1w.nii.gz and derivatives/*/sub-*/anat/sub-*_dseg.nii.gz",
        person_before="_",
    ),
    "freesurfer": Layout(
        find_freesurfer, "SUBJECT/mri/orig.mgz (or norm.mgz) and SUBJECT/mri/aseg.mgz"
    ),
    "imagecas": Layout(find_imagecas, "NAME.img.nii.gz beside NAME.label.nii.gz"),
    "asoca": Layout(find_asoca, "*/CTCA/NAME.nrrd and */Annotations/NAME.nrrd"),
    "acdc": Layout(
        find_acdc,
        "training/patientNNN/patientNNN_frameFF.nii.gz (scans) beside "
        "patientNNN_frameFF_gt.nii.gz (label maps)",
        person_before="_frame",
    ),
}
"""Name of a layout, as in a task file -> the layout."""


def find_files(labels: LabelSource, folder: Path, where: str) -> DatasetFiles:
    """Finds the files of every subject in the folder of a data set.

    Args:
        labels: the source, with one of `LAYOUTS`, and with its patterns or filter if it has any.
        folder: the folder of the data set.
        where: the task and source, for messages.

    Raises:
        InputError: if the folder cannot be listed, does not have this layout, or has no scan.
    """
    find, expected, _ = LAYOUTS[labels.layout]
    if labels.images:
        find = functools.partial(
            find_by_patterns, images=labels.images, label_maps=labels.label_maps
        )
        expected = f"{labels.images} (scans) and {labels.label_maps} (label maps)"
    elif labels.entity_filter:
        find = functools.partial(find_bids, entity_filter=dict(labels.entity_filter))
    try:
        next(folder.iterdir(), None)
        found = find(folder)
    except OSError as error:
        raise InputError(
            f"{error.filename or folder}: cannot be listed ({error.strerror}). Give a folder of "
            f"{where} with {expected}."
        ) from error
    if not found.subjects:
        raise InputError(f"{folder}: has no scans of {where}. Give a folder with {expected}.")
    of_name: dict[str, SubjectFiles] = {}
    for files in found.subjects:
        other = of_name.setdefault(files.name, files)
        if other is not files:
            paths = [str((each.images + each.label_maps)[0]) for each in (other, files)]
            raise InputError(
                f"{paths[1]}: has the same name as {paths[0]}, so one would be taken for the "
                "other. Rename one subject."
            )
    return found
