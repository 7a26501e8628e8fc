"""Training that is killed, or loses a worker, ends as if nothing had happened."""

import contextlib
import json
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import ClassVar

import numpy as np
import pytest

from mtseg.runs.weights import load_trained
from tests.event_files import scalars_of
from tests.faults.forked_commands import forked_as_users_do

pytestmark = pytest.mark.slow

# The command as a process; Python that kills it at a chosen moment may be run before.
SCRIPT = "import sys; from mtseg.cli.train import main; sys.exit(main())"
DIE = "import os, signal\ndef die(*_): os.kill(os.getpid(), signal.SIGKILL)\n"

WHILE_A_CHECKPOINT_IS_WRITTEN = """
from mtseg.training import checkpoints
flush = checkpoints.sync_to_disk
checkpoints.sync_to_disk = lambda path: die() if ".step-4" in str(path.parent) else flush(path)
"""

WHILE_AN_OLD_ONE_IS_DELETED = """
from mtseg.training import checkpoints
checkpoints.shutil.rmtree = lambda path, **_: die() if ".old." in str(path) else None
"""

DURING_AN_EVALUATION = """
from mtseg.training import reporting
evaluate = reporting.evaluate_model
reporting.evaluate_model = lambda *a, on_scan, **k: evaluate(*a, on_scan=die, **k)
"""


class Command:
    """A training command in a process of its own, which the end of the test also ends."""

    running: ClassVar[list] = []

    def __init__(self, flags, kill="", **environment):
        self.process = forked_as_users_do().start(
            ["train", *flags], prelude=DIE + kill, **environment
        )
        self.running.append(self.process)

    def finish(self):
        """Exit code, standard output and standard error."""
        self.running.remove(self.process)
        code, out, err = self.process.finish()
        assert "Traceback" not in err, err[-3000:]
        return code, out, err

    def kill(self):
        self.process.kill()
        self.finish()


@pytest.fixture(autouse=True)
def nothing_is_left_running():
    yield
    while Command.running:
        process = Command.running.pop()
        process.kill()
        process.finish()


def wait_for(path, command):
    """Waits until a file is there, which the command is to write."""
    while not path.exists():
        assert not command.process.has_ended(), command.finish()
        time.sleep(0.05)


def flags(tiny_data, workdir, **changes):
    settings = {
        "tasks": "breast", "data-dir": tiny_data.data_dir, "workdir": workdir, "keep": 1,
        "minibatches-per-task": 10, "global-batch-size": 4, "evaluate-every": 6,
        "checkpoint-every": 2, "augment": "flip,intensity",
    }  # fmt: skip
    settings |= changes
    return [part for name, value in settings.items() for part in (f"--{name}", value)]


def weights_of(workdir):
    return load_trained(workdir).model.get_weights()


@pytest.mark.promise("exact resume")
def test_a_run_that_is_killed_again_and_again_has_the_weights_of_one_that_is_not(
    tiny_data, tmp_path, pytestconfig
):
    def command(name):
        return [*flags(tiny_data, tmp_path / name), "--deterministic"]

    assert Command(command("whole")).finish()[0] == 0
    rng = np.random.default_rng()
    for kill in (WHILE_A_CHECKPOINT_IS_WRITTEN, DURING_AN_EVALUATION, WHILE_AN_OLD_ONE_IS_DELETED):
        assert Command(command("killed"), kill).finish()[0] == -signal.SIGKILL
    for _ in range(2 if pytestconfig.getoption("--thorough") else 0):
        killed = Command(command("killed"))
        time.sleep(rng.uniform(1, 8))
        killed.kill()
    code, _, err = Command(command("killed")).finish()
    assert code == 0, err
    for a, b in zip(weights_of(tmp_path / "whole"), weights_of(tmp_path / "killed"), strict=True):
        np.testing.assert_array_equal(a, b)
    whole, killed = (
        json.loads((tmp_path / name / "learning_curve.json").read_text())
        for name in ("whole", "killed")
    )
    for point in whole + killed:
        assert point.pop("training_seconds") > 0
    assert whole == killed
    assert [path.name for path in (tmp_path / "killed" / "checkpoints").iterdir()] == ["step-10"]


# A disk of its own that a checkpoint does not fit on, then a larger one, then one that cannot be
# written. It is gone with the process. WORKDIR and the command are the arguments.
ON_A_SMALL_DISK = """
mount -t tmpfs -o size=2500k tmpfs "$0" || exit 99
"$@"; echo "full: $?"
find "$0" -name '.*' -mindepth 1
mount -o remount,ro "$0"; "$@"; echo "read-only: $?"
mount -o remount,rw,size=100m "$0"; "$@"; echo "room again: $?"
"""


@pytest.mark.thorough  # a disk that is full is in tests/training
@pytest.mark.promise("scarcity is one line")
def test_a_full_disk_and_one_that_cannot_be_written_are_one_line_and_the_run_goes_on(
    tiny_data, tmp_path
):
    if shutil.which("unshare") is None:
        pytest.skip("no disk can be made here: there is no unshare")
    workdir = tmp_path / "run"
    workdir.mkdir()
    these = map(str, flags(tiny_data, workdir))
    command = [sys.executable, "-c", SCRIPT, *these]
    shell = ["unshare", "--map-root-user", "--mount", "sh", "-c", ON_A_SMALL_DISK, workdir]
    result = subprocess.run([*shell, *command], capture_output=True, text=True, timeout=300)
    if result.returncode == 99 or "unshare:" in result.stderr:
        pytest.skip(f"no disk can be made here: {result.stderr.splitlines()[0]}")
    codes = re.findall("(full|read-only|room again): ([0-9]+)", result.stdout)
    assert codes == [("full", "2"), ("read-only", "2"), ("room again", "0")], result.stderr
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 2
    assert "No space left on device" in errors[0]
    assert "Read-only file system" in errors[1]
    assert not re.search(rf"{workdir}/.*/\.", result.stdout)  # Nothing half-written was left.


def free_ports():
    """Two that nobody listens at, one after the other, among those of Slurm's jobs."""
    while True:
        port = random.randrange(10_000, 19_999)
        with socket.socket() as one, socket.socket() as two, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            two.bind(("127.0.0.1", port + 1))
            return [port, port + 1]


def by_tf_config(index, ports):
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    task = {"type": "worker", "index": index}
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})}


def by_slurm(index, ports):
    """What Slurm sets in a step of two tasks on one node."""
    return {
        "SLURM_PROCID": str(index), "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURM_JOB_ID": f"123{ports[0] - 10_000:04}",
    }  # fmt: skip


def start_workers(tiny_data, workdir, kill="", cluster=by_tf_config, **changes):
    """Two workers of a run; `kill` is for the first."""
    these = flags(tiny_data, workdir, strategy="multiworker", **changes)
    ports = free_ports()
    return [Command(these, kill if i == 0 else "", **cluster(i, ports)) for i in (0, 1)]


def test_two_workers_are_one_device(tiny_data, tmp_path):
    changes = {
        "minibatches-per-task": 5, "evaluate-every": 5, "checkpoint-every": 1,
        "precision": "float64", "dropout-rate": 0,
    }  # fmt: skip
    results = [worker.finish() for worker in start_workers(tiny_data, tmp_path / "two", **changes)]
    assert [code for code, _, _ in results] == [0, 0], results
    assert "pectoral_muscle" in results[0][1]
    assert "pectoral_muscle" not in results[1][1]  # Only the first reports.
    assert Command(flags(tiny_data, tmp_path / "one", **changes)).finish()[0] == 0
    one, two = (scalars_of(tmp_path / name, "loss") for name in ("one", "two"))
    assert list(one) == list(two) == list(range(1, 6))
    for step in one:
        assert one[step] == pytest.approx(two[step], abs=1e-5)


@pytest.mark.thorough  # the message is that of the full disk below
@pytest.mark.promise("goes on after a kill")
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_worker_ends_the_run_with_a_message_and_it_can_be_gone_on_with(
    tiny_data, tmp_path, lost
):
    workdir = tmp_path / "run"
    changes = {
        "minibatches-per-task": 60, "evaluate-every": 60, "checkpoint-every": 2, "keep": 60,
    }  # fmt: skip
    workers = start_workers(tiny_data, workdir, **changes)
    wait_for(workdir / "checkpoints" / "step-4", workers[0])
    workers[lost].kill()
    code, _, err = workers[1 - lost].finish()
    assert code == 3
    assert "another worker was lost" in err
    assert "Rerun the command on every worker to resume" in err
    if lost == 1:
        workers = start_workers(tiny_data, workdir, **changes)
        wait_for(workdir / "checkpoints" / "step-10", workers[0])
        # A cluster may tell one of them only; all stop at the same mini-batch.
        workers[1].process.terminate()
        results = [worker.finish() for worker in workers]
        assert [code for code, _, _ in results] == [0, 0], results
        assert "Resuming after mini-batch" in results[0][1]
        assert "Stopped. Rerun the command to resume." in results[0][1]


@pytest.mark.promise("scarcity is one line")
def test_a_full_disk_of_the_first_worker_does_not_leave_the_other_waiting(tiny_data, tmp_path):
    full = """
from mtseg.training import checkpoints
def fail(path): raise OSError(28, "No space left on device")
checkpoints.sync_to_disk = fail
"""
    first, second = start_workers(tiny_data, tmp_path, full, by_slurm)
    code, _, err = first.finish()
    assert (code, "No space left on device" in err) == (2, True)
    code, _, err = second.finish()
    assert (code, "another worker was lost" in err) == (3, True)


@pytest.mark.promise("refused input")
@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "neither TF_CONFIG nor Slurm"),
        ({"TF_CONFIG": "{no json"}, "does not name the workers"),
        ({"SLURM_PROCID": "0"}, "Slurm does not say who the workers are"),
    ],
)
def test_a_cluster_that_is_not_described_is_one_line(tiny_data, tmp_path, environment, message):
    these = flags(tiny_data, tmp_path / "run", strategy="multiworker")
    code, _, err = Command(these, **environment).finish()
    assert code == 2
    assert message in err
    assert not (tmp_path / "run").exists()


@pytest.mark.promise("refused input")
def test_a_port_that_is_taken_is_one_line(tiny_data, tmp_path):
    these = flags(tiny_data, tmp_path / "run", strategy="multiworker")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, err = Command(these, **by_tf_config(0, [port, port + 1])).finish()
    assert code == 2
    assert f"this worker cannot listen at 127.0.0.1:{port}" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.promise("goes on after a kill")
def test_sigterm_ends_the_run_without_an_error(tiny_data, tmp_path):
    command = Command(flags(tiny_data, tmp_path, **{"minibatches-per-task": 500, "keep": 500}))
    wait_for(tmp_path / "checkpoints" / "step-4", command)
    command.process.terminate()
    code, out, _ = command.finish()
    assert code == 0
    assert "Stopped. Rerun the command to resume." in out
    assert "Curves and pictures" not in out
