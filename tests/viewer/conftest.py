"""A page on this machine whose scans are segmented by thresholds."""

import threading

import nibabel as nib
import numpy as np
import pytest

from mtseg.viewer.scan_list import ScanList
from mtseg.viewer.uploads.upload import Limits
from mtseg.viewer.web.server import Server
from tests.viewer.threshold_computer import ThresholdComputer


@pytest.fixture
def computer():
    return ThresholdComputer()


@pytest.fixture
def scans(computer, tmp_path):
    scans = ScanList(computer, tmp_path / "private", {}, Limits(num_bytes=2_000_000, num_files=20))
    scans.start()
    yield scans
    computer.may_go_on.set()
    scans.close()


@pytest.fixture
def server(scans):
    with Server(scans) as server:
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def scan_file(tmp_path):
    """A bright ball in a darker box, with a place in the world that is not the middle."""
    return write_ball(tmp_path / "ball.nii.gz")


def write_ball(path, shape=(24, 20, 16)):
    places = np.indices(shape) - np.reshape([n / 2 for n in shape], (3, 1, 1, 1))
    distance = np.sqrt((places**2).sum(axis=0))
    array = np.select([distance < 5, distance < 7], [900, 600], 0).astype(np.int16)
    affine = np.diag([-2.0, 1.5, 3.0, 1.0])
    affine[:3, 3] = 30, -20, 10
    nib.save(nib.Nifti1Image(array, affine), path)
    return path
