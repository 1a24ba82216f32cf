"""Ray's side of a search: Ray Tune starts processes and brings results, and the controller decides.

Ray never retries a trial and its snapshots are never read: a trial that is to be tried again is a new one to Ray, under
the same number, and goes on from its own checkpoint.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import ray
from ray import tune
from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from trainables.trial.ray_trainable import RayTrainable
from tune_fairlora.execution.controller import SearchController
from tune_fairlora.execution.fast_start import import_meanwhile
from tune_fairlora.record.state import FAILED

RAY_FOLDER = "ray"
# What logging the front's models will need, torch among it: imported while a trial's processor has nothing left to do.
EXPORTING = ("trainables.export.predict",)
CONFIG_ERROR = re.compile(r"([\w.]+\.)?ConfigError\b")


class TimeIsUp(KeyboardInterrupt):
    """The time budget is used up: the search ends as it would at an interrupt."""


class Executor(tune.Callback):
    """Runs the trials of ``controller``, ``slots`` at once, until there are no more."""

    def __init__(self, controller: SearchController, slots: int, check: Callable[[], None]):
        """``check`` raises KeyboardInterrupt when the search is to end. It is called where no event is half-way."""
        self.controller, self.slots, self.check = controller, slots, check
        self._hung: dict[int, str] = {}
        self._imports = False

    def __getstate__(self) -> dict:
        """Nothing: Ray pickles what it is given for a restore of its own, which is never made."""
        return {}

    def run(self) -> None:
        self.tuner().fit()

    def tuner(self) -> tune.Tuner:
        """One resource shape for all methods, so that Ray hands a trial's process on to the next trial."""
        plan, context = self.controller.plan, self.controller.context
        shutil.rmtree(plan.folder / RAY_FOLDER, ignore_errors=True)  # of an earlier run of this search
        return tune.Tuner(
            tune.with_resources(RayTrainable, {"cpu": context["cpus"], "gpu": context["gpus"]}),
            tune_config=tune.TuneConfig(
                search_alg=self.controller.searcher,
                scheduler=RayScheduler(self.controller),
                num_samples=-1,  # the searcher says when it is over: retries are trials of Ray's, too
                max_concurrent_trials=self.slots,
                reuse_actors=True,
                trial_name_creator=_name,
                trial_dirname_creator=_name,
            ),
            run_config=tune.RunConfig(
                name=RAY_FOLDER,
                storage_path=str(plan.folder),
                callbacks=[self],
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            ),
        )

    def on_trial_start(self, iteration, trials, trial: RayTrial, **info) -> None:
        self.controller.clock.started(trial.config["number"])

    def on_trial_result(self, iteration, trials, trial: RayTrial, result: dict, **info) -> None:
        """Ray asks no scheduler about a trial's last result. What ``RayScheduler`` has passed on counts once."""
        self.controller.result(trial.config["number"], result["report"][0])

    def on_trial_complete(self, iteration, trials, trial: RayTrial, **info) -> None:
        self.controller.ended(trial.config["number"])
        idle = self.controller.last_are_at_work() and len(self.controller.open) < self.slots
        if idle and not self._imports:
            self._imports = True
            import_meanwhile(EXPORTING)

    def on_trial_error(self, iteration, trials, trial: RayTrial, **info) -> None:
        number = trial.config["number"]
        hung = self._hung.pop(number, None)
        reason = hung or error_line(trial)
        # A configuration that its data or model refuses will be refused again.
        self.controller.failed(number, reason, again=not hung and not CONFIG_ERROR.match(reason))

    def on_step_end(self, iteration, trials, **info) -> None:
        """Ray calls this about ten times a second, whatever the trials do."""
        self.check()
        if self.controller.clock.is_over():
            raise TimeIsUp
        silent = set(self.controller.clock.silent()) - self._hung.keys()
        for trial in trials if silent else ():
            if trial.config["number"] in silent and trial.temporary_state.ray_actor is not None:
                self._end_hung(trial)

    def _end_hung(self, trial: RayTrial) -> None:
        """A process that hangs does not listen, so it is killed; Ray then reports the error."""
        number = trial.config["number"]
        self._hung[number] = f"hung: no report for {self.controller.clock.limit():.0f} s (--trial-timeout)"
        ray.kill(trial.temporary_state.ray_actor)

    def tidy(self) -> None:
        """Once Ray is down: delete what it keeps of its own, unless a trial failed: then its traceback lies there."""
        self.controller.sweep()
        if not self.controller.record.count(FAILED):
            shutil.rmtree(self.controller.plan.folder / RAY_FOLDER, ignore_errors=True)


class RayScheduler(FIFOScheduler):
    """Asks the controller about each result, and tells Ray. Ray asks its scheduler before its callbacks."""

    def __init__(self, controller: SearchController):
        super().__init__()
        self.controller = controller

    def __getstate__(self) -> dict:
        return {}

    def on_trial_result(self, controller, trial: RayTrial, result: dict) -> str:
        goes_on = self.controller.result(trial.config["number"], result["report"][0])
        return TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP


def error_line(trial: RayTrial) -> str:
    """The last line of the error that ended ``trial``: the exception itself, below its traceback."""
    path = Path(trial.error_file or "")
    lines = [line.strip() for line in path.read_text().splitlines() if line.strip()] if path.is_file() else []
    if not lines:
        return "the trial's process ended without a word"
    dead = [line for line in lines if "actor died" in line.lower() or "worker died" in line.lower()]
    return (dead or lines)[-1]


def _name(trial: RayTrial) -> str:
    return f"trial-{trial.config['number']:04d}.{trial.trial_id}"
