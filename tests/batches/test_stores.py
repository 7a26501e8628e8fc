"""The two stores of training patches: how they count, choose and read."""

import os
import resource

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mtseg.batches import stores
from mtseg.batches.stores import PatchRecords, open_patches, open_volumes
from mtseg.errors import InputError
from mtseg.records.reading import prepared_dir
from mtseg.sources.reading import PreparedSubject
from mtseg.tasks.task import IGNORED

SHAPE = (3, 51, 51)


def empty(count):
    return np.empty((count, *SHAPE), np.float16)


# Patch records.


@pytest.fixture
def records(tmp_path):
    """Seven records: number n is filled with n; three are of class 0 and four of class 1."""
    path = tmp_path / "shard"
    numbered = empty(7)
    numbered[:] = np.arange(7).reshape(-1, 1, 1, 1)
    path.write_bytes(numbered.tobytes())
    offset = np.arange(7) * numbered[0].nbytes
    with path.open("rb") as file:
        class_index = np.array([0, 1, 1, 0, 1, 0, 1])
        yield PatchRecords(tmp_path, (file.fileno(),), class_index, np.zeros(7, int), offset)


def take(store, class_index, turns, key=(0, 0, 0)):
    """Numbers of the records that these turns of a class give."""
    out = empty(len(turns))
    store.take(np.full(len(turns), class_index), np.asarray(turns), np.zeros(len(turns)), key, out)
    assert (out == out[:, :1, :1, :1]).all()
    return out[:, 0, 0, 0].astype(int).tolist()


def test_records_of_each_class_are_counted(records):
    assert records.num_samples.tolist() == [3, 4]


def test_a_pass_reads_every_record_of_a_class_once(records):
    for first in (0, 4, 8):
        assert sorted(take(records, 1, range(first, first + 4))) == [1, 2, 4, 6]
    assert sorted(take(records, 0, range(3))) == [0, 3, 5]


def test_passes_and_keys_have_orders_of_their_own(records):
    passes = {tuple(take(records, 1, range(4 * n, 4 * n + 4))) for n in range(8)}
    keys = {tuple(take(records, 1, range(4), key=(seed, 0, 0))) for seed in range(8)}
    assert len(passes) > 3
    assert len(keys) > 3


def test_what_a_turn_gives_does_not_depend_on_the_others(records):
    together = take(records, 1, range(9))
    assert [take(records, 1, [turn])[0] for turn in range(9)] == together


def test_random_access_reads_what_tfds_reads(tiny_data):
    records = open_patches(tiny_data.data_dir, "breast", "phantom")
    folder = prepared_dir(tiny_data.data_dir, "breast", "phantom", "patches")
    dataset = tfds.builder_from_directory(folder).as_dataset(split="train")
    by_tfds = {e["patches"].tobytes(): e["class_index"] for e in dataset.as_numpy_iterator()}
    rows = np.arange(len(records.class_index))
    patches = empty(len(rows))
    records.read(rows, patches)
    assert len(rows) == len(by_tfds)
    for patch, class_index in zip(patches, records.class_index, strict=True):
        assert by_tfds[patch.tobytes()] == class_index


def test_a_shard_that_shrinks_in_use_is_one_clear_line(records):
    os.truncate(records.folder / "shard", 7000)
    with pytest.raises(InputError, match="was changed while it was in use"):
        records.read(np.array([6]), empty(1))


@pytest.mark.promise("scarcity is one line")
def test_more_shards_than_the_system_lets_be_open_are_refused(tiny_data, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 513))
    with pytest.raises(InputError, match=r"2 shards, but only 513 files.*--num-shards"):
        open_patches(tiny_data.data_dir, "breast", "phantom")
    asked = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    open_patches(tiny_data.data_dir, "breast", "phantom")
    assert asked == [(514, 4096)]


# Volumes.


def scan(image, class_index_map):
    image, classes = np.array(image, np.float32), np.array(class_index_map, np.uint8)
    return PreparedSubject("s", image.reshape(1, 1, -1), classes.reshape(1, 1, -1), np.eye(4))


@pytest.fixture
def volumes(monkeypatch):
    """Two rows of voxels whose intensities say which voxel it is; 0 is not foreground."""
    scans = [scan([1, 2, 3, 4], [0, 1, IGNORED, 1]), scan([5, 6, 0], [1, 0, 0])]
    monkeypatch.setattr(stores, "read_volumes", lambda *_: iter(scans))
    return open_volumes("data", "breast", "phantom")


def test_foreground_voxels_of_each_class_are_counted(volumes):
    assert volumes.num_samples.tolist() == [2, 3]  # 1 and 6, then 2, 4 and 5


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


def test_volumes_without_a_labelled_voxel_have_no_samples(monkeypatch):
    scans = [scan([1, 2, 0], [IGNORED, IGNORED, 0])]
    monkeypatch.setattr(stores, "read_volumes", lambda *_: iter(scans))
    assert open_volumes("data", "breast", "phantom").num_samples.tolist() == []


@pytest.mark.parametrize(("draw", "voxel"), [(0, 2), (0.3, 2), (0.34, 4), (0.66, 4), (0.999, 5)])
def test_the_draw_chooses_among_all_voxels_of_a_class(volumes, draw, voxel):
    out = empty(1)
    volumes.take(np.array([1]), np.array([7]), np.array([draw]), (0,), out)
    assert out[0, 0, 25, 25] == voxel
