"""Free memory is the least of what the machine has and what its limits leave."""

import subprocess
import sys

import pytest

from mtseg.system import hardware

pytestmark = pytest.mark.promise("bounded memory")


@pytest.fixture
def cgroups(tmp_path, monkeypatch):
    """The groups of a batch job: its own within that of its node."""
    own = tmp_path / "slurm" / "job"
    own.mkdir(parents=True)
    monkeypatch.setattr(hardware, "_CGROUPS", tmp_path)
    monkeypatch.setattr(hardware, "_own_cgroups", lambda: [own, own.parent, tmp_path])
    return own


def set_limit(folder, limit, used):
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")


def test_a_groups_limit_is_all_that_there_is(cgroups):
    set_limit(cgroups, 1_000_000, 300_000)
    assert hardware.total_bytes() == 1_000_000
    assert hardware.free_bytes() == 700_000


def test_the_least_of_several_limits_counts(cgroups):
    set_limit(cgroups, "max", 300_000)
    set_limit(cgroups.parent, 500_000, 450_000)
    assert hardware.total_bytes() == 500_000
    assert hardware.free_bytes() == 50_000
    set_limit(cgroups, 400_000, 390_000)
    assert hardware.free_bytes() == 10_000


def test_files_that_were_read_make_room(cgroups):
    set_limit(cgroups, 1_000_000, 900_000)
    (cgroups / "memory.stat").write_text("anon 300000\ninactive_file 500000\nactive_file 100000\n")
    assert hardware.free_bytes() == 600_000


def test_without_limits_it_is_the_machines(cgroups):
    assert 0 < hardware.free_bytes() <= hardware.total_bytes()


def test_the_groups_of_this_process_are_found():
    assert hardware._own_cgroups()[-1] == hardware._CGROUPS


def test_a_limit_of_the_process(tmp_path):
    code = "from mtseg.system import hardware as h; print(h.total_bytes(), h.free_bytes())"
    limit = 2_048_000_000

    shell = f'ulimit -v {limit // 1024}; exec "$0" -c "$1"'
    result = subprocess.run(
        ["sh", "-c", shell, sys.executable, code], capture_output=True, text=True, check=True
    )
    total, free = map(int, result.stdout.split())
    assert total == limit
    assert limit / 2 < free < limit
