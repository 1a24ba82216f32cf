"""The samplers, and the searcher: a Ray Tune Searcher over an Optuna study whose memory is a file in the folder.

Ray's own OptunaSearch tells early-stopped trials as complete, leaves NaN trials running and drops a restored trial's
result; hence this one. The trial's Optuna number is its identity everywhere.
"""

import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from warnings import catch_warnings, simplefilter

import optuna
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from ray.tune.search import Searcher

from search_spaces.space import Space
from trainables.config import TrainConfig
from trainables.seeds import seed_for
from tune_fairlora.algorithms.study import STUDY_FILE, SearchStudy, forget_outcomes
from tune_fairlora.record.state import COLLAPSED, COMPLETE, STOPPED, State, Trial

OPTUNA_STATES = {COMPLETE: TrialState.COMPLETE, STOPPED: TrialState.PRUNED, COLLAPSED: TrialState.PRUNED}
WORST_VIOLATION = 1e9  # of a constraint whose metric has no value


def _tpe(seed: int) -> TPESampler:
    # `group` samples the parameters of each method jointly although the methods' sets differ; `constant_liar` keeps
    # trials that run side by side apart.
    return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


# Each makes an Optuna sampler from a seed. The names stand in ``plan/search_options.py`` too (SAMPLER_NAMES), so that
# ``--help`` needs no Optuna. A Gaussian process models what all trials share; TPE draws what only some methods have.
SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": _tpe,
    "random": lambda seed: RandomSampler(seed=seed),
    "nsga2": lambda seed: NSGAIISampler(seed=seed),
    "gp": lambda seed: GPSampler(seed=seed, independent_sampler=_tpe(seed), deterministic_objective=False),
    "grid": lambda seed: RandomSampler(seed=seed),  # never asked: every point of a grid is enqueued
}


def make_sampler(name: str, seed: int) -> BaseSampler:
    """The Optuna sampler called ``name``, whose randomness is ``seed`` alone. It is made anew for each point, so that a
    resumed search goes on as it would have: it keeps no state."""
    with catch_warnings():
        simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return SAMPLERS[name](seed % 2**32)  # numpy's legacy generator takes 32 bits


class TrialLauncher(Protocol):
    """Whoever runs the trials: notes that one starts or goes on and returns what Ray's trial is to get; knows whether
    the time that is left suffices for another, and whether some are at work."""

    def launch(self, number: int, config: TrainConfig) -> dict[str, Any]: ...
    def may_start(self) -> bool: ...
    def busy(self) -> bool: ...


class StudySearcher(Searcher):
    """Suggests configurations of ``space`` to Ray Tune and is told outcomes by number.

    ``state`` is what the log says of the search so far: its trials are in the study already, and the next one has the
    next number. ``trials`` is how many there are in all, ``enqueue`` holds points (values by field) to try first,
    ``again`` the trials that go on or are tried again, before any new one.

    The sampler's randomness is a hash of (seed, trial number), fresh at each suggestion, so that a restart changes no
    later one. Each point is tried with ``seeds`` training seeds, ``seed`` and the next ones, in trials of consecutive
    numbers: trial n is seed n modulo ``seeds`` of point n // ``seeds``. The study is told each as a trial of its own,
    so that the sampler sees how noisy a point is.
    """

    def __init__(
        self,
        space: Space,
        folder: Path,
        sampler: str,
        seed: int,
        state: State,
        launcher: TrialLauncher,
        trials: int,
        seeds: int = 1,
        enqueue: Sequence[Mapping[str, Any]] = (),
        again: Iterable[int] = (),
    ) -> None:
        super().__init__()
        self.space, self.sampler, self.seed, self.seeds, self.state = space, sampler, seed, seeds, state
        self.launcher, self.trials = launcher, trials
        self.again = deque(again)
        self.next = len(state.trials)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        points = [*map(space.params, enqueue)]
        points += [space.params(p) for p in space.grid_points()] if sampler == "grid" else space.starts()
        if self.next == 0:  # a study without a launched trial holds nothing that is not drawn again alike
            (folder / STUDY_FILE).unlink(missing_ok=True)
        forget_outcomes(folder, set(self.again), self.next)
        self.study = SearchStudy(folder, space.objectives, [p for p in points for _ in range(seeds)])
        self.known = len(self.study)  # trials drawn or enqueued
        self.study.check(space, state.trials.values())
        for trial in state.trials.values():  # what the log has and the study may lack
            if trial.number not in self.again:
                self.tell(trial)

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: object
    ) -> bool:
        """Ray asks whether its own metric and space are taken: the study has its own, so there must be none."""
        return metric is None and not config

    # Ray's annotation leaves out FINISHED, a text, which its docstring names.
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The next trial for ``RayTrainable``; None while open ones may fail and come again; FINISHED at the end."""
        if not (self.again or self.next < self.trials) or not self.launcher.may_start():
            return None if self.launcher.busy() else Searcher.FINISHED
        if self.again:
            number = self.again.popleft()
            return self.launcher.launch(number, TrainConfig(**self.state.trials[number].values))
        number, self.next = self.next, self.next + 1
        return self.launcher.launch(number, self._draw(number))

    def _draw(self, number: int) -> TrainConfig:
        """Ask the study for its next trial, or take up one that it was drawing when the search was killed."""
        study = self.study.optuna
        study.sampler = make_sampler(self.sampler, seed_for(self.seed, "sampler", number))
        orphan = number < self.known and self.study[number].state == TrialState.RUNNING
        trial = optuna.Trial(study, number) if orphan else study.ask()
        if trial.number != number:
            raise RuntimeError(f"the study drew trial {trial.number}, but {number} comes next")
        config = self.space.suggest(trial, seed=self.seed + number % self.seeds)
        last = number - number % self.seeds + self.seeds  # a new point: its other seeds come next
        self.known = max(self.known, number + 1)
        for _ in range(self.known, last):
            study.enqueue_trial(trial.params)
        self.known = max(self.known, last)
        return config

    def tell(self, trial: Trial) -> None:
        """Full fidelity is COMPLETE, stopped or collapsed PRUNED, all else FAIL; a second call changes nothing."""
        if self.study[trial.number].state.is_finished():
            return
        state = OPTUNA_STATES.get(trial.status, TrialState.FAIL)
        values, violations = None, {}
        if state == TrialState.COMPLETE:
            values = [trial.metrics[name] for name in self.space.objectives]
            violations = {str(c): min(WORST_VIOLATION, c.violation(trial.metrics)) for c in self.state.constraints}
        # For Optuna's dashboard: why the trial ended, and its objectives where the scheduler judged it.
        notes: dict[str, object] = {"reason": trial.reason} if trial.reason else {}
        for epoch in trial.decisions:
            metrics = trial.epochs[epoch - 1]["metrics"]
            notes[f"epoch {epoch}"] = {name: metrics[name] for name in self.space.objectives}
        self.study.note(trial.number, notes, violations)
        self.study.optuna.tell(trial.number, values, state=state)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: ``tell`` tells the outcome once the log holds it, so that the study never knows more."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Write a placeholder, as into the pickle above: Ray's snapshots are never read, the study is the memory."""
        Path(checkpoint_path).write_text(json.dumps({"study": STUDY_FILE}))

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a search is restored from its own record, never from Ray's snapshot")
