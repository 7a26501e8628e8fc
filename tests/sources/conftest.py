"""The brain task with a split of three subjects, which several tests use."""

import dataclasses

import pytest

from mtseg.tasks.label_space import parse_tasks
from mtseg.tasks.task import Split


@pytest.fixture
def brain():
    """The brain task with three subjects in the split of its challenge."""
    return with_split(Split(("1000", "1001"), ("1003",), (("1003", "1023"),)))


def with_split(split):
    task = parse_tasks("brain").selections[0].task
    source = dataclasses.replace(task.source("miccai2012"), split=split)
    return dataclasses.replace(task, sources=(source, task.source("phantom")))
