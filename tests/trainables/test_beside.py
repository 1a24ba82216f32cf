"""Work beside other work: one at a time, and no error is lost."""

import threading

import pytest

from tests.processes import patience
from trainables.beside import Beside


def test_the_caller_goes_on_meanwhile_and_waits_for_the_one_before():
    beside, gate, done = Beside(), threading.Event(), []
    beside.begin(lambda: gate.wait(patience(30)) and done.append(1))
    assert not done  # and we are here
    threading.Timer(0.2, gate.set).start()
    beside.begin(lambda: done.append(2))
    assert gate.is_set() and done[0] == 1
    beside.wait()
    assert done == [1, 2]
    beside.wait()  # of nothing


def test_an_error_shows_in_the_next_call_once():
    beside = Beside()
    beside.begin(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        beside.begin(lambda: pytest.fail("behind an error nothing is begun"))
    beside.wait()
    beside.begin(lambda: {}["x"])
    with pytest.raises(KeyError):
        beside.wait()
    beside.wait()
