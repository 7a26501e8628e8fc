"""Patches of volumes: how voxels are counted, chosen and cut; no TensorFlow is needed."""

import numpy as np
import pytest

from mtseg.batches import volume_patches
from mtseg.batches.volume_patches import open_volumes
from mtseg.errors import InputError
from mtseg.sources.subject import PreparedSubject
from mtseg.tasks.task import IGNORED

SHAPE = (3, 51, 51)


def empty(count):
    return np.empty((count, *SHAPE), np.float16)


def scan(image, class_index_map):
    image, classes = np.array(image, np.float32), np.array(class_index_map, np.uint8)
    return PreparedSubject("s", image.reshape(1, 1, -1), classes.reshape(1, 1, -1), np.eye(4))


@pytest.fixture
def volumes(monkeypatch):
    """Two rows of voxels whose intensities say which voxel it is; 0 is not foreground."""
    scans = [scan([1, 2, 3, 4], [0, 1, IGNORED, 1]), scan([5, 6, 0], [1, 0, 0])]
    monkeypatch.setattr(volume_patches, "read_volumes", lambda *_: iter(scans))
    return open_volumes("data", "breast", "phantom")


def test_foreground_voxels_of_each_class_are_counted(volumes):
    assert volumes.num_samples.tolist() == [2, 3]  # 1 and 6, then 2, 4 and 5
    assert volumes.num_scans.tolist() == [2, 2]


def test_samples_are_numbered_volume_by_volume(volumes):
    patches = volumes.cut(np.array([0, 0, 1, 1, 1]), np.array([0, 1, 0, 1, 2]))
    assert patches.shape == (5, *SHAPE)
    for plane in range(3):  # The three planes meet in the voxel.
        assert patches[:, plane, 25, 25].tolist() == [1, 6, 2, 4, 5]
    # Voxel 4 is the last of (1, 1, 4): k is a column of the coronal and the sagittal plane.
    axial, coronal, sagittal = patches[3]
    assert axial.sum() == 4
    assert coronal[25, 21:27].tolist() == sagittal[25, 21:27].tolist() == [0, 1, 2, 3, 4, 0]
    assert coronal.sum() == sagittal.sum() == 10


@pytest.mark.promise("scarcity is one line")
def test_volumes_that_do_not_fit_in_memory_are_refused(monkeypatch):
    scans = [scan([1, 2, 3], [0, 1, 0]), scan([5, 6, 0, 0], [1, 0, 0, 0])]
    monkeypatch.setattr(volume_patches, "read_volumes", lambda *_: iter(scans))
    monkeypatch.setattr(volume_patches, "free_bytes", lambda: 24 * 3)
    with pytest.raises(InputError, match=r"after 1 of them .*--kinds patches,volumes, then mtseg"):
        open_volumes("data", "breast", "phantom")


def test_volumes_without_a_labelled_voxel_have_no_samples(monkeypatch):
    scans = [scan([1, 2, 0], [IGNORED, IGNORED, 0])]
    monkeypatch.setattr(volume_patches, "read_volumes", lambda *_: iter(scans))
    assert open_volumes("data", "breast", "phantom").num_samples.tolist() == []


@pytest.mark.parametrize(("draw", "voxel"), [(0, 2), (0.3, 2), (0.34, 4), (0.66, 4), (0.999, 5)])
def test_the_draw_chooses_among_all_voxels_of_a_class(volumes, draw, voxel):
    out = empty(1)
    volumes.take(np.array([1]), np.array([7]), np.array([draw]), (0,), out)
    assert out[0, 0, 25, 25] == voxel


def test_samples_that_are_turned_and_those_that_are_not(volumes):
    """Half a turn about j: the row of voxels is seen from its other end."""
    transforms = np.stack([np.eye(3), np.diag([-1.0, 1.0, -1.0])])
    patches = volumes.cut(np.array([1, 1]), np.array([1, 1]), transforms)
    assert patches[0, 1, 25, 21:27].tolist() == [0, 1, 2, 3, 4, 0]
    assert patches[1, 1, 25, 24:30].tolist() == [0, 4, 3, 2, 1, 0]
