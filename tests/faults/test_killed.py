"""Commands killed at any moment and given again: the results of one that was let be."""

import contextlib
import functools
import random

import pytest

from tests.end_to_end.test_served import start_front
from tests.faults.forked_commands import Forked
from tests.faults.outputs import content_of
from tests.faults.small_work import COMMANDS, make_places, spell

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
    found = content_of(tmp_path)
    assert found.keys() == wanted.keys()
    for name, content in wanted.items():
        assert found[name] == content, name
