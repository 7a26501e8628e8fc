"""A spool, a receiver with real associations, and small series."""

import numpy as np
import pytest

from mtseg.gateway.peers import Caller
from mtseg.gateway.receiver import receiving
from mtseg.gateway.spool import open_spool
from tests.dicom_files import write_series
from tests.gateway.associations import SENDER


@pytest.fixture
def spool(tmp_path):
    with open_spool(tmp_path / "spool", 1e9) as spool:
        yield spool


@pytest.fixture
def port(spool):
    with receiving(spool, "MTSEG", [Caller(SENDER)], "127.0.0.1", 0) as port:
        yield port


@pytest.fixture
def make_series(tmp_path):
    """Writes a series of CT: its UID, and its files in their order."""

    def make(number=0, shape=(10, 12, 4)):
        array = np.random.default_rng(number).integers(-200, 400, shape).astype(float)
        uid = f"1.2.826.0.1.{number + 1}"
        affine = np.diag([-1.0, -1.0, 1.0, 1.0])
        folder = write_series(tmp_path / f"series{number}", array, affine, series_uid=uid)
        return uid, sorted(folder.iterdir())

    return make
