"""Commands killed at any moment and given again: the results of one that was let be."""

import contextlib
import functools
import http.client
import json
import random
import shutil
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mtseg.models.export import export_weights
from mtseg.records.prepared import prepared_dir
from mtseg.records.reading import read_volumes
from mtseg.records.schema import KINDS
from tests.end_to_end.test_served import start_front
from tests.faults.forked_commands import Forked
from tests.faults.outputs import content_of
from tests.faults.small_work import KILLED, spell
from tests.layout_files import NAMES, subject, write, write_folder, write_task

pytestmark = [pytest.mark.slow, pytest.mark.promise("goes on after a kill", kind="killed")]


MOST_TESTS = 18
"""Of each command, with the whole `--scale`."""

KILLS = (1, 2, 3, 4)
"""Before a command may come to its end, from test to test: each kill meets what the last one left.
Several cost little more than one, because a killed command is short."""

UPDATE_KILLS = 4
"""Of an update, in each of a fourth as many tests."""


def pytest_generate_tests(metafunc):
    if "number" in metafunc.fixturenames:
        is_thorough = metafunc.config.getoption("--thorough")
        count = MOST_TESTS * metafunc.config.getoption("--scale") if is_thorough else 1
        if metafunc.function is test_a_killed_update_leaves_the_old_or_the_new_records:
            count /= UPDATE_KILLS
        metafunc.parametrize("number", range(max(1, round(count))))


@pytest.fixture(scope="module")
def on_jax(tmp_path_factory):
    """Forks commands where JAX trains. What is compiled once is read from then on."""
    compiled = str(tmp_path_factory.mktemp("compiled"))
    with Forked(
        KERAS_BACKEND="jax",
        JAX_COMPILATION_CACHE_DIR=compiled,
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
    ) as forked:
        yield forked


@pytest.fixture(scope="module")
def forked_for(forked, request):
    """A function from a command to the process that forks it."""

    def choose(command):
        return request.getfixturevalue("on_jax") if "JAX" in command else forked

    return choose


@pytest.fixture(scope="module")
def places(places, serving_folder, random_run, three_splits, tmp_path_factory):
    """With a server, which is begun when a command first wants it."""
    root = tmp_path_factory.mktemp("killed")
    with contextlib.ExitStack() as stack:

        @functools.cache
        def server():
            front = start_front(serving_folder, root / "fault")
            return stack.enter_context(front).address()

        @functools.cache
        def weights():
            return export_weights(random_run[0], root / "weights")

        yield places | {"SERVER": server, "SPLITS": lambda: three_splits, "WEIGHTS": weights}


@pytest.fixture(scope="module")
def let_be(forked_for, places, tmp_path_factory):
    """What a command leaves that is not killed, the seconds and the changes of files it takes."""

    @functools.cache
    def run(command):
        out = tmp_path_factory.mktemp("let_be")
        run = functools.partial(forked_for(command).run, spell(command, places, out), out)
        if "JAX" in command:  # compiles, which later runs do not
            assert run()[0] == 0
            shutil.rmtree(out)
            out.mkdir()
        code, _, err, seconds, changes = run()
        assert code == 0, err
        return content_of(out), seconds, changes

    return run


IN_BRIEF = "prepare", "predict"
"""Killed in every run of the tests. The rest is left to a thorough run: training and experiments
are killed in `tests/end_to_end` too; many scans, and those that a server computes, are written as
one is; figures appear by one rename, and so does what is exported."""


@pytest.mark.parametrize(
    "command",
    [
        name if name in IN_BRIEF else pytest.param(name, marks=pytest.mark.thorough)
        for name in KILLED
    ],
)
def test_a_killed_command_given_again(
    forked_for, places, let_be, tmp_path, command, number, record_property
):
    """It is killed before some change of a file or, every third time, after some time."""
    forked = forked_for(command)
    wanted, seconds, changes = let_be(command)
    rng = random.Random(f"{command} {number}")
    these = spell(command, places, tmp_path)
    num_killed = 0
    for _ in range(KILLS[number % len(KILLS)]):
        if rng.random() < 1 / 3:
            killed = forked.run(these, tmp_path, after_seconds=rng.uniform(0, seconds))
        else:
            killed = forked.run(these, tmp_path, before_change=rng.randrange(changes))
        assert killed[0] in (0, -9), killed  # it may have come to its end before
        num_killed += killed[0] == -9
    record_property("cases", num_killed)
    code, _, err, *_ = forked.run(these, tmp_path)
    assert code == 0, err
    assert "Traceback" not in err
    found = content_of(tmp_path)
    assert found.keys() == wanted.keys()
    for name, content in wanted.items():
        assert found[name] == content, name


def test_a_killed_update_leaves_the_old_or_the_new_records(
    forked, tmp_path, number, record_property
):
    """Whoever reads next has one or the other of both kinds, and the same command resumes."""
    record_property("cases", UPDATE_KILLS)
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
    for _ in range(UPDATE_KILLS):
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


def workers_of(forked):
    """The processes that compute for pages of that process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
            if (
                b"mtseg.viewer.worker" in words[0]
                and str(forked.temporary_dir).encode() in words[1]
            ):
                found.append(int(folder.name))
    return found


def wait_for(condition, seconds=120, pause_seconds=0.2):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "not in time"
        time.sleep(pause_seconds)
    return found


def url_of(page):
    """The address that a page has printed; None if there is none yet."""
    words = page.stdout_path.read_text().split()
    return next((word for word in words if word.startswith("http://")), None)


def download(url, path):
    """What a page answers."""
    address, _, place = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(address, timeout=20)
    connection.request("GET", f"/{place}{path}")
    content = connection.getresponse().read()
    connection.close()
    return content


@pytest.mark.thorough
def test_a_killed_page_leaves_nothing_to_the_next_one(forked, places, tmp_path, number):
    """No scan, no process; and the next page has the labels of the command."""
    scan = shutil.copy(places["SCANS"]() / "1000.nii.gz", tmp_path)
    argv = ["mtseg.viewer.command", scan, "--model", places["WEIGHTS"](), "--no-browser"]
    page = forked.start(argv)
    if not page.has_ended(random.Random(number).uniform(0, 10)):
        page.kill()
    assert page.finish()[0] == -9
    wait_for(lambda: not workers_of(forked))
    page = forked.start(argv)
    url = wait_for(lambda: url_of(page))

    def done():
        (state,) = json.loads(download(url, "state"))["scans"]
        assert state["state"] != "failed", state
        return state if state["state"] == "done" else None

    state = wait_for(done)
    (folder,) = [path for path in forked.temporary_dir.glob("mtseg-view-*/*") if path.is_dir()]
    labels = tmp_path / "page_labels.nii.gz"
    labels.write_bytes(download(url, f"scans/{state['id']}/1000_labels.nii.gz"))
    page.terminate()
    code, _, err = page.finish()
    assert (code, err) == (0, "")
    assert not folder.exists()
    wait_for(lambda: not workers_of(forked))
    predicted = ["predict", scan, "--model", places["WEIGHTS"](), "-o", tmp_path / "out"]
    assert forked.run(predicted, tmp_path)[0] == 0
    expected = nib.load(tmp_path / "out" / "1000_labels.nii.gz").get_fdata()
    np.testing.assert_array_equal(nib.load(labels).get_fdata(), expected)
