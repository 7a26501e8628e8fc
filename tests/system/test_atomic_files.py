"""Files written aside: whole or not at all, and nothing left of who was killed."""

import contextlib
import os
import subprocess
import sys
import threading
import time

import pytest

from mtseg.errors import InputError
from mtseg.system import atomic_files as module
from mtseg.system.atomic_files import LOCK, atomic_write, empty_folder, lock_folder, temporary_path

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
    with atomic_write(tmp_path / "a.json") as aside:
        aside.write_text("new")
        assert aside.name.endswith("a.json")
        assert not (tmp_path / "a.json").exists()
    assert names(tmp_path) == ["a.json"]


def test_what_fails_leaves_the_file_before(tmp_path):
    (tmp_path / "a.json").write_text("old")
    with contextlib.suppress(ValueError), atomic_write(tmp_path / "a.json") as aside:
        aside.write_text("half")
        raise ValueError
    assert names(tmp_path) == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "old"


def test_a_folder_appears_whole(tmp_path):
    with atomic_write(tmp_path / "7") as aside:
        aside.mkdir()
        (aside / "file").touch()
    assert names(tmp_path) == ["7"]


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path, dead):
    kept = [f".{os.getppid()}.a[1].json", f".{dead}.b.json", f".x{dead}.a[1].json", "a[1].json"]
    for name in (f".{dead}.a[1].json", *kept):
        (tmp_path / name).touch()
    (tmp_path / f".{dead}.7").mkdir()
    temporary_path(tmp_path / "a[1].json")
    temporary_path(tmp_path / "7")
    assert names(tmp_path) == sorted(kept)


def test_what_an_earlier_process_of_the_same_number_left_is_removed(tmp_path):
    """In a container every command may be process 1."""
    (tmp_path / f".{os.getpid()}.7").mkdir()
    with atomic_write(tmp_path / "7") as aside:
        aside.mkdir()
    assert names(tmp_path) == ["7"]


def test_a_full_disk_names_the_file_that_was_wanted(tmp_path):
    for raised in (OSError(28, "full"), OSError(28, "full", str(temporary_path(tmp_path / "a")))):
        with pytest.raises(OSError, match="full") as caught, atomic_write(tmp_path / "a"):
            raise raised
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
        "import os, sys; from pathlib import Path; from mtseg.aside import hold\n"
        "with hold(Path(sys.argv[1]), ''): os.kill(os.getpid(), 9)"
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
    with lock_folder(tmp_path, "held"):
        pass
