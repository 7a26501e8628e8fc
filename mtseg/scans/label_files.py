"""Reading and writing label maps.

A label map is written as NIfTI with the header of its scan, so every program shows it in the right
place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.scans.formats.label_tables import make_extensions
from mtseg.scans.formats.nifti import NIFTI_ENDINGS, SAME_SIZE
from mtseg.scans.reading import read_voxels
from mtseg.scans.volume import Volume, require_shape
from mtseg.system.atomic_files import atomic_write, writing_to
from mtseg.tasks.label_table import LabelEntry

_PLACE_FIELDS = ("qform", "quatern", "qoffset", "sform", "srow", "xyzt_units")
"""Beginnings of the names of the header's fields that say, with `pixdim`, where voxels are."""


def read_label_map(path: str | Path) -> Volume:
    """Reads a label map in the smallest of uint8, int16 and int32 that can hold its labels.

    Raises:
        InputError: if the file cannot be read, or a label is not a whole number of 32 bits.
    """
    label_map = read_voxels(path)
    return dataclasses.replace(label_map, array=whole_labels(label_map.array, path))


def whole_labels(array: npt.NDArray[Any], path: str | Path) -> npt.NDArray[np.integer]:
    """Labels in the smallest type that can hold them.

    Args:
        array: labels of any number type and shape.
        path: the label file, for the message.

    Raises:
        InputError: if a label is not a whole number of 32 bits.
    """
    if array.dtype.kind == "f" and not (np.isfinite(array) & (array == np.rint(array))).all():
        raise InputError(f"{path}: has labels that are not whole numbers. Give a label map.")
    return array.astype(label_type(array, path))


def label_type(labels: npt.NDArray[Any], path: str | Path) -> type[np.signedinteger | np.uint8]:
    """The smallest of uint8, int16 and int32 that can hold labels.

    Raises:
        InputError: if a label needs more than 32 bits.
    """
    low, high = int(labels.min()), int(labels.max())
    for dtype in (np.uint8, np.int16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return dtype
    raise InputError(
        f"{path}: its labels reach from {low} to {high}, more than 32 bits. Give a label map."
    )


def write_label_map(
    path: str | Path,
    labels: npt.NDArray[np.integer],
    source: Volume,
    table: Sequence[LabelEntry] = (),
) -> None:
    """Writes labels as NIfTI on the grid of their scan.

    Args:
        path: `.nii.gz` or `.nii`. The file appears whole, by an atomic write.
        labels: integers in the shape of the scan; stored as the smallest of uint8, int16 and int32
            that can hold them.
        source: the scan. The file gets its qform, sform, codes and units.
        table: names and colours of the labels, for extensions of the header; none if empty.

    Raises:
        InputError: if the file cannot be written; no part of it is left.
        ValueError: if the shapes differ.
    """
    path = Path(path)
    require_shape(labels, source.array.shape)
    if not path.name.endswith(NIFTI_ENDINGS):
        raise InputError(f"{path}: is not a name for a NIfTI file. End it in .nii.gz or .nii.")
    image = make_label_image(labels.astype(label_type(labels, path)), source, table)
    with writing_to(path, "Make room, or give another folder."), atomic_write(path) as temporary:
        nib.save(image, temporary)


def make_label_image(
    labels: npt.NDArray[np.integer], source: Volume, table: Sequence[LabelEntry] = ()
) -> nib.Nifti1Image:
    """Labels as the NIfTI image that `write_label_map` writes, with their own type of number."""
    header = make_header(source, labels.shape, labels.dtype)
    image = nib.Nifti1Image(labels, header.get_best_affine(), header)
    if table:
        image.header.extensions.extend(make_extensions(table))
    return image


def make_header(source: Volume, shape: Sequence[int], dtype: npt.DTypeLike) -> nib.Nifti1Header:
    """The header of a NIfTI file on the grid of a scan.

    Args:
        source: the scan. The header gets its qform, sform, codes and units, and its voxel size even
            if the sform alone has it.
        shape: of the file; its first three sizes are the scan's.
        dtype: type of the file's voxels.
    """
    header = nib.Nifti1Image(np.empty((1, 1, 1), dtype), source.affine).header
    header.set_data_shape(shape)
    if source.header is not None:
        # Copied as stored: a quaternion that can be read cannot always be computed from the affine.
        for field in source.header:
            if field.startswith(_PLACE_FIELDS):
                header[field] = source.header[field]
        header["pixdim"][:4] = source.header["pixdim"][:4]
        sizes_mm = source.spacing_mm
        if header["sform_code"] > 0 and not np.allclose(
            header["pixdim"][1:4], sizes_mm, rtol=SAME_SIZE
        ):
            header["pixdim"][1:4] = sizes_mm  # nibabel has made 1 of a size of 0
    return header
