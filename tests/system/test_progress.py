"""Progress of long work without a terminal."""

import pytest

from mtseg.system import progress
from mtseg.system.progress import Progress, format_duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89, "89 s"), (600, "10 min"), (9000, "2.5 h"), (400_000, "4.6 days")],
)
def test_durations_for_people(seconds, text):
    assert format_duration(seconds) == text


def test_a_line_every_30_seconds_with_the_time_left(monkeypatch, capsys):
    clock = iter([0.0, 10.0, 40.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Progress("Training", 10, "mini-batches", done=2) as bar:
        bar.advance()  # after 10 s: too early for a line
        bar.advance(3, "loss 0.5")  # after 40 s: 4 steps of 8 are done
    assert capsys.readouterr().out == "Training: 6/10 mini-batches, 40 s left, loss 0.5\n"


def test_without_standard_output_nothing_is_said(monkeypatch):
    monkeypatch.setattr(progress.sys, "stdout", None)
    with Progress("Training", 2, "mini-batches") as bar:
        bar.advance()
        bar.say("as when a program is started without one")


def test_first_steps_that_take_longer_are_left_out_of_the_time_left(monkeypatch, capsys):
    clock = iter([0.0, 100.0, 132.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Progress("Training", 10, "mini-batches", done=1) as bar:
        bar.leave_out(1)  # took 100 s
        bar.advance(4)  # took 32 s
    assert capsys.readouterr().out == "Training: 6/10 mini-batches, 32 s left\n"
