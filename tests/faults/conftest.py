"""What the commands of `tests.faults.small_work` read, made once for all workers."""

import pytest

from tests.faults.small_work import make_small_work


@pytest.fixture(scope="session")
def places(forked, tiny_data, serving_folder, make_once):
    """Word -> what gives its path."""
    work = make_once(
        "small_work", lambda folder: make_small_work(forked, tiny_data.data_dir, folder)
    )
    return {
        "DATA": lambda: tiny_data.data_dir, "RUN": lambda: work / "run",
        "SCANS": lambda: work / "scans", "MODEL": lambda: serving_folder / "mtseg",
    }  # fmt: skip
