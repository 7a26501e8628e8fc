"""Commands killed at any moment and given again: the results of one that was let be."""

import contextlib
import functools
import random
import shutil

import nibabel as nib
import pytest

from mtseg.phantoms import make_phantom
from tests.end_to_end.test_served import start_front
from tests.faults.forked_commands import Forked
from tests.faults.outputs import content_of

pytestmark = [pytest.mark.slow, pytest.mark.promise("goes on after a kill", kind="killed")]

SMALL = "--size 32 --num-train 2 --num-test 1 --patches-per-class 12 --num-processes 2"
SHORT = "--global-batch-size 4 --keep 1 --checkpoint-every 1 --evaluate-every 2 --deterministic"

COMMANDS = {
    "prepare": f"prepare breast --data-dir OUT/data {SMALL}",
    "train": f"train --tasks breast --data-dir DATA --workdir OUT {SHORT} --minibatches-per-task 4",
    "evaluate": "evaluate RUN --json OUT/figures.json --csv OUT/figures.csv",
    "experiments": (
        f"experiments --tasks breast --data-dir DATA --out OUT/all {SHORT} --minibatches-per-task 2"
    ),
    "export": "export RUN --serving OUT/models --keep 1",
    "predict": "predict SCANS/1000.nii.gz --model MODEL -o OUT --probabilities",
    "predict on a server": "predict SCANS/1000.nii.gz --server SERVER -o OUT",
    "predict in bulk": "predict SCANS --model MODEL -o OUT --probabilities",
}
"""Each command, in words that stand for paths."""


def pytest_generate_tests(metafunc):
    if "number" in metafunc.fixturenames:
        metafunc.parametrize("number", range(50 if metafunc.config.getoption("--thorough") else 2))


@pytest.fixture(scope="module")
def forked():
    with Forked() as forked:
        yield forked


@pytest.fixture(scope="module")
def places(forked, tiny_data, serving_folder, random_run, tmp_path_factory):
    """What the commands read; the server is begun when a command first wants it."""
    root = tmp_path_factory.mktemp("killed")
    run, scans = root / "run", root / "scans"
    these = COMMANDS["train"].replace("OUT", str(run)).replace("DATA", str(tiny_data.data_dir))
    code, _, err, *_ = forked.run(these.split(), root)
    assert code == 0, err
    scans.mkdir()
    for number in range(1000, 1003):
        phantom = make_phantom("breast", number, 32)
        nib.save(nib.Nifti1Image(phantom.image, phantom.affine), scans / f"{number}.nii.gz")
    with contextlib.ExitStack() as stack:

        @functools.cache
        def server():
            front = start_front(serving_folder, root / "fault")
            return stack.enter_context(front).address()

        yield {
            "DATA": lambda: tiny_data.data_dir, "RUN": lambda: run, "SCANS": lambda: scans,
            "MODEL": lambda: serving_folder / "mtseg", "SERVER": server,
        }  # fmt: skip


@pytest.fixture(scope="module")
def let_be(forked, places, tmp_path_factory):
    """What a command leaves that is not killed, the seconds and the changes of files it takes."""

    @functools.cache
    def run(command):
        out = tmp_path_factory.mktemp("let_be")
        code, _, err, seconds, changes = forked.run(spell(command, places, out), out)
        assert code == 0, err
        shutil.rmtree(out / "tmp")
        return content_of(out), seconds, changes

    return run


def spell(command, places, out):
    return [
        functools.reduce(
            lambda word, name: word.replace(name, str(places[name]())),
            [name for name in places if name in word],
            word,
        ).replace("OUT", str(out))
        for word in COMMANDS[command].split()
    ]


@pytest.mark.parametrize("command", COMMANDS)
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
    shutil.rmtree(tmp_path / "tmp")
    found = content_of(tmp_path)
    assert found.keys() == wanted.keys()
    for name, content in wanted.items():
        assert found[name] == content, name
