"""What was read of a file is remembered until the file changes."""

import os
import time

import numpy as np
import pytest

from mtseg.provenance.verified import describe_files, recall, remember


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        path.write_bytes(b"1234")
        settle(path)
    return paths


def settle(path, seconds=10):
    """Makes a file as old as the disk's clock needs to tell apart two changes."""
    past = time.time() - seconds
    os.utime(path, (past, past))


@pytest.fixture
def remembered(files, tmp_path):
    arrays = {
        "a": {"numbers": np.arange(6).reshape(2, 3), "texts": np.array(["x", "yz"])},
        "b": {"numbers": np.empty((2, 0), np.int64)},
    }
    remember(tmp_path / "m", describe_files(files), arrays)
    return tmp_path / "m"


STORED = {
    "a": {"numbers": [[0, 1, 2], [3, 4, 5]], "texts": ["x", "yz"]},
    "b": {"numbers": [[], []]},
}


def as_lists(found):
    return {name: {k: v.tolist() for k, v in arrays.items()} for name, arrays in found.items()}


def test_arrays_come_back(remembered, files):
    assert as_lists(recall(remembered, describe_files(files))) == STORED


def test_a_damaged_memory_is_empty(remembered, files):
    whole, states = remembered.read_bytes(), describe_files(files)
    in_list = whole.index(b"PK\x01\x02")  # the list of the archive's files
    for place, bit in ((in_list + 6, 0x40), (in_list + 8, 1), (in_list + 8, 0x20), (0, 1)):
        damaged = bytearray(whole)
        damaged[place] ^= bit
        remembered.write_bytes(damaged)
        assert not recall(remembered, states)
    with remembered.open("wb") as file:
        np.save(file, np.arange(3))  # not an archive
    assert not recall(remembered, states)


def write_again(path):
    path.write_bytes(b"4321")


def replace_keeping_size_and_time(path):
    """The inode differs."""
    times = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"4321")
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize("change", [write_again, replace_keeping_size_and_time])
def test_a_changed_file_is_forgotten(remembered, files, change):
    change(files[0])
    assert list(recall(remembered, describe_files(files))) == ["b"]


def test_a_file_of_just_now_is_not_remembered(files, tmp_path):
    files[0].touch()
    arrays = {key: {"numbers": np.zeros((2, 1), np.int64)} for key in ("a", "b")}
    remember(tmp_path / "m", describe_files(files), arrays)
    assert list(recall(tmp_path / "m", describe_files(files))) == ["b"]


@pytest.mark.parametrize("place", [0, 0.2, 0.5, 0.9])
def test_a_damaged_memory_is_no_memory(remembered, files, place):
    content = bytearray(remembered.read_bytes())
    content[int(place * len(content))] ^= 4
    remembered.write_bytes(content)
    for name, arrays in as_lists(recall(remembered, describe_files(files))).items():
        assert arrays == STORED[name]
    remembered.write_bytes(b"")
    assert recall(remembered, describe_files(files)) == {}


def test_a_folder_that_cannot_be_written_is_left_alone(files, tmp_path):
    arrays = {key: {"numbers": np.zeros((2, 1), np.int64)} for key in ("a", "b")}
    remember(tmp_path / "no folder" / "m", describe_files(files), arrays)
    assert recall(tmp_path / "no folder" / "m", describe_files(files)) == {}
