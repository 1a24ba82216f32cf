"""Small versions of the two fault benchmarks: kill -9 at random moments, broken and hung trials, Ctrl-C and SIGTERM."""

import signal

import pytest

from tests.benchmarks import fault_test, kill_test
from tests.processes import patience

pytestmark = [pytest.mark.slow, pytest.mark.timeout(patience(1800))]


def test_a_search_that_is_killed_twice_equals_one_that_never_was(tmp_path):
    small = "--trials 7 --kills 3 --epochs 4 --window 12 --max-concurrent 1 --compare --confirm"
    assert kill_test.main([*small.split(), "--folder", str(tmp_path)]) == 0


def test_a_trial_whose_process_is_killed_goes_on_from_its_checkpoint_or_fails(tmp_path):
    assert fault_test.processes_killed(tmp_path, seed=1)


def test_a_trial_whose_process_hangs_is_ended_and_the_search_goes_on(tmp_path):
    assert fault_test.process_stopped(tmp_path, seed=1)


def test_an_interrupted_search_closes_everything_and_goes_on_with_what_it_printed(tmp_path):
    assert fault_test.interrupted(tmp_path, signal.SIGTERM, trials=5)


def test_a_process_that_is_killed_while_it_repeats_or_confirms_a_candidate_goes_on(tmp_path):
    assert fault_test.candidates_killed(tmp_path, seed=1)
