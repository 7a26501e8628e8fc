"""Shares that a person can count, and Bayes' rule on two classes."""

import numpy as np
import pytest

from mtseg import class_priors
from mtseg.subject import PreparedSubject
from mtseg.tasks import parse_tasks


def test_drawn_shares_are_what_the_balance_gives():
    # Three tasks of 7, 2 and 2 classes; the background is drawn for each.
    shares = class_priors.drawn_shares(parse_tasks("brain,breast,cta"))
    np.testing.assert_allclose(shares[1:7], 1 / 21)
    np.testing.assert_allclose(shares[7:], 1 / 6)
    assert shares[0] == pytest.approx(1 / 21 + 1 / 6 + 1 / 6)
    assert shares.sum() == pytest.approx(1)


def test_natural_shares_count_foreground_voxels_and_weigh_tasks_equally(monkeypatch):
    maps = {"breast": [[1, 0, 0, 0], [1, 1, 0, 0]], "cta": [[1, 0]]}

    def read(_, selection, *__):
        for classes in maps[selection.task.name]:
            class_index_map = np.array(classes, np.uint8).reshape(1, 1, -1)
            image = np.ones(class_index_map.shape, np.float32)
            image[..., -1] = 0  # the last voxel is no foreground
            yield PreparedSubject("s", image, class_index_map, np.eye(4))

    monkeypatch.setattr(class_priors, "read_selection", read)
    label_space = parse_tasks("breast,cta")
    shares = class_priors.natural_shares("data", label_space)
    # Breast: 3 of 6 voxels are muscle. CTA: its one foreground voxel is artery, and background is
    # taken to occur once.
    np.testing.assert_allclose(shares, [0.5, 0.25, 0.25])
    shift = class_priors.score_shift("data", label_space)
    np.testing.assert_allclose(shift, np.log([0.5 / 0.5, 0.25 / 0.25, 0.25 / 0.25]), atol=1e-6)
