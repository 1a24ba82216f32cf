"""Between Ray and the rest: what Ray reports goes into the record first, then to the study, MLflow and the terminal."""

import shutil
import time
from pathlib import Path

from ray import tune
from ray.tune.experiment import Trial as RayTrial

from trainables.config import TrainConfig
from trainables.ray_trainable import RayTrainable, discard
from tune_fairlora.plan import Plan
from tune_fairlora.progress import Progress
from tune_fairlora.record import FAILED, INTERRUPTED, RUNNING, Record
from tune_fairlora.render import render
from tune_fairlora.searcher import StudySearcher
from tune_fairlora.tracking import Tracker

RENDER_SECONDS = 5


class Conductor(tune.Callback):
    """Ray Tune's callback of one search."""

    def __init__(self, plan: Plan, record: Record, tracker: Tracker, progress: Progress, gpus: float):
        self.plan, self.record, self.tracker, self.progress, self.gpus = plan, record, tracker, progress, gpus
        self._tables: dict[int, dict] = {}  # of each open trial's last epoch
        self._diverged: dict[int, str] = {}
        self._kept: set[int] = set()  # front members, whose weights stay on disk
        self._rendered = 0.0
        context = {
            "store": str(plan.store),
            "weights": plan.weights,
            "folder": str(plan.folder),
            "cpus": plan.cpus,
            "gpus": gpus,
        }
        self.searcher = StudySearcher(
            plan.space, plan.folder, plan.sampler, plan.seed, context, self._started, plan.seeds
        )

    def __getstate__(self) -> dict:
        """Nothing: Ray pickles what it is given for a restore of its own, which is never made."""
        return {}

    def tuner(self, slots: int) -> tune.Tuner:
        """One resource shape for all methods, so that Ray hands a trial's process on to the next trial."""
        trainable = tune.with_resources(RayTrainable, {"cpu": self.plan.cpus, "gpu": self.gpus})
        return tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=self.searcher,
                num_samples=self.plan.trials,
                max_concurrent_trials=slots,
                reuse_actors=True,
                trial_name_creator=_name,
                trial_dirname_creator=_name,
            ),
            run_config=tune.RunConfig(
                name="ray",
                storage_path=str(self.plan.folder),
                callbacks=[self],
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            ),
        )

    def _started(self, number: int, config: TrainConfig) -> None:
        values = config.hyperparameters()
        self.record.add("start", number=number, values=values, config_id=config.config_id, seed=config.seed)
        self.tracker.start_trial(number)

    def on_trial_result(self, iteration, trials, trial: RayTrial, result: dict, **info) -> None:
        number = trial.config["number"]
        if "diverged" in result:
            self._diverged[number] = f"Diverged: {result['diverged']}"
            return
        self._tables[number] = result["tables"]
        entry = {name: result[name] for name in ("epoch", "metrics", "seconds", "device", "pid")}
        self.record.add("epoch", number=number, **entry)
        self.tracker.epoch(number, entry["epoch"], entry["metrics"], time.time())

    def on_trial_complete(self, iteration, trials, trial: RayTrial, **info) -> None:
        number = trial.config["number"]
        self._finish(number, *self.record.outcome(number, self._diverged.pop(number, None)))

    def on_trial_error(self, iteration, trials, trial: RayTrial, **info) -> None:
        number = trial.config["number"]
        self._finish(number, *self.record.outcome(number, error_line(trial)))

    def end_open_trials(self, why: str) -> None:
        """Close every trial that is still open as what it is: interrupted, by a signal or by the search's failure."""
        for number, trial in list(self.record.trials.items()):
            if trial.status == RUNNING:
                self._finish(number, INTERRUPTED, f"{INTERRUPTED} after epoch {len(trial.epochs)} (search {why})")

    def tidy(self) -> None:
        """Delete what Ray keeps of its own, unless a trial failed: then its traceback lies there."""
        if not self.record.count(FAILED):
            shutil.rmtree(self.plan.folder / "ray", ignore_errors=True)

    def _finish(self, number: int, status: str, reason: str) -> None:
        """Ray may say it twice (an error, then a retry's end): only the first counts."""
        trial = self.record.trials[number]
        if trial.status != RUNNING:
            return
        tables = self._tables.pop(number, {})
        self.record.add("end", number=number, status=status, reason=reason, tables=tables)
        values = [trial.metrics.get(name) for name in self.record.objectives]
        self.searcher.tell(number, status, reason, values)
        self._prune(number)
        self.tracker.end_trial(number)
        self.progress.ended(number)
        if time.monotonic() - self._rendered > RENDER_SECONDS:
            render(self.record)
            self._rendered = time.monotonic()

    def _prune(self, number: int) -> None:
        """A complete trial that is off the front never comes back to it: its weights can go."""
        members = {*self.record.front(), *self.record.undecided()}
        for dropped in (self._kept | {number}) - members:
            if self.record.trials[dropped].status != INTERRUPTED:
                discard(self.plan.folder, dropped)
        self._kept = members


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
