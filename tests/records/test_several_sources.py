"""A task with two sources, one of which does not annotate every class."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from mtseg.batches.pipeline import open_balanced_samples
from mtseg.cli import train
from mtseg.evaluation.scoring import evaluate_model
from mtseg.inference.dense import DenseNetwork
from mtseg.records.reading import read_volumes
from mtseg.records.writing import prepare
from mtseg.scans.patches import cut_patches, pad_volume
from mtseg.tasks.label_space import parse_tasks
from tests.layout_files import write_folder, write_task

SOURCES = """
[sources.whole]
layout = "folder"
[sources.whole.labels]
background = [0]
kidney = [1]
cyst = [2]

[sources.partial]
layout = "folder"
not_annotated = ["cyst"]
[sources.partial.labels]
background = [0]
kidney = [1]
ignore = [2]
"""

NEAR = 11
"""Voxels along a side of the middle of a patch, enough to tell which scan and voxel it is of."""


@pytest.fixture(scope="module")
def two_sources(tmp_path_factory):
    """The folder of prepared records, and the task as a command names it."""
    folder = tmp_path_factory.mktemp("two_sources")
    write_task(folder / "renal.toml", SOURCES)
    command = f"{folder}/renal.toml:whole+partial"
    (selection,) = parse_tasks(command).selections
    for number, source in enumerate(selection.sources):
        names = [f"{source}{n}" for n in range(5)]
        prepare(
            selection.task, source, folder / "data", num_processes=1, patches_per_class=50,
            manual_dir=write_folder(folder / source, names, first=10 * number), seed=number,
        )  # fmt: skip
    return folder / "data", command


@pytest.fixture(scope="module")
def origin(two_sources):
    """The middle of a patch -> source and class of its voxel, for all training voxels."""
    found = {}
    for source in ("whole", "partial"):
        for volume in read_volumes(two_sources[0], "renal", source, "train"):
            index = np.argwhere(volume.image > 0)
            patches = cut_patches(pad_volume(volume.image.astype(np.float16), NEAR), index, NEAR)
            for patch, voxel in zip(patches, index, strict=True):
                found[patch.tobytes()] = source, int(volume.class_index_map[tuple(voxel)])
    return found


@pytest.mark.parametrize("kind", ["patches", "volumes"])
def test_what_is_not_annotated_is_never_drawn(two_sources, origin, kind):
    """Background and cysts come from one source, kidneys from both in turn."""
    data_dir, command = two_sources
    samples = open_balanced_samples(str(data_dir), parse_tasks(command), 0, kind=kind)
    middle = slice(25 - NEAR // 2, 26 + NEAR // 2)
    counts = {}
    for n in range(20):
        patches, classes = samples.read_minibatch(n, 150)
        for patch, class_index in zip(patches[..., middle, middle], classes.tolist(), strict=True):
            source, value = origin[patch.tobytes()]
            assert value == class_index
            counts[source, value] = counts.get((source, value), 0) + 1
    assert counts == {
        ("whole", 0): 1000, ("whole", 1): 500, ("partial", 1): 500, ("whole", 2): 1000
    }  # fmt: skip


@pytest.mark.promise("defined numerics")
def test_what_is_not_known_is_not_scored(two_sources):
    """Whatever the network answers, here kidney everywhere."""
    data_dir, command = two_sources
    label_space = parse_tasks(command)
    sizes = itertools.cycle(
        int((volume.image > 0).sum())
        for source in ("whole", "partial")
        for volume in read_volumes(data_dir, "renal", source, "test")
    )
    network = DenseNetwork(
        lambda *_: tf.one_hot(tf.ones(next(sizes), tf.int32), 3), 3, "float32", 1000
    )
    evaluation = evaluate_model(network, label_space, str(data_dir))
    cysts = {r.subject: r.value for r in evaluation.rows if r.class_name == "cyst"}
    assert {name.split("/")[0] for name in cysts} == {"whole", "partial"}
    for name, value in cysts.items():
        assert (value is None) == name.startswith("partial")


@pytest.mark.slow
def test_two_sources_train_one_network(two_sources, tmp_path):
    data_dir, command = two_sources
    code = train.main(
        ["--preset", "demo", "--tasks", command, "--data-dir", str(data_dir),
         "--workdir", str(tmp_path / "run"), "--minibatches-per-task", "2",
         "--global-batch-size", "6"]
    )  # fmt: skip
    assert code == 0
