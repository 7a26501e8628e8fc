"""Shares that a person can count, and Bayes' rule on two classes and two tasks."""

import numpy as np
import pytest

from mtseg.batches import logit_adjustment
from mtseg.sources.subject import PreparedSubject
from mtseg.tasks.label_space import parse_tasks
from mtseg.tasks.task import IGNORED


def prepare(monkeypatch, **maps):
    """Training scans of a row of voxels each, whose last one is no foreground."""

    def read(_, selection, *__):
        for classes in maps[selection.task.name]:
            class_index_map = np.array(classes, np.uint8).reshape(1, 1, -1)
            image = np.ones(class_index_map.shape, np.float32)
            image[..., -1] = 0
            yield PreparedSubject("s", image, class_index_map, np.eye(4))

    monkeypatch.setattr(logit_adjustment, "read_selection", read)


def test_natural_shares_count_foreground_voxels(monkeypatch):
    prepare(monkeypatch, breast=[[1, 0, 0, 0], [1, 1, 0, 0]], cta=[[1, 0]])
    breast, cta = parse_tasks("breast,cta").selections
    np.testing.assert_allclose(logit_adjustment.compute_class_priors("data", breast), [0.5, 0.5])
    # One foreground voxel, an artery: background is taken to occur once.
    np.testing.assert_allclose(logit_adjustment.compute_class_priors("data", cta), [0.5, 0.5])


@pytest.mark.parametrize(
    ("complete", "muscle"),
    [
        # Of the partial scan, a voxel of each class is known and one is not.
        ([0, 1, 0, 0, 0, 0], 1 / 5),
        ([0, 0, 0, 0, 0, 0], 1 / 7),
    ],
)
def test_partly_annotated_scans_count_if_they_alone_have_a_class(monkeypatch, complete, muscle):
    """Such as patients with uncertain borders of their lesions, beside people without lesions."""
    prepare(monkeypatch, breast=[complete, [0, 1, IGNORED, 0]])
    (breast,) = parse_tasks("breast").selections
    priors = logit_adjustment.compute_class_priors("data", breast)
    np.testing.assert_allclose(priors, [1 - muscle, muscle])


def test_the_shift_of_one_task_is_bayes_rule(monkeypatch):
    prepare(monkeypatch, breast=[[1, 0, 0, 0, 0]])
    shift = logit_adjustment.compute_logit_adjustment("data", parse_tasks("breast"), "shared")
    # A sample that was as likely drawn from either is three times as likely background.
    odds = np.exp(shift[1] - shift[0])
    assert odds == pytest.approx(1 / 3)


def test_a_task_is_shifted_as_if_it_were_alone(monkeypatch):
    prepare(monkeypatch, breast=[[1, 0, 0, 0, 0]], cta=[[1, 1, 1, 0, 0]])
    together, *alone = (
        logit_adjustment.compute_logit_adjustment("data", parse_tasks(names), "shared")
        for names in ("breast,cta", "breast", "cta")
    )
    np.testing.assert_allclose(together, [0, alone[0][1], alone[1][1]])
    np.testing.assert_allclose(np.exp(together), [1, 1 / 3, 3], rtol=1e-6)


def test_a_task_that_was_drawn_more_often_is_made_as_probable_as_others(monkeypatch):
    prepare(monkeypatch, breast=[[1, 0]], cta=[[1, 0]])
    space = parse_tasks("breast,cta")
    shift = logit_adjustment.compute_logit_adjustment("data", space, "by-task", (1, 3))
    # A quarter of the samples is of the breast, three quarters are of the CTA: half is wanted.
    np.testing.assert_allclose(np.exp(shift), [2, 2 / 3, 2, 2 / 3], rtol=1e-6)
    # With a shared background only the frequencies within a task count.
    shift = logit_adjustment.compute_logit_adjustment("data", space, "shared", (1, 3))
    np.testing.assert_allclose(shift, [0, 0, 0], atol=1e-6)


def test_backgrounds_by_task_are_shifted_by_their_own_shares(monkeypatch):
    prepare(monkeypatch, breast=[[1, 0, 0, 0, 0]], cta=[[1, 1, 1, 0, 0]])
    shift = logit_adjustment.compute_logit_adjustment("data", parse_tasks("breast,cta"), "by-task")
    # Backgrounds of breast and CTA, then muscle and arteries: natural shares over drawn ones.
    np.testing.assert_allclose(
        np.exp(shift), [0.75 / 0.5, 0.25 / 0.5, 0.25 / 0.5, 0.75 / 0.5], rtol=1e-6
    )
