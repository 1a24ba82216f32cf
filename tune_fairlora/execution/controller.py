"""What a search does with what its trials report: first the record, then the scheduler, the study and the terminal.

It knows nothing of Ray (``ray_executor.py``): whoever runs trials calls ``launch``, ``result``, ``ended``, ``failed``.
"""

import logging
from collections.abc import Callable
from typing import Any

from trainables import logits
from trainables.config import TrainConfig
from trainables.trial.checkpoints import discard, drop_checkpoint, drop_torn, load_checkpoint, trial_folder
from tune_fairlora.algorithms.scheduler import MultiObjectiveAsha, family_of
from tune_fairlora.algorithms.searcher import StudySearcher
from tune_fairlora.execution.terminal import Progress
from tune_fairlora.execution.time_budget import HangDetector, TimeBudget
from tune_fairlora.plan.plan import Plan
from tune_fairlora.plan.resume import to_go_on
from tune_fairlora.record.event_log import Record
from tune_fairlora.record.state import COMPLETE, DIVERGED, FAILED, INTERRUPTED, RUNNING, Trial
from tune_fairlora.record.tables import Renderer
from tune_fairlora.startup import fast_start_enabled

log = logging.getLogger(__name__)


class SearchController:
    """One search: its record, and what follows from each of its events. Also the searcher's ``TrialLauncher``."""

    def __init__(
        self, plan: Plan, record: Record, progress: Progress, budget: TimeBudget, hangs: HangDetector, gpus: float
    ):
        self.plan, self.record, self.progress, self.budget, self.hangs = plan, record, progress, budget, hangs
        self.gpus = gpus  # of a trial
        self.renderer = Renderer(record)
        self.open: set[int] = set()  # the trials that are running
        self.reserve: Callable[[], float] = lambda: 0.0  # seconds that are kept for what follows the search
        self._tables: dict[int, dict[str, Any]] = {}  # of each open trial's last epoch
        self._diverged: dict[int, str] = {}
        self._kept = self.kept()  # the trials whose weights stay on disk
        options = plan.options
        self.scheduler: MultiObjectiveAsha | None = None
        if options.scheduler != "none":
            periods = {"grace_period": options.grace_period, "reduction_factor": options.reduction_factor}
            guess = 1 / len(plan.manifest.classes)
            self.scheduler = MultiObjectiveAsha(plan.space.objectives, guess=guess, **periods)
        again = [trial.number for trial in to_go_on(record, options.max_failures)]
        self.searcher = self.make_searcher(again)

    def make_searcher(self, again: list[int]) -> StudySearcher:
        plan, options = self.plan, self.plan.options
        counts = (plan.trials, options.seeds, options.reseeds, plan.points, again)
        return StudySearcher(plan.space, plan.folder, options.sampler, options.seed, self.record, self, *counts)

    def take_up(self) -> None:
        """Bring everything to where the log is: scheduler, budget and hang detector learn what they knew. A trial that
        has reached its end already does not go on."""
        for event in self.record.events:
            if event["event"] == "epoch":
                self._learn(event["seconds"])
                trial = self.record.trials[event["number"]]
                if self.scheduler is not None and trial.repeats is None:
                    values = trial.values
                    family = family_of(values["method"])
                    self.scheduler.replay(event["number"], event["epoch"], values["epochs"], event["metrics"], family)
        for trial in [self.record.trials[number] for number in self.searcher.again]:
            if trial.epochs and len(trial.epochs) not in trial.decisions:
                self._judge(trial)  # the search died between a report and the decision on it
            if trial.stopped:
                self.searcher.again.remove(trial.number)
                self._close_stopped(trial)

    def _learn(self, seconds: float) -> None:
        self.budget.learn(seconds)
        self.hangs.learn(seconds)

    def _close_stopped(self, trial: Trial) -> None:
        """End a trial whose search died between the decision to stop it and its end."""
        if trial.status != RUNNING:
            self.record.add("launch", number=trial.number)
        checkpoint = load_checkpoint(trial_folder(self.plan.folder, trial.number))
        result = checkpoint["result"] if checkpoint else {}
        tables = result["tables"] if result.get("epoch") == len(trial.epochs) else {}  # it may be an epoch behind
        self.finish(trial.number, *self.record.outcome(trial.number), tables)

    def launch(self, number: int, config: TrainConfig, repeats: int | None = None) -> dict[str, Any]:
        """Record that a trial starts, once more with the configuration of trial ``repeats`` or with one of its own, or
        goes on from its last epoch; returns what its process needs."""
        if number not in self.record.trials:
            told = {"values": config.hyperparameters(), "config_id": config.config_id, "seed": config.seed}
            self.record.add("start", number=number, **told, repeats=repeats)
        else:
            self.record.add("launch", number=number)
        self.open.add(number)
        trial, plan = self.record.trials[number], self.plan
        context: dict[str, Any] = {"store": str(plan.store), "weights": plan.weights, "folder": str(plan.folder)}
        context |= {"cpus": plan.options.cpus_per_trial, "gpus": self.gpus, "lean_peft": fast_start_enabled()}
        context |= {"test": True} if plan.test else {}
        return {"number": number, "values": trial.values, "reported": len(trial.epochs), "context": context}

    def may_start(self, whole: bool = False) -> bool:
        """Whether a new trial would reach its first rung in time, or its end (``whole``), with what is in reserve;
        before that it is of no use to the search."""
        epochs = self.plan.epochs
        rungs = self.scheduler.rungs(epochs) if self.scheduler and not whole else ()
        return self.budget.suffices(rungs[0] if rungs else epochs, self.reserve())

    def time_spent(self) -> float:
        return self.budget.spent(self.reserve())

    def busy(self) -> bool:
        return bool(self.open)

    def result(self, number: int, result: dict[str, Any]) -> bool:
        """Take one epoch's ``result`` of a trial; returns whether it is to go on."""
        if "diverged" in result:
            self._diverged[number] = f"Diverged: {result['diverged']}"
            return False
        trial = self.record.trials[number]
        self._tables[number] = result["tables"]
        self.hangs.heard(number)
        if result["epoch"] == len(trial.epochs) + 1:  # else it was trained again, as its checkpoint was lost
            fields = ("epoch", "metrics", "seconds", "times", "device", "pid")  # an older checkpoint's has no times
            self.record.add("epoch", number=number, **{name: result[name] for name in fields if name in result})
            self._learn(result["seconds"])
            self._judge(trial)
        return not trial.stopped and not result["done"]

    def _judge(self, trial: Trial) -> None:
        """Ask the scheduler about the trial's last epoch, and write down what it says. A configuration is judged once:
        what its first seed was found worth its later ones are, too."""
        if self.scheduler is None or trial.repeats is not None:
            return
        epoch, budget, family = len(trial.epochs), trial.values["epochs"], family_of(trial.values["method"])
        decision = self.scheduler.report(trial.number, epoch, budget, trial.metrics, family)
        if decision is not None:
            self.record.add("decision", number=trial.number, epoch=epoch, keep=decision.keep, text=decision.text)

    def ended(self, number: int) -> None:
        """A trial came to its end without an error: at full fidelity, stopped, or diverged."""
        diverged = self._diverged.pop(number, None)
        self.finish(number, *((DIVERGED, diverged) if diverged else self.record.outcome(number)))

    def failed(self, number: int, reason: str, again: bool = True) -> None:
        """A trial's process broke: try it again from its last epoch, as often as ``max_failures`` says."""
        trial = self.record.trials[number]
        if number not in self.open or trial.status != RUNNING:
            return  # Ray may say it twice
        self.record.add("fault", number=number, reason=reason)
        if again and trial.faults <= self.plan.options.max_failures:
            self.open.discard(number)
            self.hangs.forget(number)
            self.searcher.again.append(number)
            self.progress.tried_again(number, reason, self.plan.options.max_failures)
        else:
            self.finish(number, FAILED, reason)

    def finish(self, number: int, status: str, reason: str, tables: dict[str, Any] | None = None) -> None:
        """Close an open trial: log, study, files, terminal. Only the first time counts."""
        trial = self.record.trials[number]
        if trial.status != RUNNING:
            return
        tables = self._tables.pop(number, {}) if tables is None else tables
        self.record.add("end", number=number, status=status, reason=reason, tables=tables)
        self.open.discard(number)
        self.hangs.forget(number)
        if status != INTERRUPTED:  # which goes on when the search is resumed
            try:
                self.searcher.tell(trial)
            except OSError:  # where the disk is full, the study hears of it from the log when the search is resumed
                log.exception("the journal could not be written")
            self._prune(number)
        self.progress.ended(number)
        self.renderer.due.set()

    def end_open_trials(self, why: str) -> None:
        """Close every trial that is still open as what it is: interrupted, by a signal or by the search's failure."""
        for number, trial in list(self.record.trials.items()):
            if trial.status == RUNNING:
                self.finish(number, INTERRUPTED, f"{INTERRUPTED} after epoch {len(trial.epochs)} (search {why})")

    def _prune(self, number: int) -> None:
        """Delete the files of trials that are off the front and hardly come back to it. One whose process failed may be
        tried again when the search is resumed: what it can go on from stays."""
        trial, members = self.record.trials[number], self.kept()
        if trial.status == COMPLETE:
            drop_checkpoint(self.plan.folder, number)
        else:
            logits.drop(self.plan.folder, number)
        leaving = self._kept - members
        if number not in members and not (trial.status == FAILED and trial.faults):
            leaving.add(number)
        for dropped in leaving:
            discard(self.plan.folder, dropped)
        self._kept = members

    def sweep(self) -> None:
        """Delete once more the files of trials that cannot go on: a process may have been about to write a checkpoint
        when they were deleted. Of the other trials, delete what a process that was killed has half written."""
        members, gone = self.kept(), []
        for number, trial in self.record.trials.items():
            ended = trial.status not in (RUNNING, INTERRUPTED) and not (trial.status == FAILED and trial.faults)
            (discard if ended and number not in members else drop_torn)(self.plan.folder, number)
            if ended and trial.status != COMPLETE:
                gone.append(number)
        logits.sweep(self.plan.folder, gone)

    def last_are_running(self) -> bool:
        """Whether no trial is left to be started."""
        return not self.searcher.left()

    def complete(self) -> bool:
        return not self.open and self.last_are_running()

    def kept(self) -> set[int]:
        """The trials whose weights stay: the front's, and those of its rivals."""
        return {*self.record.front(), *self.record.rivals()}
