"""Budgets and silences, in real seconds but short ones."""

import time

import pytest

from tests.processes import refusal
from tune_fairlora.cli import Parser, duration
from tune_fairlora.execution.time_budget import Clock


def test_a_budget_leaves_time_for_the_end():
    now = time.monotonic()
    assert Clock(600.0, started=now).end == pytest.approx(now + 585)
    assert Clock(20.0, started=now).end == pytest.approx(now + 18)
    assert Clock(20.0, started=now - 18.1).is_over() and not Clock(20.0, started=now).is_over()
    assert not Clock(None, started=now - 1e9).is_over()


def test_a_trial_is_begun_only_if_its_first_rung_can_be_reached():
    clock = Clock(100.0)
    assert clock.suffices(1000)  # nothing is known yet
    for seconds in (1.0, 10.0, 11.0):
        clock.learn(seconds)
    assert clock.suffices(8) and not clock.suffices(10)  # the median is 10 s, 90 s are left
    assert Clock(None).suffices(10**9)


def test_a_trial_that_is_silent_for_too_long_is_found():
    clock = Clock(timeout=0.05)
    clock.started(3)
    clock.started(4)
    assert clock.silent() == []
    time.sleep(0.06)
    clock.saw(4, 0.01)
    assert clock.silent() == [3]
    clock.forget(3)
    assert clock.silent() == []


def test_without_a_timeout_the_longest_epoch_decides():
    clock = Clock()
    assert clock.limit() is None
    clock.saw(0, 1.0)
    assert clock.limit() == 600.0
    clock.saw(0, 100.0)
    clock.saw(0, 1.0)
    assert clock.limit() == 2000.0


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("1h30m", 5400), ("1d", 86400)]
)
def test_times_are_read(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "30 m", "-5m", "0s", "1h 30m", "30min", "1e9s"])
def test_what_is_no_time_is_refused(text):
    parser = Parser()
    parser.add_argument("--time", type=duration)
    assert "a time" in refusal(parser.parse_args, [f"--time={text}"])
