"""Commands where something that they count on is scarce: one line, or it does not matter."""

import os
import stat
import subprocess
import sys
import threading

import numpy as np
import pytest

from tests.faults.forked_commands import ROOT, Forked
from tests.faults.outputs import content_of
from tests.faults.small_work import COMMANDS, LOCAL, at_least, spell

pytestmark = [pytest.mark.slow, pytest.mark.promise("scarcity is one line")]


@pytest.fixture(scope="module")
def wanted(forked, places, tmp_path_factory):
    """What each command leaves where nothing is scarce; each is run when it is first asked for."""

    class Wanted(dict):
        def __missing__(self, name):
            self[name] = leave(forked, name, places, tmp_path_factory.mktemp("wanted"))
            return self[name]

    return Wanted()


def leave(forked, command, places, out):
    """Runs a command that is to succeed; what it leaves."""
    code, _, err, *_ = forked.run(spell(command, places, out), out)
    assert code == 0, err
    assert "Traceback" not in err
    return content_of(out)


def refusal(forked, command, places, out, folder):
    """Runs a command that is to be refused; its line."""
    code, _, err, *_ = forked.run(spell(command, places, out), folder)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    # Of several scans each has its line.
    assert (code, len(lines)) == (2, 3 if "bulk" in command else 1), err
    assert "Traceback" not in err
    return lines[0]


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory):
    """A process that has a disk of its own, and where that is."""
    disk = tmp_path_factory.mktemp("disk")
    with Forked(f"mount -t tmpfs -o size=40m tmpfs {disk}") as forked:
        yield forked, disk


@pytest.mark.parametrize("command", at_least("predict"))
def test_a_full_disk_a_disk_that_may_not_be_written_and_then_room(
    small_disk, places, wanted, tmp_path, command
):
    forked, disk = small_disk
    out = disk / command.replace(" ", "_")
    forked.do(f"mkdir {out}; dd if=/dev/zero of={disk}/filler bs=4k status=none; true")
    line = refusal(forked, command, places, out, tmp_path)
    assert "No space left" in line or "free" in line, line
    forked.do(f"rm {disk}/filler; mount -o remount,ro {disk}")
    assert "Read-only file system" in refusal(forked, command, places, out, tmp_path)
    forked.do(f"mount -o remount,rw {disk}")
    code, _, err, *_ = forked.run(spell(command, places, out), tmp_path)
    assert code == 0, err
    copy = tmp_path / "copy"
    forked.do(f"cp -r {out} {copy}; rm -rf {out}")
    found = content_of(copy)
    assert found.keys() == wanted[command].keys()  # and nothing half-written


SURROUNDINGS = {
    "one core": ({"shell": "taskset -p -c 0 $$ > /dev/null"}, {}),
    "no shared memory": ({"shell": "mount -t tmpfs -o size=4k,ro tmpfs /dev/shm"}, {}),
    "no home folder": ({}, {"HOME": None}),
    "a home folder that is not there": ({}, {"HOME": "/nowhere/at/all", "USER": None}),
    "a plain terminal": ({}, {"TERM": "dumb", "COLUMNS": "1"}),
    "no words but ASCII": ({}, {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0"}),
}


@pytest.mark.thorough
@pytest.mark.parametrize("surrounding", SURROUNDINGS)
def test_what_does_not_matter(places, wanted, tmp_path, surrounding):
    arguments, environment = SURROUNDINGS[surrounding]
    with Forked(**arguments, **environment) as forked:
        for command in ("prepare", "train", "predict"):
            out = tmp_path / command
            out.mkdir()
            found = leave(forked, command, places, out)
            assert found.keys() == wanted[command].keys()
            if command != "train":  # one core may add in another order
                assert found == wanted[command]


@pytest.mark.thorough
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_files_have_the_permissions_that_the_user_asks_for(places, tmp_path, mask, mode):
    with Forked(f"umask {mask:o}") as forked:
        for command in LOCAL:
            out = tmp_path / command.replace(" ", "_")
            out.mkdir()
            leave(forked, command, places, out)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 50
    modes = {str(path): oct(stat.S_IMODE(path.stat().st_mode)) for path in files}
    assert set(modes.values()) == {oct(mode)}, {k: v for k, v in modes.items() if v != oct(mode)}


@pytest.mark.thorough
@pytest.mark.parametrize("command", LOCAL)
def test_a_clock_that_jumps_back(forked, places, wanted, tmp_path, command):
    """What is there already is then of a time to come; the same command again still ends well."""
    leave(forked, command, places, tmp_path)
    for path in tmp_path.rglob("*"):
        os.utime(path, (4e9, 4e9))
    found = leave(forked, command, places, tmp_path)
    assert found.keys() == wanted[command].keys()


SCRIPT = "import sys; from mtseg.cli.{} import main; sys.exit(main())"


@pytest.mark.parametrize(
    "command",
    ["predict", *(pytest.param(n, marks=pytest.mark.thorough) for n in ("prepare", "evaluate"))],
)
@pytest.mark.parametrize(
    "ending",
    [
        "> /dev/full",
        *(
            pytest.param(one, marks=pytest.mark.thorough)
            for one in (">&-", "2>&-", ">&- 2>&-", "< /dev/null | true")
        ),
    ],
)  # fmt: skip
def test_an_output_that_is_closed(places, tmp_path, command, ending):
    name, *words = spell(command, places, tmp_path)
    run = [sys.executable, "-c", SCRIPT.format(name), *words]
    result = subprocess.run(
        ["bash", "-c", f'set -o pipefail; "$@" {ending}', "bash", *run],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("command", ["predict", "train", "export", "prepare"])
def test_a_help_that_nobody_reads(command):
    run = [sys.executable, "-c", SCRIPT.format(command), "--help"]
    result = subprocess.run(
        ["bash", "-c", '"$@" | true', "bash", *run],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.stderr == ""


@pytest.mark.thorough
def test_little_memory_is_what_a_scan_is_divided_for(places, tmp_path):
    """The address space is limited as `ulimit -v` and batch systems do it."""
    import nibabel as nib

    nib.save(nib.Nifti1Image(np.ones((90, 90, 90), np.int16), np.eye(4)), tmp_path / "scan.nii")
    big = tmp_path / "big.nii"
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)), big)
    with big.open("r+b") as file:
        file.seek(42)
        file.write(np.array([1000] * 3, "<i2").tobytes())
        file.truncate(352 + 1000**3)
    with Forked("ulimit -v 12000000") as forked:
        words = ["--model", str(places["MODEL"]()), "-o", str(tmp_path / "out")]
        code, _, err, *_ = forked.run(["predict", str(big), *words], tmp_path)
        assert code == 2, err
        assert "GB" in err
        code, _, err, *_ = forked.run(["predict", str(tmp_path / "scan.nii"), *words], tmp_path)
        assert code == 0, err


@pytest.mark.promise("one at a time")
@pytest.mark.thorough
@pytest.mark.parametrize("command", LOCAL)
def test_two_commands_at_once(places, wanted, tmp_path, command):
    """The second is refused, or waits, or does the same: never a mixture."""
    out, codes, errors = tmp_path / "out", [], []
    out.mkdir()
    with Forked() as first, Forked() as second:

        def work(forked, folder):
            folder.mkdir()
            code, _, err, *_ = forked.run(spell(command, places, out), folder)
            codes.append(code)
            errors.append(err)

        threads = [
            threading.Thread(target=work, args=(forked, tmp_path / name))
            for forked, name in ((first, "a"), (second, "b"))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(codes) in ([0, 0], [0, 2]), errors
    assert "Traceback" not in "".join(errors)
    if 2 in codes:
        assert any("Wait for it" in error for error in errors), errors
    found = content_of(out)
    assert found.keys() == wanted[command].keys()
    for name, content in wanted[command].items():
        assert found[name] == content, name


@pytest.mark.thorough
def test_two_commands_at_once_on_two_sources_of_a_task(places, tmp_path):
    """They share a folder of TFDS's and nothing else: both end well."""
    data_dir = tmp_path / "data"
    codes = []
    with Forked() as first, Forked() as second:

        def work(forked, task):
            folder = tmp_path / task
            folder.mkdir()
            words = [COMMANDS["prepare"].replace("breast", task).replace("OUT/data", str(data_dir))]
            codes.append(forked.run(words[0].split(), folder)[0])

        threads = [
            threading.Thread(target=work, args=pair)
            for pair in ((first, "breast"), (second, "cta"))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert codes == [0, 0]
    assert {path.name for path in data_dir.glob("mtseg_*")} == {"mtseg_breast", "mtseg_cta"}
