"""The private folder of a page: nobody else may enter it, and it goes away, also after a kill."""

import errno
import os
import signal
import subprocess
import sys
import tempfile

import pytest

from mtseg.errors import InputError
from mtseg.system import atomic_files
from mtseg.viewer.private_folder import private_folder


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_others_cannot_enter_it_and_it_goes_away():
    with private_folder() as folder:
        (folder / "scan.nii").write_bytes(b"scan")
        assert folder.parent.stat().st_mode & 0o777 == 0o700
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()


def test_two_pages_have_two_folders():
    with private_folder() as first, private_folder() as second:
        assert first != second
        assert first.is_dir()


def test_what_a_killed_page_left_is_removed_at_the_next_start(temporary):
    code = (
        "import time\n"
        "from mtseg.viewer.private_folder import private_folder\n"
        "with private_folder() as folder:\n"
        "    (folder / 'scan.nii').write_bytes(b'scan')\n"
        "    print(folder, flush=True)\n"
        "    time.sleep(60)\n"
    )
    page = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(temporary)},
    )  # fmt: skip
    left = page.stdout.readline().strip()
    with private_folder():
        assert os.path.isfile(f"{left}/scan.nii")  # its page is alive
    page.send_signal(signal.SIGKILL)
    page.communicate()
    assert os.path.isfile(f"{left}/scan.nii")
    with private_folder():
        assert not os.path.exists(left)


def test_on_a_disk_without_locks_another_page_keeps_its_scans(monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(atomic_files.fcntl, "flock", flock)
    with private_folder() as first:
        (first / "scan.nii").write_bytes(b"scan")
        with private_folder() as second:
            assert second != first
            assert (first / "scan.nii").read_bytes() == b"scan"
    assert not first.exists()


def test_a_folder_that_somebody_else_prepared_is_refused(temporary):
    (temporary / f"mtseg-view-{os.getuid()}").symlink_to(temporary)
    with pytest.raises(InputError, match="not a private folder"), private_folder():
        pass


def test_a_folder_that_others_can_enter_is_refused(temporary):
    folder = temporary / f"mtseg-view-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o755)
    with pytest.raises(InputError, match="not a private folder"), private_folder():
        pass
