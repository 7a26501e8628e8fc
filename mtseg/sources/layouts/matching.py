"""The layouts by name, and matching a folder against one of them.

A layout is how the scans and label maps of a data set are named and arranged. Only file names and
the data set's own description are read here. `mtseg.sources.find` and `mtseg.sources.checks` decide
whether every subject is complete and usable.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mtseg.errors import InputError
from mtseg.sources.layouts.candidates import MatchedFiles
from mtseg.sources.layouts.decathlon import match_msd, match_nnunet
from mtseg.sources.layouts.folders import (
    match_asoca,
    match_folder,
    match_imagecas,
    match_miccai2012,
)
from mtseg.sources.layouts.neuroimaging import match_bids, match_freesurfer


def match_files(layout: str, folder: Path, where: str) -> MatchedFiles:
    """Finds the files of every subject in a folder.

    Args:
        layout: one of `LAYOUTS`.
        folder: where they are.
        where: the task and source, for messages.

    Raises:
        InputError: if the folder cannot be listed, does not lie as the layout says, or has no scan.
    """
    find, expected = LAYOUTS[layout]
    try:
        next(folder.iterdir(), None)
        found = find(folder)
    except OSError as error:
        raise InputError(
            f"{error.filename or folder}: cannot be listed ({error.strerror}). Give a folder "
            f"of {where} with {expected}."
        ) from error
    if not found.candidates:
        raise InputError(f"{folder}: has no scans of {where}. Give a folder with {expected}.")
    return found


LAYOUTS: dict[str, tuple[Callable[[Path], MatchedFiles], str]] = {
    "miccai2012": (
        match_miccai2012,
        "NNNN_SS.nii.gz or NNNN*.nii.gz (scans) beside NNNN*_glm.nii.gz (label maps), NNNN being "
        "the subject",
    ),
    "folder": (match_folder, "images/ and labels/ with equal names in both"),
    "nnunet": (
        match_nnunet,
        "dataset.json, imagesTr/NAME_0000.nii.gz and labelsTr/NAME.nii.gz, as nnU-Net v2 has them",
    ),
    "msd": (match_msd, "dataset.json, imagesTr/ and labelsTr/, as the Decathlon has them"),
    "bids": (
        match_bids,
        "sub-*/anat/sub-*_T1w.nii.gz and derivatives/*/sub-*/anat/sub-*_dseg.nii.gz",
    ),
    "freesurfer": (match_freesurfer, "SUBJECT/mri/orig.mgz (or norm.mgz) and SUBJECT/mri/aseg.mgz"),
    "imagecas": (match_imagecas, "N.img.nii.gz beside N.label.nii.gz"),
    "asoca": (match_asoca, "*/CTCA/NAME.nrrd and */Annotations/NAME.nrrd"),
}
"""How to find the subjects of a folder, and how to say what is expected there."""
