"""What a search does with what its trials report: first the record, then the scheduler, the study and the terminal.

Knows nothing of Ray (``ray_executor.py``): whoever runs trials calls ``launch``, ``result``, ``ended``, ``failed``.
"""

import logging

from trainables.config import TrainConfig
from trainables.trial.checkpoints import discard, drop_checkpoint, drop_torn, load_checkpoint, trial_folder
from tune_fairlora.algorithms.moasha import MultiObjectiveAsha, family_of
from tune_fairlora.algorithms.searcher import StudySearcher
from tune_fairlora.execution.terminal import Progress
from tune_fairlora.execution.time_budget import Clock
from tune_fairlora.plan.plan import Plan
from tune_fairlora.plan.resume import to_go_on
from tune_fairlora.record.event_log import Record
from tune_fairlora.record.state import COMPLETE, DIVERGED, FAILED, INTERRUPTED, RUNNING, Trial
from tune_fairlora.record.tables import Renderer

log = logging.getLogger(__name__)


class SearchController:
    """One search: its record, and what follows from each of its events. Also the searcher's ``TrialLauncher``."""

    def __init__(self, plan: Plan, record: Record, progress: Progress, clock: Clock, gpus: float):
        self.plan, self.record, self.progress, self.clock = plan, record, progress, clock
        self.renderer = Renderer(record)
        self.open: set[int] = set()  # at work now
        self._tables: dict[int, dict] = {}  # of each open trial's last epoch
        self._diverged: dict[int, str] = {}
        self._stopped: set[int] = set()  # whom the scheduler has stopped
        self._kept = kept(record)  # whose weights stay on disk
        self.context = {
            "store": str(plan.store),
            "weights": plan.weights,
            "folder": str(plan.folder),
            "cpus": plan.options.cpus_per_trial,
            "gpus": gpus,
        }
        self.scheduler = make_scheduler(plan)
        again = [trial.number for trial in to_go_on(record, plan.options.max_failures)]
        options = plan.options
        many = (plan.trials, options.seeds, plan.points, again)
        self.searcher = StudySearcher(plan.space, plan.folder, options.sampler, options.seed, record, self, *many)

    def take_up(self) -> None:
        """Bring everything to where the log is. A trial that is at its end already does not go on."""
        for event in self.record.events:
            self._recall(event)
        for trial in [self.record.trials[number] for number in self.searcher.again]:
            if trial.epochs and len(trial.epochs) not in trial.decisions:
                self._judge(trial)  # the search died between a report and the decision on it
            if trial.number in self._stopped:
                self.searcher.again.remove(trial.number)
                self._close_stopped(trial)

    def _recall(self, event: dict) -> None:
        """What the scheduler and the clock knew; the scheduler decides as it did then."""
        if event["event"] == "epoch":
            self.clock.learn(event["seconds"])
            values = self.record.trials[event["number"]].values
            if self.scheduler is not None:
                family = family_of(values["method"])
                self.scheduler.replay(event["number"], event["epoch"], values["epochs"], event["metrics"], family)
        elif event["event"] == "decision" and not event["keep"]:
            self._stopped.add(event["number"])

    def _close_stopped(self, trial: Trial) -> None:
        """The search died between the decision to stop a trial and its end."""
        if trial.status != RUNNING:
            self.record.add("launch", number=trial.number)
        saved = load_checkpoint(trial_folder(self.plan.folder, trial.number))
        own = saved is not None and saved["result"]["epoch"] == len(trial.epochs)  # it may be an epoch behind
        self.finish(trial.number, *self.record.outcome(trial.number), saved["result"]["tables"] if own else {})

    def launch(self, number: int, config: TrainConfig) -> dict:
        """The searcher gives a trial out: a new one, or one that goes on from its last epoch."""
        known = self.record.trials.get(number)
        if known is None:
            values = config.hyperparameters()
            self.record.add("start", number=number, values=values, config_id=config.config_id, seed=config.seed)
        else:
            self.record.add("launch", number=number)
        self.open.add(number)
        trial = self.record.trials[number]
        return {"number": number, "values": trial.values, "reported": len(trial.epochs), "context": self.context}

    def may_start(self) -> bool:
        return self.clock.suffices(self._epochs_to_first_rung())

    def _epochs_to_first_rung(self) -> int:
        """Of a new trial: before that, nothing of it is worth anything to the search."""
        budget = self.plan.space.config({}, 0).epochs
        rungs = self.scheduler.rungs(budget) if self.scheduler else ()
        return rungs[0] if rungs else budget

    def busy(self) -> bool:
        return bool(self.open)

    def result(self, number: int, result: dict) -> bool:
        """Take one epoch's ``result`` of a trial; whether it is to go on. A result that is told twice counts once."""
        if "diverged" in result:
            self._diverged[number] = f"Diverged: {result['diverged']}"
            return False
        trial = self.record.trials[number]
        self._tables[number] = result["tables"]
        if result["epoch"] == len(trial.epochs) + 1:
            self._new_epoch(trial, result)
        else:  # trained again, as its checkpoint was lost: a sign of life, and nothing new
            self.clock.started(number)
        return number not in self._stopped and not result["done"]

    def _new_epoch(self, trial: Trial, result: dict) -> None:
        known = ("epoch", "metrics", "seconds", "times", "device", "pid")
        entry = {name: result[name] for name in known if name in result}  # an older checkpoint's has no times
        self.record.add("epoch", number=trial.number, **entry)
        self.clock.saw(trial.number, result["seconds"])
        self._judge(trial)

    def _judge(self, trial: Trial) -> None:
        """Ask the scheduler about the trial's last epoch, and write down what it says."""
        if self.scheduler is None:
            return
        epoch, budget = len(trial.epochs), trial.values["epochs"]
        decision = self.scheduler.report(trial.number, epoch, budget, trial.metrics, family_of(trial.values["method"]))
        if decision is None:
            return
        keep, text = decision.keep, decision.text
        gone = [n for n in self.record.siblings(trial.number) if n in self._stopped]
        if keep and gone:  # the front takes a configuration with all its seeds or not at all
            keep, text = False, f"stopped at epoch {epoch}: trial {gone[0]}, another seed of it, was stopped"
        if epoch not in trial.decisions:
            self.record.add("decision", number=trial.number, epoch=epoch, keep=keep, text=text)
        if not keep:
            self._stopped.add(trial.number)

    def ended(self, number: int) -> None:
        """A trial came to its end without an error: at full fidelity, stopped, or diverged."""
        reason = self._diverged.pop(number, None)
        status, reason = (DIVERGED, reason) if reason else self.record.outcome(number)
        self.finish(number, status, reason)

    def failed(self, number: int, reason: str, again: bool = True) -> None:
        """A trial's process broke: try it again from its last epoch, as often as ``max_failures`` says."""
        trial = self.record.trials[number]
        if number not in self.open or trial.status != RUNNING:
            return  # Ray may say it twice
        self.record.add("fault", number=number, reason=reason)
        if again and trial.faults <= self.plan.options.max_failures:
            self.open.discard(number)
            self.clock.forget(number)
            self.searcher.again.append(number)
            self.progress.tried_again(number, reason, self.plan.options.max_failures)
        else:
            self.finish(number, FAILED, reason)

    def finish(self, number: int, status: str, reason: str, tables: dict | None = None) -> None:
        """Close an open trial: log, study, files, terminal. Only the first time counts."""
        trial = self.record.trials[number]
        if trial.status != RUNNING:
            return
        tables = self._tables.pop(number, {}) if tables is None else tables
        self.record.add("end", number=number, status=status, reason=reason, tables=tables)
        self.open.discard(number)
        self.clock.forget(number)
        if status != INTERRUPTED:  # which goes on when the search is resumed
            self._tell(trial)
            self._prune(number)
        self.progress.ended(number)
        self.renderer.due.set()

    def _tell(self, trial: Trial) -> None:
        """Where the disk is full, the study hears of it from the log when the search is resumed."""
        try:
            self.searcher.tell(trial)
        except OSError:
            log.exception("the journal could not be written")

    def end_open_trials(self, why: str) -> None:
        """Close every trial that is still open as what it is: interrupted, by a signal or by the search's failure."""
        for number, trial in list(self.record.trials.items()):
            if trial.status == RUNNING:
                self.finish(number, INTERRUPTED, f"{INTERRUPTED} after epoch {len(trial.epochs)} (search {why})")

    def _prune(self, number: int) -> None:
        """A trial that is off the front never comes back to it: its files can go. One whose process failed may be tried
        again when the search is resumed: what it can go on from stays."""
        trial, members = self.record.trials[number], kept(self.record)
        if trial.status == COMPLETE:
            drop_checkpoint(self.plan.folder, number)
        leaving = self._kept - members
        if number not in members and not (trial.status == FAILED and trial.faults):
            leaving.add(number)
        for dropped in leaving:
            discard(self.plan.folder, dropped)
        self._kept = members

    def sweep(self) -> None:
        """Discard once more what belongs to no trial that can go on: a process may have been about to write a
        checkpoint when its trial's files were deleted. Of the others, what one that was killed has half written."""
        members = kept(self.record)
        for number, trial in self.record.trials.items():
            ended = trial.status not in (RUNNING, INTERRUPTED) and not (trial.status == FAILED and trial.faults)
            (discard if ended and number not in members else drop_torn)(self.plan.folder, number)

    def last_are_at_work(self) -> bool:
        """Whether no trial is left to be started."""
        return not self.searcher.again and self.searcher.next >= self.searcher.trials

    def complete(self) -> bool:
        """Whether every trial that was to be is there and at its end."""
        return not self.open and self.last_are_at_work()


def kept(record: Record) -> set[int]:
    """Whose weights stay: the front, and who may still come onto it when other seeds end."""
    return {*record.front(), *record.undecided()}


def make_scheduler(plan: Plan) -> MultiObjectiveAsha | None:
    """The scheduler that ``plan`` names; None for ``none``."""
    if plan.options.scheduler == "none":
        return None
    guess = 1 / len(plan.manifest.classes)
    options = {"grace_period": plan.options.grace_period, "reduction_factor": plan.options.reduction_factor}
    return MultiObjectiveAsha(plan.space.objectives, guess=guess, **options)
