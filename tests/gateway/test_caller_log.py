"""However often somebody calls, the log has few lines about it."""

import logging

import pytest

from mtseg.gateway.caller_log import MOST_LINES, CallerLog


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, "mtseg.gateway")
    return lambda: [record.getMessage() for record in caplog.records]


def test_a_caller_has_one_line_in_a_minute_and_then_the_number_left_out(lines):
    now_s = 0.0
    log = CallerLog("rejected callers", lambda: now_s)
    log.say("192.0.2.7", "rejected A")
    now_s = 59.0
    log.say("192.0.2.7", "rejected A")
    log.say("192.0.2.7", "rejected C")
    log.say("192.0.2.8", "rejected B")
    assert lines() == ["rejected A", "rejected B"]
    now_s = 60.0
    log.say("192.0.2.7", "rejected A")
    assert lines()[2:] == ["left out 2 more lines about rejected callers", "rejected A"]
    now_s = 120.0  # none was left out meanwhile
    log.say("192.0.2.7", "rejected A")
    assert lines()[4:] == ["rejected A"]


def test_thousands_of_callers_have_few_lines_too(lines):
    log = CallerLog("rejected callers", lambda: 0.0)
    for number in range(5000):
        log.say(f"2001:db8::{number:x}", f"rejected {number}")
    assert len(lines()) == MOST_LINES
