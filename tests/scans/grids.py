"""Volumes whose values say where they came from, on grids of every orientation.

In `ranged` no two voxels have the same value and no two axes the same size, so every flip, swap or
shift of a volume shows.
"""

import itertools

import nibabel as nib
import numpy as np
import pytest
from nibabel import orientations

from mtseg.errors import InputError
from mtseg.scans.volume import Volume, to_ras

SHAPE = (3, 4, 5)

ORIENTATIONS = [
    "".join(codes)
    for order in itertools.permutations(("LR", "PA", "IS"))
    for codes in itertools.product(*order)
]
"""All 48 orientations, such as LPS."""


def ranged(shape=SHAPE):
    """The numbers from 1, in the order of the voxels."""
    return np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)


def affine_of(codes, spacing_mm=(1.0, 1.0, 1.0)):
    """An affine of this orientation, with an origin that is not 0."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, direction) in enumerate(orientations.axcodes2ornt(tuple(codes))):
        affine[int(world), axis] = direction * spacing_mm[axis]
    affine[:3, 3] = (-10, 20, 30)
    return affine


def oblique_affine(spacing_mm=(1.0, 1.2, 2.0), angle=np.pi / 9):
    """An affine turned around z, with the first axis to the left."""
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[:3, :3] @= np.diag(spacing_mm) @ np.diag([-1.0, 1.0, 1.0])
    affine[:3, 3] = (5, -7, 11)
    return affine


def points_by_value(volume):
    """World coordinates (3, n) of the voxels in the order of their values."""
    index_ijk = np.indices(volume.array.shape).reshape(3, -1)
    points_mm = volume.affine[:3, :3] @ index_ijk + volume.affine[:3, 3:]
    return points_mm[:, np.argsort(volume.array.ravel())]


def assert_same_in_world(found, expected):
    """Equal values at equal places, whatever the axes of the two volumes."""
    found, expected = to_ras(found), to_ras(expected)
    np.testing.assert_array_equal(found.array, expected.array)
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-5)


def on_grid(array, codes="RAS", spacing_mm=(1.0, 1.0, 1.0)):
    """An array as a volume of this orientation and voxel size."""
    return Volume(array, affine_of(codes, spacing_mm))


def save(path, array, affine=None, **codes):
    """Writes NIfTI; `qform=(affine, code)` and `sform=(affine, code)` set these."""
    image = nib.Nifti1Image(array, np.eye(4) if affine is None else affine)
    for name, (matrix, code) in codes.items():
        getattr(image, f"set_{name}")(matrix, code)
    nib.save(image, path)
    return path


def refuse(read, path, *words):
    """Asserts that reading raises an InputError of one line with the path and these words."""
    with pytest.raises(InputError) as refusal:
        read(path)
    message = str(refusal.value)
    assert "\n" not in message
    for word in (str(path), *words):
        assert word in message
