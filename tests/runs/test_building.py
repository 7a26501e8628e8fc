"""The learning rate of a run."""

import pytest

from mtseg.runs.building import make_learning_rate
from mtseg.runs.config import configure


def rates(steps, **changes):
    config = configure("paper", "breast", "data", learning_rate=0.01, **changes)
    rate = make_learning_rate(config, num_minibatches=100)
    return [float(rate(step)) for step in steps]


def test_the_papers_learning_rate_is_constant():
    assert make_learning_rate(configure("paper", "breast", "data"), 100) == 1e-3


def test_a_warm_up_rises_linearly_and_then_the_rate_is_constant():
    expected = [0, 0.005, 0.01, 0.01, 0.01]
    assert rates([0, 10, 20, 50, 100], warmup_minibatches=20) == pytest.approx(expected)


def test_a_cosine_falls_to_zero_at_the_end_of_the_run():
    expected = [0, 0.01, 0.005, 0]
    found = rates([0, 20, 60, 100], warmup_minibatches=20, schedule="cosine")
    assert found == pytest.approx(expected, abs=1e-6)
    assert rates([0, 50, 100], schedule="cosine") == pytest.approx([0.01, 0.005, 0], abs=1e-6)
