"""Records: what is written is what is read, whichever way it is read."""

import dataclasses
import resource
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mtseg.batches.pipeline import open_balanced_samples
from mtseg.batches.stores import open_patches
from mtseg.errors import InputError
from mtseg.records.reading import count_test_scans, prepared_dir, read_volumes
from mtseg.records.schema import RecordConfig
from mtseg.records.subject_records import make_records
from mtseg.scans.patches import cut_patches, pad_volume
from mtseg.tasks.label_space import parse_tasks


def test_patch_records_hold_the_patches_at_their_voxels(tiny_data):
    """Example to TFRecord to tensors: the same numbers, to float16."""
    volumes = {v.name: v for v in read_volumes(tiny_data.data_dir, "brain", "phantom", "train")}
    folder = prepared_dir(tiny_data.data_dir, "brain", "phantom", "patches")
    dataset = tfds.builder_from_directory(folder).as_dataset(split="train")
    examples = list(dataset.as_numpy_iterator())
    assert len(examples) == 2 * 7 * 12  # subjects, classes, patches of each
    for example in examples[::17]:
        volume = volumes[example["subject"].decode()]
        index = example["index_ijk"]
        assert volume.class_index_map[tuple(index)] == example["class_index"]
        expected = cut_patches(pad_volume(volume.image.astype(np.float16)), index[None])[0]
        np.testing.assert_array_equal(example["patches"], expected)


def test_random_access_reads_what_tfds_reads(tiny_data):
    records = open_patches(tiny_data.data_dir, "breast", "phantom")
    folder = prepared_dir(tiny_data.data_dir, "breast", "phantom", "patches")
    dataset = tfds.builder_from_directory(folder).as_dataset(split="train")
    by_tfds = {e["patches"].tobytes(): e["class_index"] for e in dataset.as_numpy_iterator()}
    rows = range(len(records.class_index))
    patches = np.empty((len(rows), 3, 51, 51), np.float16)
    records.read(rows, patches)
    assert len(rows) == len(by_tfds)
    for patch, class_index in zip(patches, records.class_index, strict=True):
        assert by_tfds[patch.tobytes()] == class_index


def test_volumes_are_isotropic_normalised_and_labelled_on_the_foreground(tiny_data):
    for task, spacing in (("brain", 1.0), ("cta", 0.45)):
        (volume,) = read_volumes(tiny_data.data_dir, task, "phantom", "test")
        np.testing.assert_allclose(np.linalg.norm(volume.affine[:3, :3], axis=0), spacing)
        foreground = volume.image[volume.image > 0]
        assert np.percentile(foreground, 99) == pytest.approx(1, abs=1e-4)
        assert volume.image.min() == 0
        assert not volume.class_index_map[volume.image == 0].any()


def test_test_scans_of_all_tasks_are_counted(tiny_data):
    assert count_test_scans(tiny_data.data_dir, tiny_data.label_space) == 3


def test_no_subject_is_in_two_splits(tiny_data):
    names = [
        v.name
        for split in ("train", "test")
        for v in read_volumes(tiny_data.data_dir, "cta", "phantom", split)
    ]
    assert len(set(names)) == len(names) == 3


def test_patches_do_not_depend_on_the_order_of_subjects(tiny_data):
    """The same patches of each subject, whether it is prepared first or last."""
    config = RecordConfig(name="phantom_patches", patches_per_class=5)
    (selection,) = parse_tasks("breast").selections
    subjects = list(read_volumes(tiny_data.data_dir, "breast", "phantom", "train"))
    forwards, backwards = (
        {
            key: record["index_ijk"].tolist()
            for subject in order
            for key, record in make_records(selection.task, config, subject)
        }
        for order in (subjects, subjects[::-1])
    )
    assert len(forwards) == 2 * 2 * 5  # subjects, classes, patches of each
    assert forwards == backwards
    voxels = np.array(list(forwards.values())).reshape(2, -1, 3)
    assert (voxels[0] != voxels[1]).any()  # each subject has its own


def test_data_that_is_not_prepared_names_the_command(tmp_path):
    with pytest.raises(InputError, match="mtseg-prepare cta:phantom --data-dir"):
        open_patches(tmp_path, "cta", "phantom")
    with pytest.raises(InputError, match=r"mtseg-prepare TASK_FILE\.toml:folder .*--manual-dir F"):
        open_patches(tmp_path, "a_task_of_ones_own", "folder")


def test_a_flipped_byte_is_caught_and_the_shard_named(tiny_data, tmp_path):
    data_dir = tmp_path / "data"
    shutil.copytree(tiny_data.data_dir, data_dir)
    shard, *_ = data_dir.glob("mtseg_breast/phantom_patches/*/*.tfrecord-*")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0xFF
    shard.write_bytes(content)
    with pytest.raises(InputError, match=shard.name):
        open_patches(data_dir, "breast", "phantom")


@pytest.mark.promise("scarcity is one line")
def test_more_shards_than_the_system_lets_be_open_are_refused(tiny_data, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 513))
    with pytest.raises(InputError, match=r"2 shards, where 513 files.*--num-shards"):
        open_patches(tiny_data.data_dir, "breast", "phantom")
    asked = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    open_patches(tiny_data.data_dir, "breast", "phantom")
    assert asked == [(514, 4096)]


@pytest.mark.promise("defined numerics")
def test_a_class_without_a_patch_is_refused_by_name(tiny_data, monkeypatch):
    records = open_patches(tiny_data.data_dir, "breast", "phantom")
    only_background = dataclasses.replace(records, class_index=np.zeros_like(records.class_index))
    monkeypatch.setattr("mtseg.batches.pipeline.open_patches", lambda *_: only_background)
    with pytest.raises(InputError, match="pectoral_muscle"):
        open_balanced_samples(str(tiny_data.data_dir), parse_tasks("breast"), seed=0)
