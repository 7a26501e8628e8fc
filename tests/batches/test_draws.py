"""The order of sources, their weights, and how often samples are drawn."""

import doctest

import numpy as np
import pytest

from mtseg.batches import draws
from mtseg.batches.draws import order_sources, read_source_weights, read_task_weights
from mtseg.errors import InputError
from mtseg.tasks.label_space import parse_tasks


def test_equal_weights_take_turns():
    assert order_sources((4, 4, 4)).source.tolist() == [0, 1, 2]


@pytest.mark.parametrize("weights", [(1, 2), (3, 0, 4), (14, 20, 6), (1, 1000)])
def test_shares_hold_in_every_stretch_of_a_run(weights):
    """After any number of samples no source is more than one sample ahead or behind."""
    source, turn = order_sources(weights).find(np.arange(5000))
    for s, weight in enumerate(weights):
        given = np.cumsum(source == s)
        expected = np.arange(1, 5001) * weight / sum(weights)
        assert np.abs(given - expected).max() <= 1.5
        np.testing.assert_array_equal(turn[source == s], np.arange(given[-1]))


def test_weights_are_read():
    label_space = parse_tasks("brain:miccai2012+freesurfer,breast")
    text = "brain:miccai2012=1, brain:freesurfer=3"
    expected = {("brain", "miccai2012"): 1, ("brain", "freesurfer"): 3}
    assert read_source_weights(text, label_space) == expected
    assert read_source_weights("", label_space) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("brain=2", "'brain=2' is not TASK:SOURCE=N"),
        ("brain:miccai2012=0", "'brain:miccai2012=0'"),
        ("brain:miccai2012=0.5", "a whole number from 1 to 9999"),
        ("brain:miccai2012=10000", "a whole number from 1 to 9999"),
        ("brain:miccai2012=1,brain:miccai2012=2", "miccai2012 is named twice"),
        ("cta:phantom=2", "one of brain:freesurfer, brain:miccai2012, breast:phantom"),
        ("brain:miccai2012=2", "no weight for brain:freesurfer"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(text, said):
    with pytest.raises(InputError, match=said):
        read_source_weights(text, parse_tasks("brain:miccai2012+freesurfer,breast"))


def test_examples_in_docstrings_run():
    result = doctest.testmod(draws)
    assert (result.failed, result.attempted > 0) == (0, True)


def test_task_weights_are_one_for_tasks_that_are_not_named():
    space = parse_tasks("brain:miccai2012,breast,cta")
    assert read_task_weights("", space) == (1, 1, 1)
    assert read_task_weights(" breast=4 ", space) == (1, 4, 1)


@pytest.mark.parametrize(
    "text", ["heart=2", "breast", "breast=0", "breast=1.5", "breast:phantom=2"]
)
def test_task_weights_of_another_form_are_refused(text):
    with pytest.raises(InputError, match=r"task_weights: '.*' is not TASK=N .* one of breast, cta"):
        read_task_weights(text, parse_tasks("breast,cta"))


def test_a_task_that_is_weighed_twice_is_refused():
    with pytest.raises(InputError, match="task_weights: cta is named twice"):
        read_task_weights("cta=2,breast=1,cta=3", parse_tasks("breast,cta"))
