"""Small prepared data that several tests read: three tasks of tiny phantoms."""

import dataclasses
import fcntl
import os
import shutil
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
        from mtseg.tasks.label_space import parse_tasks

        return parse_tasks(self.tasks)

    def balanced(self, seed=0, kind="patches"):
        from mtseg.batches.pipeline import open_balanced_samples

        return open_balanced_samples(str(self.data_dir), self.label_space, seed, kind=kind)

    def batches(self, minibatches, size, seed=0, kind="patches"):
        from mtseg.batches.pipeline import make_dataset

        calls = [(n, n + 1) for n in minibatches]
        dataset = make_dataset(self.balanced(seed, kind), size, calls)
        return [(patches[0], classes[0]) for patches, classes in dataset.as_numpy_iterator()]


@pytest.fixture(scope="session")
def make_once(tmp_path_factory):
    """Makes a folder that all workers read: `make_once(name, make)` returns its path.

    The first worker that wants it calls `make(folder)`; the others wait and take what it made.
    """

    def make_once(name, make):
        base = tmp_path_factory.getbasetemp()
        root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
        folder, is_made = root / name, root / f"{name}.is_made"
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not is_made.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed
                folder.mkdir()
                make(folder)
                is_made.touch()
        return folder

    return make_once


@pytest.fixture(scope="session")
def tiny_data(make_once):
    def make(folder):
        from mtseg.records.writing import prepare

        for selection in TinyData(folder).label_space.selections:
            prepare(selection.task, "phantom", folder, num_processes=1, **TINY)

    return TinyData(make_once("tiny_data", make))


ONE_OF_THREE = {"validation_share": 0.34, "split_seed": 0}
"""Sets one of three training phantoms aside for validation."""


def prepare_breast(data_dir, **settings):
    """Prepares small breast phantoms, three of them for training."""
    from mtseg.records.writing import prepare
    from mtseg.tasks.label_space import parse_tasks

    (selection,) = parse_tasks("breast").selections
    small = TINY | {"num_train": 3, "num_processes": 1}
    prepare(selection.task, "phantom", data_dir, **(small | settings))
    return data_dir


@pytest.fixture(scope="session")
def three_splits(make_once):
    """The folder of breast phantoms: 2 for training, 1 for validation, 2 for testing."""
    return make_once(
        "three_splits", lambda folder: prepare_breast(folder, num_test=2, **ONE_OF_THREE)
    )


@pytest.fixture(scope="session")
def only_training(make_once):
    """The folder of three breast phantoms, all of them for training."""
    return make_once("only_training", lambda folder: prepare_breast(folder, num_test=0))


@pytest.fixture(scope="session")
def random_run(tmp_path_factory):
    """The folder of a run whose weights and moving statistics are random, and its patch model."""
    import numpy as np

    from mtseg.evaluation.results import Evaluation
    from mtseg.runs import workdir as workdir_files
    from mtseg.runs.building import build_model
    from mtseg.runs.config import TrainConfig
    from mtseg.system import atomic_files
    from mtseg.tasks.label_space import parse_tasks

    workdir = tmp_path_factory.mktemp("random_run")
    label_space = parse_tasks("brain,breast,cta")
    config = TrainConfig(label_space.spec, "data")
    model = build_model(config, label_space)
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if "kernel" in variable.path:
            # The last layer's are larger, so that the voxels of a scan get different classes.
            gain = 4.0 if variable.shape[-1] == label_space.num_classes else 1.0
            deviation = gain * np.prod(variable.shape[:-1]) ** -0.5
            variable.assign(rng.normal(0, deviation, variable.shape))
        elif "moving" in variable.path or "gamma" in variable.path:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif "beta" in variable.path or "bias" in variable.path:
            variable.assign(rng.normal(0, 0.3, variable.shape))
    atomic_files.write_json(workdir / workdir_files.LABEL_SPACE, label_space.to_json())
    (workdir / workdir_files.CONFIG).write_text(config.to_json())
    model.save_weights(workdir_files.weights_path(workdir, "last"))
    points = {"pectoral_muscle": 0.1, "coronary_arteries": 0.2}
    evaluation = Evaluation((), points).to_json(model="m", command="c")
    atomic_files.write_json(workdir / workdir_files.EVALUATION, evaluation)
    return workdir, model


@pytest.fixture(scope="session")
def serving_folder(random_run, make_once):
    """What `mtseg-export --serving` writes, of that run: version 1 of the model `mtseg`."""
    from mtseg.serving.folder import export_serving

    return make_once("serving", lambda folder: export_serving(random_run[0], folder))


@pytest.fixture(scope="session")
def forked():
    """A process that has TensorFlow imported and forks commands."""
    from tests.faults.forked_commands import Forked

    with Forked() as forked:
        yield forked


@pytest.fixture(scope="session")
def real_data():
    """The folder of real scans; tests that want it are skipped where it is missing."""
    root = Path(__file__).parents[1]
    folder = Path(os.environ.get("MTSEG_REAL_DATA", root / "../shared/data"))
    if not (folder / "brain_miccai2012").is_dir():
        pytest.skip(f"no real scans in {folder}: set MTSEG_REAL_DATA to have this test run")
    return folder


LONGEST_FILES = (
    # Slow tests, then the others.
    *("test_interrupted", "test_scarcity", "test_loop", "test_killed", "test_served"),
    *("test_commands", "test_jax_engine", "test_experiments", "test_notebooks", "test_exposure"),
    *("test_beam", "test_documented_python"),
    *("test_numerics", "test_changed_data", "test_dense", "test_validation", "test_export"),
    *("test_own_task", "test_pipeline", "test_examples", "test_broken_models", "test_callbacks"),
)
"""Files whose tests take longest: the workers take them first."""


def pytest_addoption(parser):
    parser.addoption(
        "--thorough",
        action="store_true",
        help="kill commands again and again, and have them endure",
    )
    parser.addoption(
        "--scale",
        type=float,
        default=1.0,
        help="share of the kills and fuzzed files with --thorough",
    )


def pytest_collection_modifyitems(config, items):
    """Leaves out thorough tests and those for GPUs unless asked for; notes promises."""
    if not is_for_gpus(config):
        left_out = [item for item in items if item.get_closest_marker("gpu")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    if not config.getoption("--thorough"):
        left_out = [item for item in items if item.get_closest_marker("thorough")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    # No worker begins a long file when the others are at their end.
    place = {f"{name}.py": number for number, name in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))
    for item in items:
        if marks := [mark for mark in item.iter_markers("promise")]:
            kind = marks[0].kwargs.get("kind", "fault")
            item.user_properties.append(("promise", [marks[0].args[0], kind]))


def is_for_gpus(config):
    """Whether this run of pytest is that of the tests that need a GPU: `pytest -m gpu`."""
    return config.getoption("markexpr") == "gpu"


def pytest_configure(config):
    """Hides GPUs from all tests but those that need one, also from commands that tests start.

    Two logical processors, so that two replicas can be tested on any machine.
    """
    if not is_for_gpus(config):
        for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
            os.environ[name] = "-1"
    if config.getoption("dist", "no") != "no":  # the workers run the tests
        return
    import tensorflow as tf

    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
