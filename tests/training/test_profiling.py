"""When a recording for TensorBoard's profiler starts and ends."""

import contextlib
from types import SimpleNamespace

import pytest

from mtseg.system.signals import Stopped
from mtseg.training.profiling import Profiler


@pytest.mark.parametrize(("last", "recorded"), [(4, []), (5, [5, 5]), (7, [5, 7]), (20, [5, 9])])
def test_a_profile_of_a_run_that_is_stopped_is_written_too(tmp_path, last, recorded):
    """The calls at which recording starts and ends; the run is stopped in its last call."""
    events = []

    class Recorder:
        is_chief = True

        def start_profile(self, folder):
            assert folder == tmp_path / "tensorboard"
            events.append(number)

        def stop_profile(self):
            events.append(number)

    profiler = Profiler(Recorder(), tmp_path, 100, is_on=True, say=print)
    with contextlib.suppress(Stopped), profiler:
        for number in range(100):
            profiler.before(number)
            if number == last:
                raise Stopped
            profiler.after(number)
    assert events == recorded


def test_a_run_that_is_too_short_for_a_profile_says_so(tmp_path):
    engine, lines = SimpleNamespace(is_chief=True), []
    Profiler(engine, tmp_path, 6, is_on=True, say=lines.append)
    Profiler(engine, tmp_path, 5, is_on=False, say=lines.append)
    assert lines == []
    Profiler(engine, tmp_path, 5, is_on=True, say=lines.append)
    (line,) = lines
    assert line.startswith("No profile is recorded: 5 calls of the training step are left")
