"""Finding and reading subjects: phantoms by seed, and tiny scans in the challenge's layout."""

import dataclasses

import nibabel as nib
import numpy as np
import pytest

from mtseg.errors import InputError
from mtseg.phantoms.scanner import make_phantom
from mtseg.sources.find import list_subjects
from mtseg.sources.reading import read_subject
from mtseg.tasks.label_space import parse_tasks
from mtseg.tasks.task import Split
from tests.sources.conftest import with_split

AFFINE = np.diag([-1.0, 1.0, 1.0, 1.0])


def write_scan(folder, *names, shape=(4, 5, 6)):
    for name in names:
        array = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
        if "_glm" in name:
            array = np.where(array % 2 == 0, 44, 0).astype(np.int16)
        nib.save(nib.Nifti1Image(array, AFFINE), folder / name)


def write_three(folder):
    write_scan(folder, "1000_3.nii.gz", "1000_3_glm.nii.gz")
    write_scan(folder, "1001_SS.nii.gz", "1001_glm.nii.gz")
    write_scan(folder, "1003.nii", "1003_glm.nii")


def refused(call, *arguments, **keywords):
    """The message of the InputError, which is one line."""
    with pytest.raises(InputError) as caught:
        call(*arguments, **keywords)
    message = str(caught.value)
    assert message == " ".join(message.split()), message
    return message


# Phantoms.


@pytest.mark.parametrize(
    ("name", "counts"), [("brain", (14, 20)), ("breast", (14, 20)), ("cta", (6, 4))]
)
def test_there_are_as_many_phantoms_as_scans_in_the_paper(name, counts):
    subjects = list_subjects(parse_tasks(name).selections[0].task, "phantom", None)
    by_split = [[s for s in subjects if s.split == split] for split in ("train", "test")]
    assert tuple(map(len, by_split)) == counts
    assert len({s.name for s in subjects}) == len({s.seed for s in subjects}) == len(subjects)
    assert (by_split[0][3].name, by_split[0][3].seed) == ("phantom003", 3)
    assert (by_split[1][2].name, by_split[1][2].seed) == ("phantom1002", 1002)
    assert {(s.image_path, s.label_path) for s in subjects} == {(None, None)}


def test_the_number_of_phantoms_may_be_chosen(brain):
    subjects = list_subjects(brain, "phantom", None, num_train=2, num_test=1)
    assert [(s.name, s.split) for s in subjects] == [
        ("phantom000", "train"),
        ("phantom001", "train"),
        ("phantom1000", "test"),
    ]
    assert len(list_subjects(brain, "phantom", None, num_test=3)) == 14 + 3


@pytest.mark.parametrize("numbers", [(0, 1), (1, -1), (1001, 1)])
def test_impossible_numbers_of_phantoms_are_refused(brain, numbers):
    message = refused(list_subjects, brain, "phantom", None, *numbers)
    assert message.startswith("brain:phantom: ")


def test_a_phantom_is_generated_from_its_seed(brain):
    subject = list_subjects(brain, "phantom", None, num_train=1, num_test=1)[1]
    image, label_map = read_subject(brain, "phantom", subject, size=32)
    phantom = make_phantom("brain", 1000, 32)
    assert image.array.dtype == np.float32
    np.testing.assert_array_equal(image.array, phantom.image)
    np.testing.assert_array_equal(label_map.array, phantom.label_map)
    np.testing.assert_array_equal(image.affine, phantom.affine)
    np.testing.assert_array_equal(label_map.affine, phantom.affine)


def test_phantoms_of_another_task_are_refused(brain):
    kidney = dataclasses.replace(brain, name="kidney", path="mine/kidney.toml")
    message = refused(list_subjects, kidney, "phantom", None)
    assert message.startswith("mine/kidney.toml: ")
    assert "brain, breast, cta" in message


# The challenge's layout.


def test_subjects_are_found_in_both_naming_styles(brain, tmp_path):
    write_three(tmp_path)
    write_scan(tmp_path, "1036_SS.nii.gz", "10001_SS.nii.gz")  # of no split: unused
    (tmp_path / "notes.txt").write_text("1000")
    subjects = list_subjects(brain, "miccai2012", tmp_path)
    found = [(s.name, s.split, s.image_path, s.label_path, s.seed) for s in subjects]
    folder = str(tmp_path)
    assert found == [
        ("1000", "train", f"{folder}/1000_3.nii.gz", f"{folder}/1000_3_glm.nii.gz", None),
        ("1001", "train", f"{folder}/1001_SS.nii.gz", f"{folder}/1001_glm.nii.gz", None),
        ("1003", "test", f"{folder}/1003.nii", f"{folder}/1003_glm.nii", None),
    ]


def test_a_subject_is_read_with_its_labels_as_they_are(brain, tmp_path):
    write_three(tmp_path)
    subject = list_subjects(brain, "miccai2012", tmp_path)[0]
    image, label_map = read_subject(brain, "miccai2012", subject)
    np.testing.assert_array_equal(np.asarray(image.array), np.arange(120).reshape(4, 5, 6))
    assert np.unique(label_map.array).tolist() == [0, 44]
    np.testing.assert_array_equal(image.affine, AFFINE)
    classes = brain.map_labels(label_map.array, brain.source("miccai2012"), subject.label_path)
    assert np.unique(classes).tolist() == [0, 1]


def test_a_label_map_on_another_grid_is_refused(brain, tmp_path):
    write_three(tmp_path)
    write_scan(tmp_path, "1001_glm.nii.gz", shape=(4, 5, 7))
    subject = list_subjects(brain, "miccai2012", tmp_path)[1]
    assert "1001_glm.nii.gz" in refused(read_subject, brain, "miccai2012", subject)


def test_a_size_for_scans_is_refused(brain, tmp_path):
    write_three(tmp_path)
    subject = list_subjects(brain, "miccai2012", tmp_path)[0]
    assert "--size" in refused(read_subject, brain, "miccai2012", subject, size=32)
    unlabelled = dataclasses.replace(subject, label_path=None)
    assert "1000" in refused(read_subject, brain, "miccai2012", unlabelled)


def test_numbers_of_scans_cannot_be_chosen(brain, tmp_path):
    write_three(tmp_path)
    assert "--num-train" in refused(list_subjects, brain, "miccai2012", tmp_path, num_train=1)
    assert "split.csv" in refused(list_subjects, brain, "miccai2012", tmp_path, num_test=1)


def test_a_folder_without_scans_is_refused_with_what_is_expected(brain, tmp_path):
    (tmp_path / "file").write_text("")
    for manual_dir in (None, tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        message = refused(list_subjects, brain, "miccai2012", manual_dir)
        assert message.startswith(f"{manual_dir or 'brain:miccai2012'}: ")
        assert ("--manual-dir" in message) == (manual_dir is None)
        assert "NNNN*_glm.nii.gz" in message


def test_missing_subjects_are_counted_and_named(tmp_path):
    write_three(tmp_path)
    task = with_split(Split(("1000", *map(str, range(2000, 2012))), ("1003",)))
    message = refused(list_subjects, task, "miccai2012", tmp_path)
    assert message.startswith(f"{tmp_path}: 12 of 14 subjects")
    assert "2000, 2001" in message
    assert "2009 and 2 more" in message
    assert "split.csv" in message


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("1000_SS.nii.gz", ["1000_3.nii.gz, 1000_SS.nii.gz"]),
        ("1000_3.nii", ["1000_3.nii, 1000_3.nii.gz"]),
        ("1000_glm.nii.gz", ["1000_3_glm.nii.gz, 1000_glm.nii.gz"]),
    ],
)
def test_a_second_file_of_a_subject_is_refused(brain, tmp_path, name, words):
    write_three(tmp_path)
    write_scan(tmp_path, name)
    message = refused(list_subjects, brain, "miccai2012", tmp_path)
    assert message.startswith(f"{tmp_path}: subject 1000 ")
    assert all(word in message for word in words), message


@pytest.mark.parametrize("name", ["1001_SS.nii.gz", "1001_glm.nii.gz"])
def test_a_subject_without_scan_or_label_map_is_refused(brain, tmp_path, name):
    write_three(tmp_path)
    (tmp_path / name).unlink()
    message = refused(list_subjects, brain, "miccai2012", tmp_path)
    assert "subject 1001" in message
    assert "none" in message


# Names of sources.


def test_a_source_without_a_layout_is_refused(brain, tmp_path):
    source = dataclasses.replace(brain.source("miccai2012"), name="hospital", layout="hospital")
    task = dataclasses.replace(brain, sources=(source,), path="mine.toml")
    message = refused(list_subjects, task, "hospital", tmp_path)
    assert message.startswith("mine.toml: sources.hospital: ")
    assert "miccai2012" in message
    assert "hospital" in refused(list_subjects, task, "miccai2012", tmp_path)


# Real scans.


def test_the_real_brain_scans(real_data):
    task = parse_tasks("brain:miccai2012").selections[0].task
    subjects = list_subjects(task, "miccai2012", real_data / "brain_miccai2012")
    splits = [subject.split for subject in subjects]
    assert (splits.count("train"), splits.count("test")) == (11, 4)
    image, label_map = read_subject(task, "miccai2012", subjects[0])
    classes = task.map_labels(label_map.array, task.source("miccai2012"), subjects[0].label_path)
    assert classes.shape == image.array.shape
    assert np.unique(classes).tolist() == [0, 1, 2, 3, 4, 5, 6]
