"""The study behind the search: what it proposes first, what it is told, and that its randomness is its own."""

import time

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState
from ray.tune.search import Searcher

from search_spaces import SPACES
from search_spaces.space import Space
from tests.processes import refusal
from tests.records import TrialLauncher, begun
from trainables.config import METHODS, ConfigError, TrainConfig
from tune_fairlora.algorithms.searcher import SAMPLERS, StudySearcher
from tune_fairlora.plan.plan import read_points
from tune_fairlora.plan.search_options import SAMPLER_NAMES
from tune_fairlora.record.event_log import Record

GRID_SPACE = Space(
    name="g",
    about="finite",
    fixed={"epochs": 1},
    search={"rank": CategoricalDistribution((4, 8)), "lam": CategoricalDistribution((0.1, 1.0))},
)


def make(folder, sampler="tpe", seed=0, space=SPACES["digits"], trials=10**6, **options) -> StudySearcher:
    """A searcher of a search that begins, or that goes on where the record in ``folder`` is."""
    begins = not (folder / "events.jsonl").exists()
    record = begun(folder, seeds=options.get("seeds", 1)) if begins else Record(folder)
    again = [number for number, trial in record.trials.items() if trial.status == "running"]
    try:
        launcher = TrialLauncher(record)
        return StudySearcher(space, folder, sampler, seed, record, launcher, trials, **{"again": again} | options)
    except BaseException:
        record.close()
        raise


def drive(searcher: StudySearcher, n: int) -> list[dict]:
    """``n`` trials one after the other, with outcomes that depend on the point alone."""
    configs = []
    for i in range(n):
        suggestion = searcher.suggest(f"ray-{i}")
        values = suggestion["values"]
        end(searcher, suggestion["number"], accuracy=min(1, values["lr"] * 100), delta=values["weight_decay"])
        configs.append(values)
    return configs


def end(searcher: StudySearcher, number: int, status="complete", reason="", **values) -> None:
    searcher.launcher.end(searcher, number, status, reason, **values)


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


def trials_of(searcher: StudySearcher) -> list:
    return searcher.study.optuna.trials


def test_outcomes_are_told_as_what_they_are(tmp_path):
    searcher = make(tmp_path)
    numbers = [searcher.suggest(str(i))["number"] for i in range(6)]
    end(searcher, numbers[0], accuracy=0.9, delta=0.1)
    searcher.state.add("decision", number=1, epoch=1, keep=False, text="stopped at epoch 1: place 2 of 2, keeps best 1")
    end(searcher, numbers[1], "stopped", "stopped at epoch 1: place 2 of 2, keeps best 1", accuracy=0.95, delta=0.0)
    end(searcher, numbers[2], "failed", "OutOfMemoryError")
    end(searcher, numbers[3], "diverged", "Diverged")
    end(searcher, numbers[4], "collapsed", "val_mean_recall 0.1", accuracy=0.1, delta=0.0, recall=0.1)
    states = [t.state for t in trials_of(searcher)]
    complete, pruned, fail, running = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING
    assert states == [complete, pruned, fail, fail, pruned, running]
    assert trials_of(searcher)[2].user_attrs["reason"] == "OutOfMemoryError"
    assert trials_of(searcher)[1].user_attrs["epoch 1"] == {"val_accuracy": 0.95, "val_delta_f1": 0.0}
    assert [t.number for t in searcher.study.optuna.best_trials] == [numbers[0]]


def test_a_trial_that_is_told_twice_keeps_its_first_outcome(tmp_path):
    searcher = make(tmp_path)
    number = searcher.suggest("a")["number"]
    end(searcher, number, accuracy=0.9, delta=0.1)
    searcher.state.trials[number].status = "failed"
    searcher.tell(searcher.state.trials[number])
    assert trials_of(searcher)[number].values == [0.9, 0.1]
    directions = searcher.study.optuna.directions
    assert directions == [optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE]


def test_optuna_itself_opens_the_study(tmp_path):
    drive(make(tmp_path), 5)
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(tmp_path / "optuna.journal"))
    )
    study = optuna.load_study(study_name="search", storage=storage)
    assert len(study.trials) == 5 and study.metric_names == ["val_accuracy", "val_delta_f1"]


def test_a_grid_visits_every_point_once_and_then_ends(tmp_path):
    searcher = make(tmp_path, "grid", space=GRID_SPACE, trials=9)
    suggestions = []
    while (suggestion := searcher.suggest(str(len(suggestions)))) != Searcher.FINISHED:
        suggestions.append(suggestion["values"])
        searcher.launcher.open.clear()
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
    searcher = make(tmp_path, seed=5, seeds=3)
    configs = [TrainConfig(**values) for values in drive(searcher, 24)]
    for first in range(0, 24, 3):
        repeats = configs[first : first + 3]
        assert [c.seed for c in repeats] == [5, 6, 7] and len({c.config_id for c in repeats}) == 1
    assert len({c.config_id for c in configs}) == 8


def test_a_grid_with_seeds_visits_every_point_with_each(tmp_path):
    searcher = make(tmp_path, "grid", space=GRID_SPACE, trials=18, seeds=2)
    runs = []
    while (suggestion := searcher.suggest(str(len(runs)))) != Searcher.FINISHED:
        runs.append((TrainConfig(**suggestion["values"]).config_id, suggestion["values"]["seed"]))
        end(searcher, suggestion["number"])
    assert len(set(runs)) == len(runs) == 2 * 9 and len({config_id for config_id, _ in runs}) == 9


def test_only_what_its_first_seed_completes_gets_the_others(tmp_path):
    searcher = make(tmp_path, trials=9, seeds=3)
    for i, status in enumerate(["stopped", "complete"]):
        suggestion = searcher.suggest(str(i))
        end(searcher, suggestion["number"], status)
    again = [searcher.suggest("a"), searcher.suggest("b")]
    assert [(s["number"], s["values"]["seed"]) for s in again] == [(2, 1), (3, 2)]
    assert all(searcher.state.trials[s["number"]].repeats == 1 for s in again)
    third = searcher.suggest("c")  # another configuration meanwhile
    assert third["values"]["seed"] == 0 and searcher.suggest("d") is None and searcher.left() is False
    end(searcher, third["number"], "diverged")
    end(searcher, 2, "collapsed", recall=0.1)
    end(searcher, 3)
    assert searcher.suggest("e") == Searcher.FINISHED and not searcher.left()


def reseeded(folder, trials=12, **options) -> StudySearcher:
    return make(folder, trials=trials, reseed=0.25, **options)


def test_the_last_quarter_trains_the_likeliest_members_again_with_fresh_seeds(tmp_path):
    searcher = reseeded(tmp_path, seed=3)
    drive(searcher, 9)
    trials = searcher.state.trials
    assert all(trial.repeats is None and trial.seed == 3 for trial in trials.values())
    assert len({trial.config_id for trial in trials.values()}) == 9
    front = set(searcher.state.front())
    drive(searcher, 3)
    again = [trials[n] for n in (9, 10, 11)]
    assert {trial.repeats for trial in again} <= front and all(trial.seed > 3 for trial in again)
    assert all(trial.config_id == trials[trial.repeats].config_id for trial in again)
    assert searcher.suggest("x") == Searcher.FINISHED and not searcher.left()
    own = [trial.seed for trial in trials.values() if trial.config_id == again[0].config_id]
    assert own == list(range(3, 3 + len(own)))


def test_one_that_is_being_trained_again_counts_as_trained(tmp_path):
    """Side by side, not all of the candidates' trainings go to one configuration."""
    searcher = reseeded(tmp_path, trials=12)
    for i in range(9):  # two points far off all others, alike
        number = searcher.suggest(str(i))["number"]
        end(searcher, number, accuracy=0.9 if i < 2 else 0.5 + i / 1000, delta=0.1 if i < 2 else 0.5)
    assert sorted(searcher.state.trials[searcher.suggest(str(i))["number"]].repeats for i in (9, 10)) == [0, 1]


def test_where_nothing_is_worth_repeating_it_waits_for_what_is_at_work_and_then_explores(tmp_path):
    searcher = reseeded(tmp_path, trials=8)
    for i in range(5):
        end(searcher, searcher.suggest(str(i))["number"], "stopped")
    sixth = searcher.suggest("5")
    assert sixth["number"] == 5 and searcher.suggest("6") is None
    end(searcher, 5, "stopped")
    seventh = searcher.suggest("6")
    assert searcher.state.trials[seventh["number"]].repeats is None
    end(searcher, 6)
    assert searcher.state.trials[searcher.suggest("7")["number"]].repeats == 6


def test_the_points_to_be_tried_first_come_before_candidates(tmp_path):
    searcher = reseeded(tmp_path, trials=6)  # of these the four methods and the head alone
    drive(searcher, 6)
    assert [trial.repeats is None for trial in searcher.state.trials.values()] == [True] * 5 + [False]


def test_a_grid_is_explored_whole_and_then_repeated(tmp_path):
    searcher = reseeded(tmp_path, sampler="grid", space=GRID_SPACE, trials=12)
    drive(searcher, 12)
    repeats = [trial.repeats for trial in searcher.state.trials.values()]
    assert repeats[:9] == [None] * 9 and None not in repeats[9:] and searcher.suggest("x") == Searcher.FINISHED


def test_what_breaks_a_constraint_is_not_trained_again(tmp_path):
    record = begun(tmp_path, constraints=["val_accuracy>=0.6"], reseed=0.25)
    searcher = StudySearcher(SPACES["digits"], tmp_path, "tpe", 0, record, TrialLauncher(record), 12, reseed=0.25)
    for i in range(9):
        number = searcher.suggest(str(i))["number"]
        end(searcher, number, accuracy=0.55 if i % 2 else 0.65, delta=0.0 if i % 2 else 0.3)
    assert all(record.trials[searcher.suggest(str(i))["number"]].repeats % 2 == 0 for i in (9, 10, 11))


def test_time_is_kept_for_candidates_too(tmp_path):
    searcher = reseeded(tmp_path, trials=100)
    drive(searcher, 8)
    searcher.launcher.time_spent = lambda: 0.8
    number = searcher.suggest("8")["number"]
    assert searcher.state.trials[number].repeats is not None


@pytest.mark.parametrize("cut", [1, 2, 4, 6])
def test_a_candidate_that_was_being_drawn_when_the_search_died_is_drawn_again_alike(tmp_path, cut):
    whole = drive(reseeded(tmp_path / "whole"), 12)
    searcher = reseeded(tmp_path / "cut")
    done = drive(searcher, 10)
    path, log = tmp_path / "cut/optuna.journal", tmp_path / "cut/events.jsonl"
    before, events = path.read_bytes(), log.read_bytes()
    searcher.suggest("10")
    drawn = path.read_bytes()[len(before) :].splitlines(keepends=True)
    searcher.state.close()
    log.write_bytes(events)
    path.write_bytes(before + b"".join(drawn[:cut]))
    again = reseeded(tmp_path / "cut")
    assert done + drive(again, 2) == whole
    assert again.state.trials[10].repeats is not None and again.explored == 9


def study_of(folder) -> list:
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "optuna.journal")))
    return optuna.load_study(study_name="search", storage=storage).trials


def reopened(folder, searcher: StudySearcher, **options) -> StudySearcher:
    """As after the death of the process that had ``searcher``."""
    searcher.state.close()
    return make(folder, **options)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", pytest.param("gp", marks=pytest.mark.slow)])
@pytest.mark.parametrize("seeds", [1, 2])
def test_a_restart_changes_no_later_suggestion(tmp_path, sampler, seeds):
    whole = drive(make(tmp_path / "whole", sampler, seeds=seeds), 14)
    searcher, parts = make(tmp_path / "parts", sampler, seeds=seeds), []
    for n in (1, 4, 6, 3):
        parts += drive(searcher, n)
        searcher = reopened(tmp_path / "parts", searcher, sampler=sampler, seeds=seeds)
    assert parts == whole


def test_an_orphan_keeps_its_number_and_its_point_and_is_launched_first(tmp_path):
    searcher = make(tmp_path)
    drive(searcher, 6)
    orphans = [searcher.suggest(str(i)) for i in (6, 7)]
    again = reopened(tmp_path, searcher)
    assert [again.suggest(str(i)) for i in (6, 7)] == orphans
    assert again.suggest("8")["number"] == 8
    for number in (6, 7, 8):
        end(again, number, accuracy=0.9, delta=0.1)
    assert len(study_of(tmp_path)) == 9 and {t.state for t in study_of(tmp_path)} == {TrialState.COMPLETE}


@pytest.mark.parametrize("cut", [1, 2, 4, 6, 8])
@pytest.mark.parametrize("seeds", [1, 2])
def test_a_draw_that_was_broken_off_anywhere_is_drawn_again_alike(tmp_path, cut, seeds):
    """The study's file may end anywhere within a draw whose start the log does not have."""
    whole = drive(make(tmp_path / "whole", seeds=seeds), 12)
    searcher = make(tmp_path / "cut", seeds=seeds)
    done = drive(searcher, 10)
    path, log = tmp_path / "cut/optuna.journal", tmp_path / "cut/events.jsonl"
    before, events = path.read_bytes(), log.read_bytes()
    searcher.suggest("10")
    drawn = path.read_bytes()[len(before) :].splitlines(keepends=True)
    assert len(drawn) >= 6  # the trial, its parameters, the seeds that follow
    searcher.state.close()
    log.write_bytes(events)
    torn = drawn[cut][:-9] if cut < len(drawn) else b""
    path.write_bytes(before + b"".join(drawn[:cut]) + torn)
    assert done + drive(make(tmp_path / "cut", seeds=seeds), 2) == whole


def test_the_study_is_brought_to_where_the_log_is(tmp_path):
    """The process died between the end of a trial in the log and its outcome in the study."""
    searcher = make(tmp_path)
    drive(searcher, 2)
    number = searcher.suggest("2")["number"]
    before = (tmp_path / "optuna.journal").read_bytes()
    end(searcher, number, accuracy=0.9, delta=0.1)
    searcher.state.close()
    (tmp_path / "optuna.journal").write_bytes(before)
    make(tmp_path)
    assert study_of(tmp_path)[2].values == [0.9, 0.1]


def test_a_lock_that_a_crash_left_behind_is_no_obstacle(tmp_path, monkeypatch):
    """Optuna itself would wait for 30 seconds until it takes it away, in short sleeps."""
    searcher = make(tmp_path)
    drive(searcher, 1)
    (tmp_path / "optuna.journal.lock").symlink_to(tmp_path / "optuna.journal")
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits for the lock"))
    drive(reopened(tmp_path, searcher), 1)


def test_a_failure_can_be_taken_back_and_tried_again_under_its_number(tmp_path):
    searcher = make(tmp_path)
    drive(searcher, 2)
    number = searcher.suggest("2")["number"]
    end(searcher, number, "failed", "OutOfMemoryError")
    drive(searcher, 2)
    searcher.state.close()
    again = make(tmp_path, again=[number])
    assert again.suggest("5")["number"] == number
    again.state.trials[number].epochs.clear()
    end(again, number, accuracy=0.7, delta=0.1)
    trials = study_of(tmp_path)
    assert trials[number].values == [0.7, 0.1] and [t.number for t in trials] == [0, 1, 2, 3, 4]


def test_a_study_that_is_ahead_of_the_log_is_taken_back_to_it(tmp_path):
    """A full disk may have taken the study's lines and not the log's."""
    whole = drive(make(tmp_path / "whole"), 10)
    searcher = make(tmp_path / "ahead")
    done, log = drive(searcher, 5), tmp_path / "ahead/events.jsonl"
    before = log.read_bytes()
    drive(searcher, 2)
    searcher.state.close()
    log.write_bytes(before)
    assert done + drive(make(tmp_path / "ahead"), 5) == whole
    assert [t.number for t in study_of(tmp_path / "ahead")] == list(range(10))


def test_a_foreign_or_cut_study_is_refused_in_one_line(tmp_path):
    for name in ("a", "b"):
        searcher = make(tmp_path / name, seed=ord(name))
        drive(searcher, 8)
        searcher.state.close()
    mine, other = tmp_path / "a/optuna.journal", tmp_path / "b/optuna.journal"
    whole = mine.read_bytes()
    mine.write_bytes(other.read_bytes())
    assert "its trial 5 is another" in refusal(make, tmp_path / "a", seed=97)
    mine.write_bytes(b"\n".join(whole.split(b"\n")[:20]) + b"\n")
    assert "optuna.journal" in refusal(make, tmp_path / "a", seed=97)
    mine.write_bytes(b"no journal\n")
    assert "cannot be read" in refusal(make, tmp_path / "a", seed=97)


def test_constraints_reach_the_sampler_and_mark_what_breaks_them(tmp_path):
    """Where accuracy must be high, TPE goes to high learning rates: accuracy is 100 lr here."""
    shares = []
    for name, texts in (("free", []), ("bound", ["val_accuracy>=0.9"])):
        record = begun(tmp_path / name, constraints=texts)
        searcher = StudySearcher(SPACES["digits"], tmp_path / name, "tpe", 0, record, TrialLauncher(record), 100)
        configs = drive(searcher, 40)[15:]
        shares.append(sum(c["lr"] >= 0.009 for c in configs) / len(configs))
    trials = trials_of(searcher)
    broken = [max(t.constraints.values()) > 0 for t in trials]
    assert broken == [t.values[0] < 0.9 for t in trials] and any(broken) and not all(broken)
    assert all(t.values[0] >= 0.9 for t in searcher.study.optuna.best_trials)
    assert record.front() and all(record.trials[n].metrics["val_accuracy"] >= 0.9 for n in record.front())
    assert shares[1] > shares[0]


def test_enqueued_points_come_first(tmp_path):
    path = tmp_path / "points.json"
    path.write_text('[{"method": "fairlora", "rank": 16, "lam": 3}, {"method": "fft"}]')
    points = read_points(str(path), SPACES["digits"])
    first, second, third = drive(make(tmp_path / "s", enqueue=points), 3)
    assert (first["method"], first["rank"], first["lam"], first["lr"]) == ("fairlora", 16, 3.0, 5e-3)
    assert second["method"] == "fft" and third["method"] == "lora"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "at least one point"),
        ("{", "must hold JSON"),
        ("[1]", "an object with a method"),
        ('{"method": "dora"}', "an object with a method"),
        ('{"method": "lora", "rankk": 3}', "rankk"),
        ('{"method": "fft", "rank": 3}', "does not search for fft"),
        ('{"method": "lora", "rank": 3}', "rank=3, outside of"),
        ('{"method": "lora", "lr": "high"}', "lr=high, outside of"),
        ('{"method": "lora", "epochs": 3}', "epochs, which this space does not search"),
    ],
)
def test_points_that_the_space_does_not_hold_are_refused(tmp_path, text, words):
    path = tmp_path / "points.json"
    path.write_text(text)
    assert words in refusal(read_points, str(path), SPACES["digits"])
