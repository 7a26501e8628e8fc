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

    def leave_out(self, steps):
        self.done += steps


class Clock:
    """In place of the clock: seconds that a test sets."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("mtseg.training.figures.time.monotonic", lambda: self.now)

    def wait(self, seconds):
        self.now += seconds


def test_loss_speed_and_waiting_are_those_since_the_last_point(monkeypatch):
    clock, shown = Clock(monkeypatch), Lines()
    config = TrainConfig("breast:phantom", "data", global_batch_size=10)
    figures = TrainingFigures(config, 100, shown, {})
    clock.wait(5)
    figures.add(np.float32([4.0]))  # the first call traces the graph
    with figures.waiting():
        clock.wait(1)
    clock.wait(3)
    figures.add(np.float32([2.0, 3.0]))
    # Two mini-batches of ten samples in four seconds.
    point = figures.take(3)
    assert point == {"loss": 3.0, "samples_per_second": 5.0, "share_waiting_for_input": 0.25}
    assert figures.seconds == 9
    assert shown.done == 3
    assert shown.said[0] == "First step after 5 s."


def test_the_time_of_a_run_is_said_after_three_seconds_and_with_evaluations_after_the_first(
    monkeypatch,
):
    clock, shown = Clock(monkeypatch), Lines()
    monkeypatch.setattr("mtseg.training.figures.describe_devices", lambda are_all: "a device")
    config = TrainConfig("breast:phantom", "data", global_batch_size=10)
    # Four scans after 50 and 100 mini-batches, and two more at the end.
    figures = TrainingFigures(config, 100, shown, {50: 4, 100: 6})

    def train(count, seconds, waiting=0.0):
        with figures.waiting():
            clock.wait(waiting)
        clock.wait(seconds - waiting)
        figures.add(np.ones(count, np.float32))

    train(10, 60)  # traces the graph
    train(10, 2)
    figures.take(20)
    assert shown.said == ["First step after 60 s."]  # too little is timed
    train(10, 2, waiting=1)
    clock.wait(1)  # a checkpoint
    figures.restart_clock()
    train(20, 5)
    figures.take(50)
    # Forty mini-batches in ten seconds, and fifty are left.
    assert shown.said[1:] == [
        "About 12 s for 50 mini-batches of 10: 40 samples/s on a device, 10% of the time waiting "
        "for input. Evaluations of 10 scans come on top."
    ]
    with figures.evaluating(50):
        clock.wait(20)
    # Six scans of five seconds each, and 12.5 s.
    assert shown.said[2:] == ["About 42 s left, with evaluations."]
    train(50, 12.5)
    assert figures.take(100)["samples_per_second"] == 40.0
    with figures.evaluating(100):
        clock.wait(30)
    assert len(shown.said) == 3
    assert shown.done == 100


def test_a_run_without_evaluations_says_so(monkeypatch):
    clock, shown = Clock(monkeypatch), Lines()
    figures = TrainingFigures(TrainConfig("breast:phantom", "data"), 100, shown, {})
    for count in (1, 9):
        clock.wait(4)
        figures.add(np.ones(count, np.float32))
    figures.take(10)
    assert shown.said[1].endswith("No evaluations.")
    with figures.evaluating(10):
        clock.wait(1)
    assert len(shown.said) == 2


@pytest.mark.promise("defined numerics")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_first_loss_that_is_not_finite_is_named(value):
    figures = TrainingFigures(TrainConfig("breast:phantom", "data"), 100, Lines(), {})
    figures.add(np.float32([0.5, value, value]))
    with pytest.raises(DivergedError, match=r"the loss is \w+ at mini-batch 19\.") as error:
        figures.take(20)  # mini-batches 18, 19 and 20
    assert error.value.minibatch == 19
