"""Records: what is written is what is read, whichever way it is read."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mtseg.batches.patch_records import open_patches
from mtseg.batches.pipeline import open_balanced_samples
from mtseg.errors import InputError
from mtseg.records.builder import RecordConfig, make_records
from mtseg.records.prepared import prepared_dir
from mtseg.records.reading import read_selection, read_volumes, require_scans
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


def test_volumes_are_isotropic_normalised_and_labelled_on_the_foreground(tiny_data):
    for task, spacing in (("brain", 1.0), ("cta", 0.45)):
        (volume,) = read_volumes(tiny_data.data_dir, task, "phantom", "test")
        np.testing.assert_allclose(np.linalg.norm(volume.affine[:3, :3], axis=0), spacing)
        foreground = volume.image[volume.image > 0]
        assert np.percentile(foreground, 99) == pytest.approx(1, abs=1e-4)
        assert volume.image.min() == 0
        assert not volume.class_index_map[volume.image == 0].any()


def test_test_scans_of_all_tasks_are_counted(tiny_data):
    assert require_scans(tiny_data.data_dir, tiny_data.label_space, "test") == 3


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


def test_records_of_other_classes_are_neither_drawn_nor_read(whole, tmp_path):
    """With the two classes exchanged, every sample would have a wrong label."""
    text = (whole.parent / "renal.toml").read_text()
    exchanged = (
        text.replace('"kidney"', '"x"').replace('"cyst"', '"kidney"').replace('"x"', '"cyst"')
    )
    (tmp_path / "renal.toml").write_text(exchanged)
    label_space = parse_tasks(f"{tmp_path}/renal.toml:folder")
    message = r"renal\.toml; class 1 is cyst, was kidney; class 2 is kidney, was cyst\. .*--update"
    for kind in ("patches", "volumes"):
        with pytest.raises(InputError, match=message):
            open_balanced_samples(str(whole), label_space, seed=0, kind=kind)
    with pytest.raises(InputError, match=message):
        next(read_selection(whole, label_space.selections[0], "test"))
