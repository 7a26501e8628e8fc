"""Commands killed at any moment and given again: the results of one that was let be."""

import contextlib
import functools
import random
import shutil

import pytest

from mtseg.records.prepared import prepared_dir
from mtseg.records.reading import read_volumes
from mtseg.records.schema import KINDS
from tests.end_to_end.test_served import start_front
from tests.faults.forked_commands import Forked
from tests.faults.outputs import content_of
from tests.faults.small_work import COMMANDS, make_places, spell
from tests.layout_files import NAMES, subject, write, write_folder, write_task

pytestmark = [pytest.mark.slow, pytest.mark.promise("goes on after a kill", kind="killed")]


def pytest_generate_tests(metafunc):
    if "number" in metafunc.fixturenames:
        metafunc.parametrize("number", range(50 if metafunc.config.getoption("--thorough") else 1))


@pytest.fixture(scope="module")
def forked():
    with Forked() as forked:
        yield forked


@pytest.fixture(scope="module")
def places(forked, tiny_data, serving_folder, tmp_path_factory):
    """What the commands read; the server is begun when a command first wants it."""
    root = tmp_path_factory.mktemp("killed")
    with contextlib.ExitStack() as stack:

        @functools.cache
        def server():
            front = start_front(serving_folder, root / "fault")
            return stack.enter_context(front).address()

        yield make_places(forked, tiny_data, serving_folder, root, server)


@pytest.fixture(scope="module")
def let_be(forked, places, tmp_path_factory):
    """What a command leaves that is not killed, the seconds and the changes of files it takes."""

    @functools.cache
    def run(command):
        out = tmp_path_factory.mktemp("let_be")
        code, _, err, seconds, changes = forked.run(spell(command, places, out), out)
        assert code == 0, err
        return content_of(out), seconds, changes

    return run


# Many scans, and those that a server computes, are written as one is; what is exported appears by
# one rename. Killing these is left to a thorough run.
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(name, marks=pytest.mark.thorough)
        if name in ("predict in bulk", "predict on a server", "export")
        else name
        for name in COMMANDS
    ],
)
def test_a_killed_command_given_again(forked, places, let_be, tmp_path, command, number):
    """Even numbers are killed before some change of a file, odd ones after some time."""
    wanted, seconds, changes = let_be(command)
    rng = random.Random(f"{command} {number}")
    these = spell(command, places, tmp_path)
    for _ in range(1 + (number % 5 == 4)):  # every fifth is killed twice
        if number % 2:
            killed = forked.run(these, tmp_path, after_seconds=rng.uniform(0, seconds))
        else:
            killed = forked.run(these, tmp_path, before_change=rng.randrange(changes))
        assert killed[0] in (0, -9), killed  # it may have come to its end before
    code, _, err, *_ = forked.run(these, tmp_path)
    assert code == 0, err
    assert "Traceback" not in err
    found = content_of(tmp_path)
    assert found.keys() == wanted.keys()
    for name, content in wanted.items():
        assert found[name] == content, name


def test_a_killed_update_leaves_the_old_or_the_new_records(forked, tmp_path, number):
    """Whoever reads next has one or the other of both kinds, and the same command resumes."""
    scans, out = write_folder(tmp_path / "scans"), tmp_path / "out"
    out.mkdir()
    write_task(tmp_path / "renal.toml")
    command = [
        "prepare", f"{tmp_path}/renal.toml:folder", "--manual-dir", scans, "--patches-per-class", 5,
        "--kinds", "patches,volumes",
        "--num-processes", 1 + number % 2, "--data-dir",
    ]  # fmt: skip

    def prepare(folder, *flags, **kill):
        return forked.run([*command, folder / "data", *flags], folder, **kill)

    def read(folder):
        """The names of subjects, split by split, and the shards of both kinds."""
        found = [prepared_dir(folder / "data", "renal", "folder", k) for k in KINDS]
        volumes = [read_volumes(folder / "data", "renal", "folder", s) for s in ("train", "test")]
        names = [[volume.name for volume in of_split] for of_split in volumes]
        return names, [{p.name: p.read_bytes() for p in f.glob("*-of-*")} for f in found]

    def split(test):
        lines = [f"{name},{'test' if name == test else 'train'}" for name in NAMES]
        (scans / "split.csv").write_text("\n".join(["subject,split", *lines]))

    split("a5")
    assert prepare(out)[0] == 0
    old = read(out)
    split("a1")
    write(scans / "labels" / "a2.nii.gz", subject(7)[1])
    done = tmp_path / "done"
    shutil.copytree(out, done)
    code, _, err, seconds, changes = prepare(done, "--update")
    assert code == 0, err
    new = read(done)
    assert new[0] == [["a2", "a3", "a4", "a5"], ["a1"]]
    rng = random.Random(number)
    for _ in range(4):
        killed = tmp_path / "killed"
        shutil.copytree(out, killed)
        if rng.random() < 0.2:
            code = prepare(killed, "--update", after_seconds=rng.uniform(0, seconds))[0]
        else:
            code = prepare(killed, "--update", before_change=rng.randrange(changes))[0]
        assert code in (0, -9)
        assert read(killed) in (old, new)
        code, _, err, *_ = prepare(killed, "--update")
        assert code == 0, err
        assert read(killed) == new
        assert content_of(killed).keys() == content_of(done).keys()
        shutil.rmtree(killed)
