"""Writing label maps as NIfTI files with the header of their scan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from mtseg.errors import InputError
from mtseg.scans.volume import Volume, label_type, require_shape
from mtseg.system.atomic_files import atomic_write, writing_to

_PLACE_FIELDS = ("qform", "quatern", "qoffset", "sform", "srow", "xyzt_units")
"""How the names of a header's fields begin that say, beside `pixdim`, where voxels are."""


def write_label_map(path: str | Path, labels: np.ndarray, source: Volume) -> None:
    """Writes labels as NIfTI on their scan's own grid.

    Args:
        path: `.nii.gz` or `.nii`; the file appears whole, by one rename.
        labels: integers in the source's shape; stored as uint8, int16 or int32, as they need.
        source: the scan, whose qform, sform, codes and units the file gets.

    Raises:
        InputError: if the file cannot be written; nothing is left of it.
    """
    _write(path, labels.astype(label_type(labels, path)), source)


def _write(path: str | Path, array: np.ndarray, source: Volume) -> None:
    path = Path(path)
    require_shape(array, source.array.shape)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise InputError(f"{path}: is not a name for a NIfTI file. End it in .nii.gz or .nii.")
    image = nib.Nifti1Image(array, None, make_header(source, array.shape, array.dtype))
    with writing_to(path, "Make room, or give another folder."), atomic_write(path) as temporary:
        nib.save(image, temporary)


def make_header(
    source: Volume, shape: Sequence[int], dtype: np.typing.DTypeLike
) -> nib.Nifti1Header:
    """The header of a file on a scan's own grid.

    Args:
        source: the scan, whose qform, sform, codes and units the header gets.
        shape: of the file; its first three sizes are the scan's.
        dtype: of the file's voxels.
    """
    header = nib.Nifti1Image(np.empty((1, 1, 1), dtype), source.affine).header
    header.set_data_shape(shape)
    if source.header is not None:
        # As they are stored: some that can be read could not be computed anew.
        for field in source.header:
            if field.startswith(_PLACE_FIELDS):
                header[field] = source.header[field]
        header["pixdim"][:4] = source.header["pixdim"][:4]
    return header
