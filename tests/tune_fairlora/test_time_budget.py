"""Budgets and silences: time that has gone by is set, not waited for."""

import time

import pytest

from tests.processes import refusal
from tune_fairlora.cli import Parser, duration
from tune_fairlora.execution.time_budget import HangDetector, TimeBudget


def test_a_budget_leaves_time_for_the_end():
    now = time.monotonic()
    assert TimeBudget(600.0, now).end == pytest.approx(now + 585)
    assert TimeBudget(20.0, now).end == pytest.approx(now + 18)
    assert TimeBudget(20.0, now - 18.1).is_over() and not TimeBudget(20.0, now).is_over()
    assert not TimeBudget(None, now - 1e9).is_over()


def test_a_trial_is_begun_only_if_its_first_rung_can_be_reached():
    budget = TimeBudget(100.0)
    assert budget.suffices(1000)  # no epoch has been seen
    for seconds in (1.0, 10.0, 11.0):
        budget.learn(seconds)
    assert budget.suffices(8) and not budget.suffices(10)  # the median is 10 s, 90 s are left
    assert TimeBudget(None).suffices(10**9)


def test_a_trial_that_is_silent_for_too_long_is_found():
    hangs = HangDetector(600.0)
    hangs.heard(3)
    hangs.heard(4)
    assert hangs.silent() == []
    for number in (3, 4):
        hangs._heard[number] -= 601.0
    hangs.heard(4)
    assert hangs.silent() == [3]
    hangs.forget(3)
    assert hangs.silent() == []


def test_without_a_timeout_the_longest_epoch_decides():
    hangs = HangDetector()
    assert hangs.limit() is None
    hangs.learn(1.0)
    assert hangs.limit() == 600.0
    hangs.learn(100.0)
    hangs.learn(1.0)
    assert hangs.limit() == 2000.0


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("1h30m", 5400), ("1d", 86400)]
)
def test_times_are_read(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "30 m", "-5m", "0s", "1h 30m", "30min", "1e9s"])
def test_what_is_no_time_is_refused(text):
    parser = Parser("search", "")
    parser.add_argument("--time", type=duration)
    assert "a time" in refusal(parser.parse_args, [f"--time={text}"])
