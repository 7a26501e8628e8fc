"""Pictures that a person can check voxel by voxel."""

import numpy as np

from mtseg.evaluation.pictures import PALETTE, colour_labels, compare_slices, most_labelled_slice


def test_background_stays_grey_and_labels_take_their_colour():
    picture = colour_labels(np.array([[0.0, 1.0]]), np.array([[0, 2]]))
    assert picture[0, 0].tolist() == [0, 0, 0]
    assert picture[0, 1].tolist() == (0.35 * 255 + 0.65 * PALETTE[2]).astype(np.uint8).tolist()


def test_anterior_is_up_and_the_slice_is_the_one_with_most_labels():
    image = np.zeros((2, 3, 4), np.float32)
    image[1, 2, 3] = 1.2  # right, anterior
    reference = np.zeros((2, 3, 4), np.uint8)
    reference[0, 0, 3] = 1  # left, posterior
    k = most_labelled_slice(reference)
    assert k == 3
    picture = compare_slices(image[..., k], reference[..., k], np.zeros_like(reference[..., k]))
    assert picture.shape == (3, 6, 3)
    assert picture[0, 1].tolist() == [255, 255, 255]
    labelled = np.argwhere((picture != 0).any(axis=-1) & (picture != 255).any(axis=-1))
    assert labelled.tolist() == [[2, 2]]  # bottom left of the middle panel


def test_classes_beyond_the_eighth_have_colours_of_their_own():
    assert len(np.unique(PALETTE, axis=0)) == len(PALETTE) == 25
    grey = np.zeros((1, 2))
    first, ninth = colour_labels(grey, np.array([[1, 9]], np.uint8))[0]
    assert (ninth < first)[:2].all()  # the same, darker; the first has no blue
