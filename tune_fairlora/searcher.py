"""The searcher: a Ray Tune Searcher over an Optuna study whose memory is a journal file in the search's folder.

Ray's own OptunaSearch tells early-stopped trials as complete, leaves NaN trials running and drops a restored trial's
result; hence this one. The trial's Optuna number is its identity everywhere.
"""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from ray.tune.search import Searcher

from search_spaces.space import Space
from trainables.config import TrainConfig
from trainables.metrics import OBJECTIVES
from trainables.seeds import seed_for
from tune_fairlora.record import COLLAPSED, COMPLETE, STOPPED
from tune_fairlora.samplers import make_sampler

OnStart = Callable[[int, TrainConfig], None]
JOURNAL = "optuna.journal"
STATES = {COMPLETE: TrialState.COMPLETE, STOPPED: TrialState.PRUNED, COLLAPSED: TrialState.PRUNED}


class StudySearcher(Searcher):
    """Suggests configurations of ``space`` to Ray Tune and is told outcomes by number.

    ``on_start(number, config)`` is called for each suggestion before Ray sees it. The sampler's randomness is a hash
    of (seed, trial number), fresh at each suggestion, so that a restart would change no later one.

    Each point is tried with ``seeds`` training seeds, ``seed`` and the next ones, in trials of consecutive numbers:
    trial n is seed n modulo ``seeds`` of point n // ``seeds``. The study is told each as a trial of its own, so that
    the sampler sees how noisy a point is.
    """

    def __init__(
        self, space: Space, folder: Path, sampler: str, seed: int, context: dict, on_start: OnStart, seeds: int = 1
    ):
        super().__init__()
        self.space, self.sampler, self.seed, self.seeds = space, sampler, seed, seeds
        self.context, self.on_start = context, on_start
        self.asked: dict[int, optuna.Trial] = {}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(
            study_name="search",
            storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
            directions=[OBJECTIVES[name] for name in space.objectives],
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.set_metric_names(list(space.objectives))
        points = [space.params(p) for p in space.grid_points()] if sampler == "grid" else space.starts()
        for point in points:
            self._enqueue(point, seeds)

    def _enqueue(self, params: dict, times: int) -> None:
        for _ in range(times):
            self.study.enqueue_trial(params)

    def set_search_properties(self, metric, mode, config, **spec) -> bool:
        """Ray asks whether its own metric and space are taken: the study has its own, so there must be none."""
        return metric is None and not config

    def suggest(self, trial_id: str) -> dict | str:
        """The next trial's configuration for ``RayTrainable``, or FINISHED when a grid has no more points."""
        waiting = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if self.sampler == "grid" and not waiting:
            return Searcher.FINISHED
        self.study.sampler = make_sampler(self.sampler, seed_for(self.seed, "sampler", len(self.asked)))
        trial = self.study.ask()
        config = self.space.suggest(trial, seed=self.seed + trial.number % self.seeds)
        if not waiting:  # a new point: its other seeds come next
            self._enqueue(trial.params, self.seeds - 1)
        self.asked[trial.number] = trial
        self.on_start(trial.number, config)
        return {"number": trial.number, "values": config.hyperparameters(), "context": self.context}

    def tell(self, number: int, status: str, reason: str, values: list[float]) -> None:
        """Full fidelity is COMPLETE, stopped or collapsed PRUNED, all else FAIL; a second call changes nothing."""
        trial, state = self.asked[number], STATES.get(status, TrialState.FAIL)
        if reason and not self.study.trials[number].state.is_finished():
            trial.set_user_attr("reason", reason)
        self.study.tell(trial, values if state == TrialState.COMPLETE else None, state=state, skip_if_finished=True)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Nothing: the outcome is told by ``tell`` once the log holds it, so that the journal never knows more."""

    def __getstate__(self) -> dict:
        """Nothing, for the same reason as ``save``."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """For Ray's snapshots, which are never read: the journal is the memory."""
        Path(checkpoint_path).write_text(json.dumps({"journal": JOURNAL}))

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a search is restored from its own record, never from Ray's snapshot")
