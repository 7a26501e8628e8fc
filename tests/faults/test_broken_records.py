"""Prepared records that are damaged, incomplete or of something else: noticed, and named."""

import contextlib
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from mtseg.batches.patch_records import open_patches
from mtseg.batches.pipeline import open_balanced_samples
from mtseg.errors import InputError
from mtseg.records.reading import read_volumes, require_scans
from mtseg.records.shards import read_array_record, write_array_record
from mtseg.tasks.label_space import parse_tasks
from tests.conftest import TINY

pytestmark = pytest.mark.promise("damage is noticed")


@pytest.fixture
def data_dir(tiny_data, tmp_path):
    shutil.copytree(tiny_data.data_dir / "mtseg_breast", tmp_path / "data" / "mtseg_breast")
    return tmp_path / "data"


def folder_of(data_dir, kind):
    (folder,) = data_dir.glob(f"mtseg_breast/phantom_{kind}/*")
    return folder


def read(data_dir, kind):
    """Reads what is prepared to its end."""
    if kind == "patches":
        return open_patches(data_dir, "breast", "phantom")
    return [list(read_volumes(data_dir, "breast", "phantom", split)) for split in ("train", "test")]


def refused(data_dir, kind, path):
    with pytest.raises(InputError) as caught:
        read(data_dir, kind)
    assert str(path) in str(caught.value)
    assert "mtseg-prepare" in str(caught.value)
    assert "\n" not in str(caught.value)


KINDS = pytest.mark.parametrize("kind", ["patches", "volumes"])


def flip_bit(shard, place):
    """Flips a bit of the byte at a place, which is a number of bytes or a share of the file."""
    content = bytearray(shard.read_bytes())
    content[int(place * len(content)) if isinstance(place, float) else place] ^= 4
    shard.write_bytes(content)


@pytest.mark.parametrize("place", [0, 8, 12, 0.3, 0.7, -4, -1])
def test_a_flipped_bit_in_patches(data_dir, place):
    """In the length, its checksum, the data (a share of the file) and the data's checksum."""
    shard, *_ = sorted(folder_of(data_dir, "patches").glob("*.tfrecord-*"))
    flip_bit(shard, place)
    refused(data_dir, "patches", shard)


@pytest.mark.parametrize("place", [64, 100, 0.1, 0.2, 0.3, 0.5])
def test_a_flipped_bit_in_volumes(data_dir, place):
    """In the header of the record and in its data."""
    shard, *_ = sorted(folder_of(data_dir, "volumes").glob("*.array_record-*"))
    flip_bit(shard, place)
    refused(data_dir, "volumes", shard)


@pytest.mark.parametrize("place", [0, 8, 30, 0.7, 0.75, 0.9, -65000, -65536, -4, -1])
def test_a_flipped_bit_between_the_data_of_volumes_changes_none(data_dir, place):
    """The signature of an array_record file, and what fills it up, are not read."""
    shard, *_ = sorted(folder_of(data_dir, "volumes").glob("*.array_record-*"))
    (before,) = read_volumes(data_dir, "breast", "phantom", "test")
    flip_bit(shard, place)
    with contextlib.suppress(InputError):  # what is read of it has a checksum
        (after,) = read_volumes(data_dir, "breast", "phantom", "test")
        assert np.array_equal(after.image, before.image)
        assert np.array_equal(after.class_index_map, before.class_index_map)


@KINDS
def test_a_shard_that_ends_too_soon(data_dir, kind):
    shard, *_ = sorted(folder_of(data_dir, kind).glob("*record-*"))
    os.truncate(shard, shard.stat().st_size - 100)
    refused(data_dir, kind, shard)


@KINDS
def test_a_shard_that_ends_too_soon_between_two_records(data_dir, kind):
    shard, *_ = sorted(folder_of(data_dir, kind).glob("*record-*"))
    if kind == "volumes":
        write_array_record(shard, list(read_array_record(shard))[:-1])
    else:
        records = [record.numpy() for record in tf.data.TFRecordDataset(str(shard))]
        with tf.io.TFRecordWriter(str(shard)) as writer:
            for record in records[:-1]:
                writer.write(record)
    refused(data_dir, kind, shard)


@KINDS
def test_an_empty_shard(data_dir, kind):
    shard, *_ = sorted(folder_of(data_dir, kind).glob("*record-*"))
    shard.write_bytes(b"")
    refused(data_dir, kind, shard)


@KINDS
def test_a_missing_shard(data_dir, kind):
    *_, shard = sorted(folder_of(data_dir, kind).glob("*record-*"))
    shard.unlink()
    refused(data_dir, kind, shard)


@KINDS
def test_a_shard_too_many(data_dir, kind):
    *_, shard = sorted(folder_of(data_dir, kind).glob("*record-*"))
    other = shard.with_name(f"mtseg_breast-train{shard.suffix.split('-')[0]}-00002-of-00003")
    shutil.copy(shard, other)
    refused(data_dir, kind, other)


@KINDS
def test_records_of_something_else(data_dir, kind):
    shard, *_ = sorted(folder_of(data_dir, kind).glob("*record-*"))
    if kind == "volumes":
        write_array_record(shard, [b"no example of ours"])
    else:
        with tf.io.TFRecordWriter(str(shard)) as writer:
            writer.write(b"no example of ours")
    refused(data_dir, kind, shard)


@KINDS
@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"splits": 3}'])
def test_descriptions_that_are_none(data_dir, kind, file, content):
    folder = folder_of(data_dir, kind)
    (folder / file).write_bytes(content)
    refused(data_dir, kind, folder)


def test_records_of_another_version_are_not_taken_for_ours(data_dir):
    folder = folder_of(data_dir, "volumes")
    folder.rename(folder.with_name("0.1.0"))
    refused(data_dir, "volumes", data_dir)


@KINDS
@pytest.mark.parametrize("file", ["metadata.json", "fingerprint.json"])
@pytest.mark.parametrize("content", ["", "{", "[3]"])
def test_settings_that_are_none(data_dir, kind, file, content, capsys):
    """They are asked for when the same is to be prepared again."""
    from mtseg.records.writing import prepare

    path = folder_of(data_dir, kind) / file
    path.write_text(content)
    (selection,) = parse_tasks("breast").selections
    with pytest.raises(InputError, match="--overwrite") as caught:
        prepare(selection.task, "phantom", data_dir, **TINY)
    assert str(path) in str(caught.value)
    prepare(selection.task, "phantom", data_dir, is_overwrite=True, num_processes=1, **TINY)
    assert read(data_dir, kind)


def test_training_counts_on_both_kinds(data_dir):
    shard, *_ = sorted(folder_of(data_dir, "volumes").glob("*-test.*record-*"))
    shard.unlink()
    with pytest.raises(InputError, match=shard.name):
        require_scans(data_dir, parse_tasks("breast"), "test")
    shard, *_ = sorted(folder_of(data_dir, "patches").glob("*record-*"))
    shard.unlink()
    with pytest.raises(InputError, match=shard.name):
        open_balanced_samples(str(data_dir), parse_tasks("breast"), 0, kind="patches")


def test_a_number_of_examples_that_is_not_there(data_dir):
    folder = folder_of(data_dir, "volumes")
    info = json.loads((folder / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = ["5"] * len(info["splits"][0]["shardLengths"])
    (folder / "dataset_info.json").write_text(json.dumps(info))
    refused(data_dir, "volumes", folder)
