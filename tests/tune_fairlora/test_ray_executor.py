"""Why a trial failed, as Ray tells it: real processes that raise, or die."""

import os

import pytest

from trainables.config import ConfigError
from tune_fairlora.execution.ray_executor import error_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reasons(tmp_path_factory) -> dict[str, tuple[str, bool]]:
    """What ``error_of`` says of trials that end in different ways."""
    import ray
    from ray import tune

    class TooLarge(ConfigError):
        """As the core's own exceptions are."""

    class Ends(tune.Trainable):
        def step(self):
            if self.config["way"] == "dies":
                os._exit(1)
            raise self.config["way"]

    found = {}

    class Reads(tune.Callback):
        def on_trial_error(self, iteration, trials, trial, **info):
            way = trial.config["way"]
            found[way if isinstance(way, str) else type(way).__name__] = error_of(trial)

    ways = [ConfigError("first\n  lr >= 0 must hold"), TooLarge("too large"), RuntimeError("ConfigError"), "dies"]
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        run = tune.RunConfig(storage_path=str(tmp_path_factory.mktemp("ray")), callbacks=[Reads()], verbose=0)
        tune.Tuner(Ends, param_space={"way": tune.grid_search(ways)}, run_config=run).fit()
    finally:
        ray.shutdown()
    return found


def test_what_a_configuration_is_refused_for_is_not_tried_again(reasons):
    assert reasons["ConfigError"] == ("lr >= 0 must hold", False)
    line, again = reasons["TooLarge"]
    assert line.endswith("TooLarge: too large") and not again


def test_what_may_have_been_bad_luck_is_tried_again(reasons):
    """The class decides, and not a word in the message."""
    assert reasons["RuntimeError"] == ("RuntimeError: ConfigError", True)
    line, again = reasons["dies"]
    assert "died" in line.lower() and again
