"""The study behind the search: what it proposes first, what it is told, and that its randomness is its own."""

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState
from ray.tune.search import Searcher

from search_spaces import SPACES
from search_spaces.space import Space
from trainables.config import METHODS, ConfigError, TrainConfig
from tune_fairlora.samplers import SAMPLERS
from tune_fairlora.search import SAMPLER_NAMES
from tune_fairlora.searcher import StudySearcher

GRID_SPACE = Space(
    name="g",
    about="finite",
    fixed={"epochs": 1},
    search={"rank": CategoricalDistribution((4, 8)), "lam": CategoricalDistribution((0.1, 1.0))},
)


def make(folder, sampler="tpe", seed=0, space=SPACES["digits"]) -> StudySearcher:
    folder.mkdir(parents=True, exist_ok=True)
    return StudySearcher(space, folder, sampler, seed, context={}, on_start=lambda number, config: None)


def drive(searcher: StudySearcher, n: int) -> list[dict]:
    """``n`` trials one after the other, with outcomes that depend on the point alone."""
    configs = []
    for i in range(n):
        suggestion = searcher.suggest(f"ray-{i}")
        values = suggestion["values"]
        searcher.tell(suggestion["number"], "complete", "", [min(1, values["lr"] * 100), values["weight_decay"]])
        configs.append(values)
    return configs


def test_the_four_methods_come_first_at_their_first_points(tmp_path):
    configs = drive(make(tmp_path), 5)
    assert [c["method"] for c in configs] == [*METHODS, "lora"]
    assert [c["lr"] for c in configs] == [5e-3, 5e-3, 1e-3, 1e-3, 5e-3]
    assert configs[0]["rank"] == 8 and "rank" not in configs[2] and configs[4]["rank"] == 0


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2", "gp"])
def test_the_same_seed_proposes_the_same_points_and_another_seed_others(tmp_path, sampler):
    a, b, c = (drive(make(tmp_path / n, sampler, seed), 14) for n, seed in (("a", 0), ("b", 0), ("c", 1)))
    without_seed = lambda configs: [{k: v for k, v in x.items() if k != "seed"} for x in configs]  # noqa: E731
    assert a == b
    assert without_seed(a)[5:] != without_seed(c)[5:]


def test_outcomes_are_told_as_what_they_are(tmp_path):
    searcher = make(tmp_path)
    numbers = [searcher.suggest(str(i))["number"] for i in range(5)]
    searcher.tell(numbers[0], "complete", "", [0.9, 0.1])
    searcher.tell(numbers[1], "stopped", "stopped after epoch 1 of 8", [0.9, 0.1])
    searcher.tell(numbers[2], "failed", "OutOfMemoryError", [None, None])
    searcher.tell(numbers[3], "diverged", "Diverged", [None, None])
    states = [t.state for t in searcher.study.trials]
    complete, pruned, fail, running = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING
    assert states == [complete, pruned, fail, fail, running]
    assert searcher.study.trials[2].user_attrs["reason"] == "OutOfMemoryError"
    assert [t.number for t in searcher.study.best_trials] == [numbers[0]]


def test_a_trial_that_is_told_twice_keeps_its_first_outcome(tmp_path):
    searcher = make(tmp_path)
    number = searcher.suggest("a")["number"]
    searcher.tell(number, "complete", "", [0.9, 0.1])
    searcher.tell(number, "failed", "late news", [None, None])
    assert searcher.study.trials[number].values == [0.9, 0.1]
    assert searcher.study.directions == [optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE]


def test_the_journal_is_a_study_that_optuna_itself_opens(tmp_path):
    drive(make(tmp_path), 5)
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(tmp_path / "optuna.journal"))
    )
    study = optuna.load_study(study_name="search", storage=storage)
    assert len(study.trials) == 5 and study.metric_names == ["val_accuracy", "val_delta_f1"]


def test_a_grid_visits_every_point_once_and_then_ends(tmp_path):
    searcher = make(tmp_path, "grid", space=GRID_SPACE)
    suggestions = []
    while (suggestion := searcher.suggest(str(len(suggestions)))) != Searcher.FINISHED:
        suggestions.append(suggestion["values"])
    points = [(v["method"], v.get("rank"), v.get("lam")) for v in suggestions]
    # lora: 2 ranks; fairlora: 2 ranks x 2 λ; fft: 1; fairfft: 2 λ
    assert len(points) == len(set(points)) == 2 + 4 + 1 + 2


def test_a_grid_refuses_what_is_continuous():
    with pytest.raises(ConfigError, match="lr is continuous: pin it with --set lr"):
        SPACES["digits"].grid_points()
    space = Space(name="c", about="", fixed={}, search={"dropout": FloatDistribution(0, 0.5)})
    with pytest.raises(ConfigError, match="dropout is continuous"):
        space.grid_points()


def test_the_command_line_offers_every_sampler():
    assert set(SAMPLER_NAMES) == set(SAMPLERS)


def test_each_point_is_tried_with_every_seed_under_one_config_id(tmp_path):
    searcher = StudySearcher(SPACES["digits"], tmp_path, "tpe", 5, {}, lambda number, config: None, seeds=3)
    configs = [TrainConfig(**values) for values in drive(searcher, 24)]
    for first in range(0, 24, 3):
        repeats = configs[first : first + 3]
        assert [c.seed for c in repeats] == [5, 6, 7] and len({c.config_id for c in repeats}) == 1
    assert len({c.config_id for c in configs}) == 8


def test_a_grid_with_seeds_visits_every_point_with_each(tmp_path):
    searcher = StudySearcher(GRID_SPACE, tmp_path, "grid", 0, {}, lambda number, config: None, seeds=2)
    runs = []
    while (suggestion := searcher.suggest(str(len(runs)))) != Searcher.FINISHED:
        runs.append((TrainConfig(**suggestion["values"]).config_id, suggestion["values"]["seed"]))
    assert len(set(runs)) == len(runs) == 2 * 9 and len({config_id for config_id, _ in runs}) == 9
