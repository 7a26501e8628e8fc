"""Long work in one process: memory stays where it is."""

import json
import os
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from mtseg.phantoms.scanner import make_phantom
from tests.end_to_end.test_served import start_front
from tests.faults.forked_commands import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.thorough, pytest.mark.promise("bounded memory")]

MOST_MB_A_THOUSAND = 60.0
"""Growth that is still called none, in a thousand scans, mini-batches or requests: allocators keep
what they have had for a while."""

MEASURED = """
import json, sys
from pathlib import Path
from mtseg.system.quiet_tensorflow import import_tensorflow
import_tensorflow()
resident = []
def measure(*_):
    resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6)
"""

SCANS = """
import mtseg
from mtseg.prediction.pipeline import segment_files
model = mtseg.load(sys.argv[1], "float32")
scans = [Path(sys.argv[2]) / f"{n % 4}.nii.gz" for n in range(int(sys.argv[4]))]
for path, outcome in segment_files(model, scans, Path(sys.argv[3])):
    assert outcome.label_path.exists()
    measure()
print(json.dumps(resident))
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
print(json.dumps(resident))
"""

REQUESTS = """
import mtseg
from mtseg.serving.address import ServerOptions
from mtseg.prediction.pipeline import segment_files
model = mtseg.load(sys.argv[1], None, ServerOptions())
for number in range(int(sys.argv[4])):
    ((_, outcome),) = segment_files(model, [Path(sys.argv[2]) / "0.nii.gz"], Path(sys.argv[3]))
    assert outcome.label_path.exists()
    measure()
print(json.dumps(resident))
"""


def resident_mb(script, *arguments):
    """Megabytes in memory after each scan, mini-batch or request."""
    result = subprocess.run(
        [sys.executable, "-c", MEASURED + script, *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=880,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    return np.array(json.loads(result.stdout.splitlines()[-1]))


def check_growth(resident, what, record_property):
    """The slope by least squares over the second half, once everything has been used."""
    later = resident[len(resident) // 2 :]
    slope = np.polyfit(np.arange(len(later)), later, 1)[0] * 1000
    record_property(
        "shown",
        f"{len(resident):,} {what} in one process: {later.mean():.0f} MB in memory, growing by "
        f"{slope:.1f} MB a thousand.",
    )
    assert slope < MOST_MB_A_THOUSAND


@pytest.fixture
def scans(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    for number, task in enumerate(("breast", "brain", "cta", "breast")):
        phantom = make_phantom(task, 1000 + number, 32 + 4 * number)
        nib.save(nib.Nifti1Image(phantom.image, phantom.affine), folder / f"{number}.nii.gz")
    return folder


def test_many_scans(serving_folder, scans, tmp_path, record_property):
    model, out = serving_folder / "mtseg", tmp_path / "out"
    resident = resident_mb(SCANS, model, scans, out, 200)
    check_growth(resident, "scans segmented", record_property)


def test_many_minibatches(tiny_data, tmp_path, record_property):
    resident = resident_mb(MINIBATCHES, tiny_data.data_dir, tmp_path / "run", 2000)
    assert len(resident) == 200
    resident = np.repeat(resident, 10)  # measured every ten mini-batches
    check_growth(resident, "mini-batches trained", record_property)


def test_many_requests(serving_folder, scans, tmp_path, record_property):
    with start_front(serving_folder, tmp_path / "fault") as front:
        resident = resident_mb(REQUESTS, front.address(), scans, tmp_path / "out", 500)
    check_growth(resident, "scans segmented on a server", record_property)
