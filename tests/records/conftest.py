"""A data set of five small scans, and the records of it that no test changes."""

import pytest

from mtseg.records.writing import prepare
from tests.layout_files import write_folder, write_task


@pytest.fixture
def task(tmp_path):
    return write_task(tmp_path / "renal.toml")


@pytest.fixture
def scans(tmp_path):
    return write_folder(tmp_path / "scans")


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """The folder of prepared records: 4 training subjects, 3 classes, 20 patches of each."""
    folder = tmp_path_factory.mktemp("whole")
    prepare(
        write_task(folder / "renal.toml"), "folder", folder / "data",
        manual_dir=write_folder(folder / "scans"), num_processes=1, patches_per_class=20,
    )  # fmt: skip
    return folder / "data"
