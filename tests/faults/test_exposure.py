"""Nothing is sent, nothing listens beyond this machine, and no secret is shown."""

import re
import shlex
import subprocess

import pytest

from tests.faults.forked_commands import ROOT, Forked
from tests.faults.outputs import content_of
from tests.faults.small_work import at_least, spell

pytestmark = pytest.mark.promise("loopback only")


@pytest.fixture(scope="module")
def cut_off():
    """A process that can reach no other machine, and not even this one."""
    with Forked(no_network=True) as forked:
        yield forked


def attempts_of_all(cut_off, folder):
    """How often a process there has wanted to reach an address of IPv4, also a child or C code.

    The kernel counts what it has no route for; a name is asked of a server, which counts, too.
    """
    path = folder / "counters"
    cut_off.do(f"cat /proc/self/net/snmp > {shlex.quote(str(path))}")
    lines = path.read_text().splitlines()
    path.unlink()
    titles, values = (line.split() for line in lines if line.startswith("Ip:"))
    return int(values[titles.index("OutNoRoutes")])


@pytest.mark.slow
@pytest.mark.parametrize("command", at_least("train", "predict"))
def test_commands_need_no_network_and_try_none(cut_off, places, tmp_path, command):
    before = attempts_of_all(cut_off, tmp_path)
    code, _, err, *_ = cut_off.run(spell(command, places, tmp_path), tmp_path)
    assert code == 0, err
    assert cut_off.connections == []
    assert attempts_of_all(cut_off, tmp_path) == before
    assert content_of(tmp_path)


@pytest.mark.slow
def test_a_connection_would_be_noticed(cut_off, tmp_path):
    """What the test before counts on."""
    address = "http://127.0.0.1:9/mtseg"
    (tmp_path / "scan.nii").touch()
    words = ["predict", tmp_path / "scan.nii", "--server", address, "-o", tmp_path / "out"]
    code, *_ = cut_off.run([*words, "--retries", "0"], tmp_path)
    assert code == 2
    assert any("127.0.0.1" in event for event in cut_off.connections)


@pytest.mark.slow
def test_a_connection_of_a_process_that_a_command_starts_would_be_noticed(cut_off, tmp_path):
    before = attempts_of_all(cut_off, tmp_path)
    connect = "import socket; socket.socket().connect_ex(('192.0.2.7', 80))"
    start = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {connect!r}])"
    code, *_ = cut_off.start(["predict", "--version"], prelude=start).finish()
    assert code == 0
    assert attempts_of_all(cut_off, tmp_path) == before + 1


def shown_files():
    """What users are shown: documents, templates and the code that prints."""
    listed = subprocess.run(
        ["git", "ls-files", "mtseg", "docs", "README.md", "notebooks", "benchmarks"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    names = listed.stdout.split() or [str(p.relative_to(ROOT)) for p in ROOT.glob("mtseg/**/*.py")]
    suffixes = {".py", ".md", ".yaml", ".config", ".ipynb", ".toml"}
    return [path for path in map(ROOT.joinpath, names) if path.suffix in suffixes]


def test_nothing_that_is_shown_listens_to_other_machines():
    for path in shown_files():
        text = path.read_text()
        assert "0.0.0.0" not in text, path
        assert "--bind_all" not in text, path


def test_published_ports_are_those_of_this_machine():
    text = (ROOT / "mtseg" / "serving" / "files" / "compose.yaml").read_text()
    ports = re.findall(r'^\s*- "([^"]*:\d+)"', text, re.MULTILINE)
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
