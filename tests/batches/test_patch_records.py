"""Patch records: how they are counted, chosen and read."""

import os
import resource
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mtseg.batches import patch_records
from mtseg.batches.patch_records import PatchRecords, open_patches
from mtseg.errors import InputError
from mtseg.records.prepared import prepared_dir

SHAPE = (3, 51, 51)


def empty(count):
    return np.empty((count, *SHAPE), np.float16)


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
        scan = np.array([0, 0, 0, 0, 0, 1, 1])
        yield PatchRecords(tmp_path, (file.fileno(),), class_index, scan, np.zeros(7, int), offset)


def take(store, class_index, turns, key=(0, 0, 0)):
    """Numbers of the records that these turns of a class give."""
    out = empty(len(turns))
    store.take(np.full(len(turns), class_index), np.asarray(turns), np.zeros(len(turns)), key, out)
    assert (out == out[:, :1, :1, :1]).all()
    return out[:, 0, 0, 0].astype(int).tolist()


def test_records_of_each_class_are_counted(records):
    assert records.num_samples.tolist() == [3, 4]
    assert records.num_scans.tolist() == [2, 2]


def test_shards_without_a_record_have_no_samples(tmp_path):
    none = np.empty(0, np.int64)
    records = PatchRecords(tmp_path, (), none, none, none, none)
    assert (records.num_samples.tolist(), records.num_scans.tolist()) == ([], [])


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


@pytest.mark.promise("scarcity is one line")
def test_the_shards_of_several_sources_may_be_open_together(tiny_data, monkeypatch):
    monkeypatch.setattr(patch_records, "_OTHER_FILES", 16)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 16, limits[1]))
    try:
        stores = [open_patches(tiny_data.data_dir, "breast", "phantom") for _ in range(20)]
        for store in stores:
            store.read(np.array([0]), empty(1))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_shards_are_read_again_only_if_they_change(tiny_data, tmp_path, monkeypatch):
    shutil.copytree(tiny_data.data_dir / "mtseg_breast", tmp_path / "mtseg_breast")
    folder = prepared_dir(tmp_path, "breast", "phantom", "patches")
    shards = sorted(folder.glob("*.tfrecord-*"))
    for shard in shards:
        os.utime(shard, (0, 0))  # not changed just now
    read = []
    original = patch_records.index_patches
    monkeypatch.setattr(
        patch_records, "index_patches", lambda path: read.append(path) or original(path)
    )
    before = open_patches(tmp_path, "breast", "phantom")
    assert read == shards
    again = open_patches(tmp_path, "breast", "phantom")
    assert read == shards
    for name in ("class_index", "shard", "offset"):
        np.testing.assert_array_equal(getattr(again, name), getattr(before, name))
    os.utime(shards[1], (1, 1))
    open_patches(tmp_path, "breast", "phantom")
    assert read == [*shards, shards[1]]
    content = bytearray(shards[0].read_bytes())
    content[-1] ^= 1
    shards[0].write_bytes(content)
    with pytest.raises(InputError, match=shards[0].name):
        open_patches(tmp_path, "breast", "phantom")
