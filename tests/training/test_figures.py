"""The figures of the loss curve."""

import numpy as np
import pytest

from mtseg.runs.config import TrainConfig
from mtseg.training.failures import DivergedError
from mtseg.training.figures import TrainingFigures


class Lines:
    """In place of a progress bar: what was shown."""

    def __init__(self):
        self.said, self.done = [], 0

    def say(self, line):
        self.said.append(line)

    def advance(self, steps, note=""):
        self.done += steps


def test_loss_speed_and_waiting_are_those_since_the_last_point(monkeypatch):
    clock = iter([0.0, 5.0, 5.0, 5.0, 6.0, 9.0, 9.0, 9.0])
    monkeypatch.setattr("mtseg.training.figures.time.monotonic", lambda: next(clock))
    config = TrainConfig("breast:phantom", "data", global_batch_size=10)
    shown = Lines()
    figures = TrainingFigures(config, 100, shown)
    figures.add(np.float32([4.0]))  # the first call, until 5 s, traces the graph
    with figures.waiting():  # from 5 to 6 s
        pass
    figures.add(np.float32([2.0, 3.0]))
    point = figures.take(3)  # at 9 s: two mini-batches of ten samples in four seconds
    assert point == {"loss": 3.0, "samples_per_second": 5.0, "share_waiting_for_input": 0.25}
    assert figures.seconds == 9
    assert shown.done == 3
    assert shown.said[0] == "First step after 5 s."
    assert "5 samples/s, 25% of the time waiting for input" in shown.said[1]
    assert "take about 3 min more" in shown.said[1]  # 97 mini-batches of 10 samples


@pytest.mark.promise("defined numerics")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_first_loss_that_is_not_finite_is_named(value):
    figures = TrainingFigures(TrainConfig("breast:phantom", "data"), 100, Lines())
    figures.add(np.float32([0.5, value, value]))
    with pytest.raises(DivergedError, match=r"the loss is \w+ at mini-batch 19\.") as error:
        figures.take(20)  # mini-batches 18, 19 and 20
    assert error.value.minibatch == 19
