"""Small prepared data that several tests read: three tasks of tiny phantoms."""

import dataclasses
import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

TINY = {"size": 32, "num_train": 2, "num_test": 1, "patches_per_class": 12}


@dataclasses.dataclass(frozen=True)
class TinyData:
    """Prepared phantoms of three tasks and ways to read them."""

    data_dir: Path
    tasks: str = "brain,breast,cta"

    @property
    def label_space(self):
        from mtseg.tasks import parse_tasks

        return parse_tasks(self.tasks)

    def balanced(self, seed=0, kind="patches"):
        from mtseg.input_pipeline import open_balanced_samples

        return open_balanced_samples(str(self.data_dir), self.label_space, seed, kind=kind)

    def batches(self, minibatches, size, seed=0, kind="patches"):
        from mtseg.input_pipeline import make_dataset

        calls = [(n, n + 1) for n in minibatches]
        dataset = make_dataset(self.balanced(seed, kind), size, calls)
        return [(patches[0], classes[0]) for patches, classes in dataset.as_numpy_iterator()]


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    from mtseg.preparation import prepare

    data = TinyData(tmp_path_factory.mktemp("tiny_data"))
    for selection in data.label_space.selections:
        prepare(selection.task, "phantom", data.data_dir, num_processes=1, **TINY)
    return data


@pytest.fixture(scope="session")
def real_data():
    """The folder of real scans; tests that want it are skipped where it is missing."""
    root = Path(__file__).parents[1]
    folder = Path(os.environ.get("MTSEG_REAL_DATA", root / "../shared/data"))
    if not (folder / "brain_miccai2012").is_dir():
        pytest.skip(f"no real scans in {folder}: set MTSEG_REAL_DATA to have this test run")
    return folder


def pytest_configure(config):
    """Two logical processors, so that two replicas can be tested on any machine."""
    import tensorflow as tf

    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
