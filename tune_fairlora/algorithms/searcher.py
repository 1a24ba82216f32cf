"""The samplers, and the searchers: one over an Optuna study whose memory is a file in the folder, and one of a list.

Ray's own OptunaSearch tells early-stopped trials as complete, leaves NaN trials running and drops a restored trial's
result; hence this one. The trial's Optuna number is its identity everywhere.
"""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from warnings import catch_warnings, simplefilter

import numpy as np
import optuna
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from ray.tune.search import Searcher

from analysis.estimates import membership, seed_draws
from search_spaces.space import Space
from trainables.config import TrainConfig
from trainables.seeds import seed_for
from tune_fairlora.algorithms.study import STUDY_FILE, SearchStudy, forget_outcomes
from tune_fairlora.record.state import ALIVE, COLLAPSED, COMPLETE, STOPPED, State, Trial

OPTUNA_STATES = {COMPLETE: TrialState.COMPLETE, STOPPED: TrialState.PRUNED, COLLAPSED: TrialState.PRUNED}
WORST_VIOLATION = 1e9  # of a constraint whose metric has no value
REPEATS = "repeats"  # an attribute of a study's trial: the first trial of the configuration that it trains again


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
    the time that is left suffices for another, which share of it is over, and whether some are at work."""

    def launch(self, number: int, config: TrainConfig, repeats: int | None = None) -> dict[str, Any]: ...
    def may_start(self, whole: bool = False) -> bool: ...
    def time_spent(self) -> float: ...
    def busy(self) -> bool: ...


class StudySearcher:
    """Suggests configurations of ``space`` to Ray Tune and is told outcomes by number.

    ``state`` is what the log says of the search so far: its trials are in the study already, and the next one has the
    next number. ``trials`` is how many there are at most, ``enqueue`` holds points (values by field) to try first,
    ``again`` the trials that go on or are tried again, before any new one.

    A search explores first, one training a configuration. The share ``reseed`` of its trials, and of its time, is kept
    for candidates: configurations that are trained again with fresh seeds, always the likeliest member of the front per
    training that it has had (measured against other rules by ``tests/benchmarks/front_truth.py``). With ``seeds`` each
    configuration whose first training is complete gets the rest of its seeds instead.

    The sampler's randomness is a hash of (seed, trial number), fresh at each suggestion, so that a restart changes no
    later one. A configuration's training seeds are ``seed`` and the next ones, in the order of its trials. The study is
    told each as a trial of its own, so that the sampler sees how noisy a point is.
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
        reseed: float = 0.0,
        enqueue: Sequence[Mapping[str, Any]] = (),
        again: Iterable[int] = (),
    ) -> None:
        self.space, self.sampler, self.seed, self.seeds, self.state = space, sampler, seed, seeds, state
        self.launcher, self.trials, self.reseed = launcher, trials, reseed
        self.again = deque(again)
        self.next = len(state.trials)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.points = [*map(space.params, enqueue)]
        self.points += [space.params(p) for p in space.grid_points()] if sampler == "grid" else space.starts()
        self.explored = sum(trial.repeats is None for trial in state.trials.values())
        if self.next == 0:  # a study without a launched trial holds nothing that is not drawn again alike
            (folder / STUDY_FILE).unlink(missing_ok=True)
        forget_outcomes(folder, set(self.again), self.next)
        self.study = SearchStudy(folder, space.objectives)
        self.study.check(space, state.trials.values())
        for trial in state.trials.values():  # what the log has and the study may lack
            if trial.number not in self.again:
                self.tell(trial)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial for ``RayTrainable``; None while open ones may fail and come again; FINISHED at the end."""
        wait = None if self.launcher.busy() else Searcher.FINISHED
        if self.again:
            if not self.launcher.may_start():
                return wait
            number = self.again.popleft()
            return self.launcher.launch(number, TrainConfig(**self.state.trials[number].values))
        repeats = self._to_repeat()
        explores = repeats is None and self._may_explore(idle=wait is not None)
        if not (explores or repeats is not None) or not self.launcher.may_start(whole=not explores):
            return wait
        config, repeats = self._draw(repeats)
        number, self.next = self.next, self.next + 1
        self.explored += repeats is None
        return self.launcher.launch(number, config, repeats)

    def left(self) -> bool:
        """Whether trials are left to be started, as far as is known."""
        return bool(self.again) or self._may_explore(idle=True) or self._to_repeat() is not None

    def _used_up(self) -> bool:
        """Whether every point of a grid was tried."""
        return self.sampler == "grid" and self.explored >= len(self.points)

    def _may_explore(self, idle: bool) -> bool:
        """Whether another configuration is due. One more takes a candidate's place where nothing is worth repeating,
        and nothing is at work (``idle``) that may become so."""
        if self._used_up():
            return False
        if self.seeds > 1:
            return self.explored < self.trials // self.seeds
        return self.next < self.trials and (idle or not self._for_candidates())

    def _for_candidates(self) -> bool:
        """Whether the trials that are left are kept for candidates. The points to be tried first come before."""
        kept = round(self.reseed * self.trials)
        if self.sampler != "grid":
            kept = max(0, min(kept, self.trials - len(self.points)))
        return self.reseed > 0 and (
            self._used_up() or self.explored >= self.trials - kept or self.launcher.time_spent() >= 1 - self.reseed
        )

    def _to_repeat(self) -> int | None:
        """The first trial of the configuration that is trained again next; None where another is to be explored."""
        state = self.state
        if self.seeds > 1:
            due = (n for n in state.configurations() if len(n) < self.seeds and state.sound(n) and state.trainings(n))
            return next((n[0] for n in due if all(state.trials[i].status in ALIVE for i in n)), None)
        if self.next >= self.trials or not self._for_candidates():
            return None
        worth = state.worth()
        able = [i for i, numbers in enumerate(worth.configurations) if state.feasible(numbers)]
        if worth.estimates is None or not able:
            return None
        error = np.nan_to_num(worth.estimates.error[able])  # not known of a few that were trained once
        chance = membership(seed_draws(worth.costs[able], error, seed=self.next))
        trained = [len(worth.configurations[i]) for i in able]
        return worth.configurations[able[int(np.argmax(chance / trained))]][0]

    def _draw(self, repeats: int | None) -> tuple[TrainConfig, int | None]:
        """Ask the study for its next trial, or take up the one that it was drawing when the search was killed, which
        may repeat another trial than ``repeats``."""
        study, number, drawn = self.study.optuna, self.next, self.next < len(self.study)
        study.sampler = make_sampler(self.sampler, seed_for(self.seed, "sampler", number))
        if drawn:
            repeats = self.study[number].user_attrs.get(REPEATS)
        elif repeats is not None:
            study.enqueue_trial(self.study[repeats].params, user_attrs={REPEATS: repeats})
        elif self.explored < len(self.points):
            study.enqueue_trial(self.points[self.explored])
        orphan = drawn and self.study[number].state == TrialState.RUNNING
        trial = optuna.Trial(study, number) if orphan else study.ask()
        if trial.number != number:
            raise RuntimeError(f"the study drew trial {trial.number}, but {number} comes next")
        config = self.space.suggest(trial, seed=self.seed)
        earlier = self.state.configuration(config.config_id)
        if drawn and self.seeds > 1 and earlier:  # before format 4, seeds were drawn in advance and had no mark
            repeats = earlier[0]
        return dataclasses.replace(config, seed=self.seed + len(earlier)), repeats

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


Run = tuple[TrainConfig, int]  # a training, and the first trial of its configuration in the search that it confirms


class FreshSearcher:
    """Suggests the trials of ``state`` in ``again``, then ``runs`` as new ones, each once and in their order: the
    trainings that confirm a front, of which nothing is learnt."""

    def __init__(self, state: State, launcher: TrialLauncher, runs: Iterable[Run], again: Iterable[int]) -> None:
        self.state, self.launcher, self.runs, self.again = state, launcher, deque(runs), deque(again)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """As ``StudySearcher`` does."""
        if not self.left() or not self.launcher.may_start(whole=True):
            return None if self.launcher.busy() else Searcher.FINISHED
        if self.again:
            number = self.again.popleft()
            return self.launcher.launch(number, TrainConfig(**self.state.trials[number].values))
        config, confirms = self.runs.popleft()
        return self.launcher.launch(len(self.state.trials), config, confirms)

    def left(self) -> bool:
        return bool(self.again or self.runs)

    def tell(self, trial: Trial) -> None:
        pass
