"""Ray's side of a search: Ray Tune starts processes and brings results, and the controller decides.

Ray never retries a trial and its snapshots are never read: a trial that is to be tried again is a new one to Ray, under
the same number, and goes on from its own checkpoint.
"""

import contextlib
import shutil
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle, tune
from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from trainables.config import ConfigError
from trainables.trial.ray_trainable import RayTrainable
from tune_fairlora.execution.controller import SearchController
from tune_fairlora.execution.fast_start import import_meanwhile
from tune_fairlora.record.state import FAILED

RAY_FOLDER = "ray"
# What logging the front's models will need, torch among it: imported while a trial's processor has nothing left to do.
EXPORT_MODULES = ("trainables.export.predict",)


class TimeIsUp(KeyboardInterrupt):
    """The time budget is used up: the search ends as it would at an interrupt, which Ray lets through."""


class RayExecutor(tune.Callback):
    """Runs the trials of ``controller``, ``slots`` at once, until there are no more, and then those of the controller
    that ``following`` returns, if any: in the same processes, which have everything in memory."""

    def __init__(
        self,
        controller: SearchController,
        slots: int,
        check: Callable[[], None],
        following: Callable[[], SearchController | None] | None = None,
    ):
        """``check`` raises KeyboardInterrupt when the search is to end. It is called where no event is half-way."""
        self.first = self.controller = controller
        self.slots, self.check, self._following = slots, check, following
        self._hung: dict[int, str] = {}  # reasons by trial
        self.imported: threading.Event | None = None  # set once ``EXPORT_MODULES`` are

    def __getstate__(self) -> dict[str, object]:
        """Nothing: Ray pickles what it is given for a restore of its own, which is never made."""
        return {}

    def run(self) -> None:
        """Return when all trials have ended. One resource shape for all methods, so that Ray hands a trial's process on
        to the next trial."""
        folder = self.first.plan.folder
        shutil.rmtree(folder / RAY_FOLDER, ignore_errors=True)  # of an earlier run of this search
        resources = {"cpu": self.first.plan.options.cpus_per_trial, "gpu": self.first.gpus}
        tune.Tuner(
            tune.with_resources(RayTrainable, resources),
            tune_config=tune.TuneConfig(
                search_alg=Suggestions(self),
                scheduler=SchedulerAdapter(self),
                num_samples=-1,  # the searcher says when it is over: retries are trials of Ray's, too
                max_concurrent_trials=self.slots,
                reuse_actors=True,
                trial_name_creator=_name,
                trial_dirname_creator=_name,
            ),
            run_config=tune.RunConfig(
                name=RAY_FOLDER,
                storage_path=str(folder),
                callbacks=[self],
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            ),
        ).fit()

    def advance(self) -> bool:
        """Go on with the following controller, once; whether there is one."""
        following, self._following = self._following and self._following(), None
        if following is None:
            return False
        self.controller = following
        self._hung.clear()
        following.take_up()
        return True

    def on_trial_start(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: object) -> None:
        self.controller.hangs.heard(trial.config["number"])

    def on_trial_complete(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: object) -> None:
        self.controller.ended(trial.config["number"])
        last = self._following is None and self.controller.last_are_running()
        if last and len(self.controller.open) < self.slots and self.imported is None:
            self.imported = import_meanwhile(EXPORT_MODULES)

    def on_trial_error(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: object) -> None:
        number = trial.config["number"]
        if reason := self._hung.pop(number, None):
            self.controller.failed(number, reason, again=False)
        else:
            self.controller.failed(number, *error_of(trial))

    def on_step_end(self, iteration: int, trials: list[RayTrial], **info: object) -> None:
        """Ray calls this about ten times a second, whatever the trials do."""
        self.check()
        if self.controller.budget.is_over():
            raise TimeIsUp
        silent = set(self.controller.hangs.silent()) - self._hung.keys()
        for trial in trials if silent else ():
            number, actor = trial.config["number"], trial.temporary_state.ray_actor
            if number in silent and actor is not None:
                limit = self.controller.hangs.limit()
                self._hung[number] = f"hung: no report for {limit:.0f} s (--trial-timeout)"
                ray.kill(actor)  # a process that hangs does not listen; Ray then reports the error

    def tidy(self) -> None:
        """Once Ray is down: delete what it keeps of its own, unless a trial failed: then its traceback lies there."""
        self.first.sweep()
        if not self.first.record.count(FAILED):
            shutil.rmtree(self.first.plan.folder / RAY_FOLDER, ignore_errors=True)


class Suggestions(Searcher):
    """What the searcher of the executor's controller suggests, then that of the following one."""

    def __init__(self, executor: RayExecutor):
        super().__init__()
        self.executor = executor

    def __getstate__(self) -> dict[str, object]:
        return {}

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: object
    ) -> bool:
        """Ray asks whether its own metric and space are taken: the search has its own, so there must be none."""
        return metric is None and not config

    # Ray's annotation leaves out FINISHED, a text, which its docstring names.
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        imported, searcher = self.executor.imported, self.executor.controller.searcher
        if imported is not None and not imported.is_set() and searcher.left():
            return None  # a trial that is to be tried again: Ray must not unpickle while torch is being imported
        suggestion = searcher.suggest(trial_id)
        if suggestion == Searcher.FINISHED and self.executor.advance():
            return self.executor.controller.searcher.suggest(trial_id)
        return suggestion

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: the controller hears of the outcome, and the searcher once the log holds it."""

    def save(self, checkpoint_path: str) -> None:
        """Write a placeholder: Ray's snapshots are never read."""
        Path(checkpoint_path).write_text("{}")

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a search is restored from its own record, never from Ray's snapshot")


class SchedulerAdapter(FIFOScheduler):
    """Takes results to the controller, which decides: Ray hands every result of every trial to its scheduler, once.

    Ray stops a trial whose result says ``done`` without asking its scheduler. So ``RayTrainable`` keeps ``done`` inside
    its report, and the controller stops a trial at its last epoch as at any other.
    """

    def __init__(self, executor: RayExecutor):
        super().__init__()
        self.executor = executor

    def __getstate__(self) -> dict[str, object]:
        return {}

    def on_trial_result(self, tune_controller: object, trial: RayTrial, result: dict[str, Any]) -> str:
        goes_on = self.executor.controller.result(trial.config["number"], result["report"][0])
        return TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP


def error_of(trial: RayTrial) -> tuple[str, bool]:
    """Why ``trial`` failed, in a line, and whether trying again may help: not where its configuration, data or model
    was refused, as it will be refused again."""
    cause, text = None, ""
    # Ray's own methods look where it copies these files to, later.
    with contextlib.suppress(Exception):  # there is none, or it does not survive pickling
        cause = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes()).cause
    if isinstance(cause, Exception):  # of the trial's own code
        text = "".join(traceback.format_exception_only(cause))
    elif trial.error_file and Path(trial.error_file).is_file():  # its process died, or Ray itself failed
        text = Path(trial.error_file).read_text()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return "the trial's process ended without a word", True
    died = [line for line in lines if "actor died" in line.lower() or "worker died" in line.lower()]
    return (died or lines)[-1], not isinstance(cause, ConfigError)


def _name(trial: RayTrial) -> str:
    return f"trial-{trial.config['number']:04d}.{trial.trial_id}"
