"""TFRecord files byte by byte: finding, linking and shuffling records."""

import os

import numpy as np
import pytest
import tensorflow as tf

from mtseg.records.shards import data_offsets, find_frames, link_shards, write_shards

RECORDS = [[b"a", b"bb"], [b"ccc", b"", b"eeeee"]]


@pytest.fixture
def files(tmp_path):
    """Two files of records, written by TensorFlow."""
    paths = [tmp_path / "one", tmp_path / "two"]
    for path, records in zip(paths, RECORDS, strict=True):
        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in records:
                writer.write(record)
    return paths


def read(path):
    return [record.numpy() for record in tf.data.TFRecordDataset(str(path))]


def test_frames_are_16_bytes_longer_than_their_data(files):
    with files[1].open("rb") as file:
        assert find_frames(file.fileno()).tolist() == [[0, 19], [19, 16], [35, 21]]


def test_data_begin_after_12_bytes(files):
    lengths = np.array([len(record) for record in RECORDS[1]])
    offsets, end = data_offsets(lengths)
    assert offsets.tolist() == [12, 31, 47]
    assert end == files[1].stat().st_size == 56
    content = files[1].read_bytes()
    found = [content[o : o + n] for o, n in zip(offsets, lengths, strict=True)]
    assert found == RECORDS[1]


def test_offsets_continue_where_the_last_ones_ended():
    assert data_offsets(np.array([5]), start=35)[0].tolist() == [47]
    offsets, end = data_offsets(np.array([], int), start=35)
    assert (len(offsets), end) == (0, 35)


def test_an_empty_file_has_no_frames(tmp_path):
    (tmp_path / "empty").touch()
    with (tmp_path / "empty").open("rb") as file:
        assert find_frames(file.fileno()).shape == (0, 2)


@pytest.mark.parametrize("has_links", [True, False])
def test_each_file_becomes_a_shard(files, tmp_path, monkeypatch, has_links):
    if not has_links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links")))
    shards = [tmp_path / "shard-0", tmp_path / "shard-1"]
    assert link_shards(files, shards) == ([2, 3], 11)
    assert [read(shard) for shard in shards] == RECORDS
    assert shards[0].samefile(files[0]) == has_links


def test_records_are_shuffled_and_divided_equally(files, tmp_path):
    shards = [tmp_path / f"shard-{n}" for n in range(3)]
    counts, num_bytes = write_shards(files, shards, np.random.default_rng(0))
    assert (counts, num_bytes) == ([2, 2, 1], 11)
    shuffled = [record for shard in shards for record in read(shard)]
    assert sorted(shuffled) == sorted(RECORDS[0] + RECORDS[1])
    assert shuffled != RECORDS[0] + RECORDS[1]
