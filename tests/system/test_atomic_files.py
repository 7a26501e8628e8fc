"""Files that appear whole or not at all, and locks that end with their process."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from mtseg.errors import InputError
from mtseg.system import atomic_files as module
from mtseg.system.atomic_files import (
    LOCK,
    atomic_write,
    empty_folder,
    lock_folder,
    parse_json,
    temporary_path,
    writing_to,
)

pytestmark = pytest.mark.promise("atomic outputs")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def dead():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_file_appears_whole(tmp_path):
    with atomic_write(tmp_path / "a.json") as temporary:
        temporary.write_text("new")
        assert temporary.name.endswith("a.json")
        assert not (tmp_path / "a.json").exists()
    assert names(tmp_path) == ["a.json"]


def test_what_fails_leaves_the_file_before(tmp_path):
    (tmp_path / "a.json").write_text("old")
    with contextlib.suppress(ValueError), atomic_write(tmp_path / "a.json") as temporary:
        temporary.write_text("half")
        raise ValueError
    assert names(tmp_path) == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "old"


def test_a_folder_appears_whole(tmp_path):
    with atomic_write(tmp_path / "7") as temporary:
        temporary.mkdir()
        (temporary / "file").touch()
    assert names(tmp_path) == ["7"]


def temporary_name(path, process):
    """The temporary name of `path` for a process with that number on this machine."""
    return temporary_path(path).name.replace(f"-{os.getpid()}.", f"-{process}.")


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path, dead):
    kept = [
        temporary_name(tmp_path / "a[1].json", os.getppid()),  # that process is alive
        temporary_name(tmp_path / "b.json", dead),  # another file
        f".x-{dead}.a[1].json",  # a file of the user
        "a[1].json",
    ]
    for name in (temporary_name(tmp_path / "a[1].json", dead), *kept):
        (tmp_path / name).touch()
    (tmp_path / temporary_name(tmp_path / "7", dead)).mkdir()
    temporary_path(tmp_path / "a[1].json")
    temporary_path(tmp_path / "7")
    assert names(tmp_path) == sorted(kept)


def test_what_an_earlier_process_of_the_same_number_left_is_removed(tmp_path, monkeypatch):
    """In a container every command may be process 1."""
    with monkeypatch.context() as earlier:
        earlier.setattr(module, "_TOKEN", "0123abcd")
        left = temporary_path(tmp_path / "7")
    left.mkdir()
    # As versions before wrote it.
    (tmp_path / left.name.replace(left.name.split("-")[1] + "-", "")).mkdir()
    assert len(names(tmp_path)) == 2
    with atomic_write(tmp_path / "7") as temporary:
        temporary.mkdir()
    assert names(tmp_path) == ["7"]


def test_threads_that_write_the_same_file_at_once_each_write_it_whole(tmp_path):
    """The page does so if two browsers ask for the same zip file."""
    with atomic_write(tmp_path / "a") as first:
        first.write_text("first")
        with atomic_write(tmp_path / "a") as second:
            second.write_text("second")
        assert first.read_text() == "first"
        assert (tmp_path / "a").read_text() == "second"
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "first"


def test_a_file_that_another_machine_may_be_writing_is_kept_for_a_day(tmp_path, dead):
    """On a shared disk: only that machine knows whether its process is alive."""
    theirs = tmp_path / f".0123abcd-{dead}.a.json"
    theirs.write_text("half")
    temporary_path(tmp_path / "a.json")
    assert names(tmp_path) == [theirs.name]
    yesterday = time.time() - 25 * 3600
    os.utime(theirs, (yesterday, yesterday))
    temporary_path(tmp_path / "a.json")
    assert names(tmp_path) == []


def test_an_error_of_the_disk_is_one_line(tmp_path):
    with pytest.raises(InputError) as caught, writing_to(tmp_path / "a", "Make room."):
        raise OSError(28, "No space left on device")
    expected = f"{tmp_path / 'a'}: cannot be written (No space left on device). Make room."
    assert str(caught.value) == expected
    named = f"{tmp_path / 'b'}: cannot be written (Read-only file system). Make room."
    with (
        pytest.raises(InputError, match="b: cannot") as caught,
        writing_to(tmp_path / "a", "Make room."),
    ):
        raise OSError(30, "Read-only file system", str(tmp_path / "b"))
    assert str(caught.value) == named
    for silent in (OSError(), TimeoutError("")):
        with pytest.raises(InputError, match=type(silent).__name__), writing_to(tmp_path, "Wait."):
            raise silent
    with pytest.raises(ValueError, match="defect"), writing_to(tmp_path / "a", "Make room."):
        raise ValueError("a defect of ours")


def test_a_full_disk_names_the_file_that_was_wanted(tmp_path):
    for is_named in (False, True):
        with (
            pytest.raises(OSError, match="full") as caught,
            atomic_write(tmp_path / "a") as temporary,
        ):
            raise OSError(28, "full", str(temporary) if is_named else None)
        assert caught.value.filename == str(tmp_path / "a")


def test_emptying_a_folder_that_is_held_leaves_its_lock(tmp_path):
    with lock_folder(tmp_path):
        (tmp_path / "folder").mkdir()
        (tmp_path / "file").touch()
        empty_folder(tmp_path)
        assert names(tmp_path) == [LOCK]
    assert names(tmp_path) == []


def test_a_folder_that_is_held_is_refused_to_others(tmp_path):
    with lock_folder(tmp_path, "held"):
        with pytest.raises(InputError, match="held"), lock_folder(tmp_path, "held"):
            pass
        assert names(tmp_path) == [LOCK]
    with lock_folder(tmp_path, "held"):
        pass
    assert names(tmp_path) == []


def test_a_lock_of_a_killed_process_stops_nobody(tmp_path):
    code = (
        "import os, sys; from pathlib import Path\n"
        "from mtseg.system.atomic_files import lock_folder\n"
        "with lock_folder(Path(sys.argv[1]), ''): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    assert names(tmp_path) == [LOCK]
    with lock_folder(tmp_path, "held"):
        pass


def test_waiting_for_whoever_holds_a_folder(tmp_path):
    events = []

    def second():
        with lock_folder(tmp_path):
            events.append("second")

    with lock_folder(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.3)
        events.append("first")
    thread.join(timeout=30)
    assert events == ["first", "second"]
    assert names(tmp_path) == []


def test_a_disk_that_knows_no_locks_is_written_all_the_same(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(module.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(module.fcntl, "flock", flock)
    with lock_folder(tmp_path, "held") as is_locked:
        assert is_locked is False


def test_json_that_is_nested_too_deeply_is_no_json():
    assert parse_json('{"a": [1]}') == {"a": [1]}
    with pytest.raises(json.JSONDecodeError, match="nested too deeply"):
        parse_json("[" * 100_000 + "]" * 100_000)
