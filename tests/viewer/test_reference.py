"""A reference beside the network's labels, on arrays that a person can count."""

import nibabel as nib
import numpy as np
import pytest

from mtseg.errors import InputError
from mtseg.tasks.label_space import parse_tasks
from mtseg.viewer.reference import compare_with_reference
from tests.viewer.threshold_computer import TABLE

AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])
LABELS = np.array([[[1, 1, 2], [2, 5, 0]]], np.uint8)


def write(path, array, affine=AFFINE):
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


@pytest.fixture
def labels(tmp_path):
    return write(tmp_path / "labels.nii.gz", LABELS)


def test_dice_of_each_class(tmp_path, labels):
    reference = write(tmp_path / "ref.nii", np.array([[[1, 2, 2], [2, 0, 0]]], np.int16))
    found = compare_with_reference(labels, reference, TABLE, "brain")
    # Class 1: 2 voxels predicted, 1 in the reference, 1 in both. Class 2: 2, 3 and 2.
    assert found.dice == {
        "white_matter": pytest.approx(2 / 3),
        "cortical_grey_matter": pytest.approx(4 / 5),
        "cerebellum": None,
    }
    assert found.numbering == "its labels are those of mtseg"
    np.testing.assert_array_equal(found.reference.array, [[[1, 2, 2], [2, 0, 0]]])


def test_a_reference_with_flipped_axes_is_turned(tmp_path, labels):
    affine = AFFINE @ np.diag([1.0, 1.0, -1.0, 1.0])
    affine[:3, 3] = AFFINE[:3, 2] * 2
    reference = write(tmp_path / "ref.nii", LABELS[..., ::-1].copy(), affine)
    found = compare_with_reference(labels, reference, TABLE, "brain")
    assert set(found.dice.values()) == {1.0}


def test_the_numbers_of_a_known_source_are_read(tmp_path, labels):
    # The challenge's: 44, 45 white matter, 100 and more cortex, 38 cerebellum, 51 a ventricle.
    reference = write(tmp_path / "ref.nii", np.array([[[44, 45, 100], [207, 38, 51]]], np.int16))
    found = compare_with_reference(labels, reference, TABLE, "brain")
    assert set(found.dice.values()) == {1.0}
    assert found.numbering == "its labels were read as those of miccai2012 (brain)"


def test_numbers_of_a_source_that_are_also_labels_of_other_tasks(tmp_path):
    """In labels of the Decathlon 1 and 2 are the hippocampus; mtseg writes 9 and 10 for it."""
    table = parse_tasks("brain,cta,hippocampus").label_table
    labels = write(tmp_path / "labels.nii.gz", np.array([[[9, 9, 10], [10, 8, 0]]], np.uint8))
    decathlon = write(tmp_path / "ref.nii", np.array([[[1, 1, 2], [2, 0, 0]]], np.int16))
    found = compare_with_reference(labels, decathlon, table, "hippocampus")
    assert (found.dice["hippocampus_anterior"], found.dice["white_matter"]) == (1.0, None)
    assert found.numbering == "its labels were read as those of msd (hippocampus)"
    np.testing.assert_array_equal(found.reference.array, [[[9, 9, 10], [10, 0, 0]]])
    vessels = write(tmp_path / "vessels.nii", np.array([[[0, 0, 0], [0, 1, 1]]], np.int16))
    found = compare_with_reference(labels, vessels, table, "cta")
    assert found.dice["coronary_arteries"] == pytest.approx(2 / 3)
    # The meaning of a number of another task that no source of this one has is not guessed.
    cerebellum = write(tmp_path / "cerebellum.nii", np.full((1, 2, 3), 5, np.int16))
    with pytest.raises(InputError, match="5 have no known meaning in a scan of cta"):
        compare_with_reference(labels, cerebellum, table, "cta")


@pytest.mark.parametrize("task", ["brain", "hippocampus", None])
def test_a_reference_may_have_labels_of_several_tasks(tmp_path, task):
    table = parse_tasks("brain,hippocampus").label_table
    labels = write(tmp_path / "labels.nii.gz", np.array([[[1, 1, 9], [9, 10, 0]]], np.uint8))
    found = compare_with_reference(labels, labels, table, task)
    assert [found.dice[name] for name in ("white_matter", "hippocampus_posterior")] == [1.0, 1.0]
    assert found.numbering == "its labels are those of mtseg"


@pytest.mark.parametrize("task", ["brain", "cta", "kidney", None])
def test_numbers_without_a_known_meaning_are_refused(tmp_path, labels, task):
    reference = write(tmp_path / "ref.nii", np.full((1, 2, 3), 999, np.int16))
    with pytest.raises(InputError, match="999 have no known meaning"):
        compare_with_reference(labels, reference, TABLE, task)


def test_an_empty_reference_is_refused(tmp_path, labels):
    reference = write(tmp_path / "ref.nii", np.zeros((1, 2, 3), np.int16))
    with pytest.raises(InputError, match="has no label"):
        compare_with_reference(labels, reference, TABLE, "brain")


def test_a_reference_on_another_grid_is_refused(tmp_path, labels):
    reference = write(tmp_path / "ref.nii", LABELS, np.diag([1.0, 2.0, 4.0, 1.0]))
    with pytest.raises(InputError, match="another grid"):
        compare_with_reference(labels, reference, TABLE, "brain")
