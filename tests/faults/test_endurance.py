"""Long work in one process: memory and open files stay where they are."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from mtseg.phantoms.scanner import make_phantom
from mtseg.runs.manifest import PACKAGED
from tests.end_to_end.test_served import start_front
from tests.faults.forked_commands import ROOT
from tests.faults.test_killed import url_of, wait_for, workers_of
from tests.viewer.test_server import ask_json, state_of, upload

pytestmark = [
    pytest.mark.slow,
    pytest.mark.thorough,
    pytest.mark.timeout(5400),
    pytest.mark.promise("bounded memory"),
]

MOST_MB_A_THOUSAND = 60.0
"""Growth that is still called none, in a thousand scans, mini-batches or requests: allocators keep
what they have had for a while."""

MOST_MB_A_TRAINING = 1.0
"""Likewise, each time that a run is resumed. The graph of its step alone would be 18 MB."""

MEASURED = """
import json, os, sys
from pathlib import Path
from mtseg.system.quiet_tensorflow import import_tensorflow
import_tensorflow()
measured = []
def measure(*_):
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
    measured.append([resident, len(os.listdir("/proc/self/fd"))])
"""

SCANS = """
import mtseg
from mtseg.prediction.pipeline import segment_files
model = mtseg.load(sys.argv[1], engine=sys.argv[5])
scans = [Path(sys.argv[2]) / f"{n % 4}.nii.gz" for n in range(int(sys.argv[4]))]
for path, outcome in segment_files(model, scans, Path(sys.argv[3])):
    assert outcome.label_path.exists()
    measure()
print(json.dumps(measured))
"""

MINIBATCHES = """
from mtseg.runs.config import TrainConfig
from mtseg.training.callbacks import Callback
from mtseg.training.loop import train_and_evaluate
class Measure(Callback):
    def on_figures(self, step, figures):
        measure()
count = int(sys.argv[3])
config = TrainConfig(
    "breast:phantom", sys.argv[1], global_batch_size=2, minibatches_per_task=count,
    evaluate_every=count // 2, checkpoint_every=count // 10,
)
assert train_and_evaluate(config, sys.argv[2], callbacks=[Measure()]) is not None
print(json.dumps(measured))
"""

RESUMED = """
import signal
from mtseg.runs.config import TrainConfig
from mtseg.training.callbacks import Callback
from mtseg.training.loop import train_and_evaluate
class Stop(Callback):
    def on_start(self, run):
        assert run.step == len(measured), run
        os.kill(os.getpid(), signal.SIGTERM)  # after the next mini-batch it saves and stops
count = int(sys.argv[3])
config = TrainConfig(
    "breast:phantom", sys.argv[1], global_batch_size=2, minibatches_per_task=count + 1,
    evaluate_every=count + 1, checkpoint_every=count + 1,
)
signal.signal(signal.SIGTERM, lambda *_: None)
for _ in range(count):
    assert train_and_evaluate(config, sys.argv[2], callbacks=[Stop()]) is None
    measure()
print(json.dumps(measured))
"""

REQUESTS = """
import mtseg
from mtseg.prediction.options import Options
from mtseg.prediction.pipeline import segment_files
from mtseg.serving.address import ServerOptions
model = mtseg.load(sys.argv[1], None, ServerOptions())
for number in range(int(sys.argv[4])):
    # With a task: one request a scan, in place of some to recognise it as well.
    scan = Path(sys.argv[2]) / "0.nii.gz"
    ((_, outcome),) = segment_files(model, [scan], Path(sys.argv[3]), Options(task="breast"))
    assert outcome.label_path.exists()
    measure()
print(json.dumps(measured))
"""


def measured_in(script, *arguments):
    """Megabytes in memory and open files after each scan, mini-batch or request."""
    result = subprocess.run(
        [sys.executable, "-c", MEASURED + script, *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=5400,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    return np.array(json.loads(result.stdout.splitlines()[-1]))


def check_growth(measured, what, times=1, most=MOST_MB_A_THOUSAND):
    """The slopes by least squares over the second half, once everything has been used.

    Args:
        measured: megabytes and open files, shape (measurements, 2).
        what: the work, in words.
        times: so many units of work a measurement.
        most: megabytes a thousand units.

    Returns:
        What was found, in a sentence.
    """
    later = measured[len(measured) // 2 :]
    units = np.arange(len(later)) * times
    megabytes, files = np.polyfit(units, later, 1)[0] * 1000
    found = (
        f"{len(measured) * times:,} {what}: {later[:, 0].mean():.0f} MB in memory, growing by "
        f"{megabytes:.1f} MB a thousand; {later[:, 1].mean():.0f} open files, growing by "
        f"{files:.1f} a thousand."
    )
    assert megabytes < most, found
    assert later[:, 1].max() <= measured[: len(later), 1].max() + 2, measured[:, 1]
    return found


@pytest.fixture
def count(request):
    """A function from how often a whole campaign does something to how often this one does."""
    scale = max(0.1, request.config.getoption("--scale"))  # fewer show no slope
    return lambda whole: round(whole * scale)


@pytest.fixture
def scans(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    for number, task in enumerate(("breast", "brain", "cta", "breast")):
        phantom = make_phantom(task, 1000 + number, 32 + 4 * number)
        # The surroundings that a network sees beside a scan cost most: a thin slab has fewest.
        slab = nib.Nifti1Image(phantom.image, phantom.affine).slicer[10:22, 8:20, 4:10]
        nib.save(slab, folder / f"{number}.nii.gz")
    return folder


@pytest.mark.parametrize(("engine", "number"), [("openvino", 2000), ("tensorflow", 500)])
def test_many_scans(engine, number, scans, tmp_path, count, record_property):
    measured = measured_in(SCANS, PACKAGED, scans, tmp_path / "out", count(number), engine)
    found = check_growth(measured, f"scans segmented in one process, with {engine}")
    record_property("shown", found)


def test_many_minibatches(tiny_data, tmp_path, record_property):
    measured = measured_in(MINIBATCHES, tiny_data.data_dir, tmp_path / "run", 2000)
    assert len(measured) == 200
    found = check_growth(measured, "mini-batches trained in one process", times=10)
    record_property("shown", found)


def test_a_run_that_is_resumed_many_times(tiny_data, tmp_path, count, record_property):
    measured = measured_in(RESUMED, tiny_data.data_dir, tmp_path / "run", count(300))
    what = "times a run was resumed in one process"
    record_property("shown", check_growth(measured, what, most=1000 * MOST_MB_A_TRAINING))


def test_many_requests(serving_folder, scans, tmp_path, count, record_property):
    with start_front(serving_folder, tmp_path / "fault") as front:
        measured = measured_in(REQUESTS, front.address(), scans, tmp_path / "out", count(5000))
    found = check_growth(measured, "scans segmented on a server, by one process")
    record_property("shown", found)


def test_many_scans_on_one_page(forked, scans, count, record_property):
    """Both processes, that of the page and that which computes. Most scans are removed."""
    page = forked.start(["mtseg.viewer.command", "--no-browser"])
    url = wait_for(lambda: url_of(page))
    address, token = url.removeprefix("http://").rstrip("/").split("/")
    server = SimpleNamespace(server_port=int(address.partition(":")[2]), token=token)
    (worker,) = wait_for(lambda: workers_of(forked))
    measured = {page.pid: [], worker: []}
    for number in range(count(2000)):
        sent = upload(server, scans / f"{number % 4}.nii.gz")
        (scan,) = ask_json(server, "POST", f"uploads/{sent}", {})["scans"]
        wait_for(lambda scan=scan: state_of(server, scan)["state"] == "done", pause_seconds=0.05)
        if number >= 100:
            ask_json(server, "DELETE", f"scans/{scan}")
        for pid, of_process in measured.items():
            resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6
            of_process.append([resident, len(os.listdir(f"/proc/{pid}/fd"))])
    page.terminate()
    assert page.finish()[0] == 0
    for pid, what in ((page.pid, "the page"), (worker, "the process that computes for it")):
        found = check_growth(np.array(measured[pid]), f"scans on one page, in {what}")
        record_property("shown", found)
