"""Every figure and every table is asked for in one way, and refuses in one way."""

import inspect
from importlib import import_module
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from analysis import results
from analysis.predictions import Confusion
from analysis.results import FRESH, NothingToShow
from analysis.table import Table
from tests.analysis.handmade import search, trial
from trainables.metrics import METRICS

FOLDER = Path(results.__file__).parent


def made_by(kind: str) -> list:
    """The function ``kind`` of each module that has one, as parameters of a test."""
    names = sorted(f"{path.parent.name}.{path.stem}" for path in FOLDER.glob("*s/[!_]*.py"))
    modules = {name: import_module(f"analysis.{name}") for name in names}
    return [pytest.param(getattr(modules[name], kind), id=name) for name in names if hasattr(modules[name], kind)]


FIGURES, TABLES = made_by("figure"), made_by("table")
WANTED = {"over": "rank", "samples": {0: Confusion([[9, 1], [2, 8]])}, "counts": {0: [[9, 1], [2, 8]]}}


def search_of(status: str):
    confirmed = {"number": 0, "config_id": "0", "trained_on": FRESH} | {f"test_{name}": 0.5 for name in METRICS}
    return search(
        trial(0, "lora", status=status, on_front=status == "complete", val_accuracy=0.7),
        trial(1, "fairlora", status=status, lam=0.1, val_accuracy=0.8),
        *(trial(2 + i, "fft", status=status, lr=0.001 * (i + 1)) for i in range(10)),
        confirmed=[confirmed] if status == "complete" else [],
    )


def ask(make, of):
    wanted = {name: value for name, value in WANTED.items() if name in inspect.signature(make).parameters}
    return make(of, **wanted)


def test_all_of_them_are_looked_at():
    assert len(FIGURES) == 8 and len(TABLES) == 9


@pytest.mark.parametrize("make", [*FIGURES, *TABLES])
def test_the_search_comes_first_and_what_it_is_chosen_by_last(make):
    names = list(inspect.signature(make).parameters)
    assert names[0] == "search" and ("by" not in names or names[-1] == "by")


@pytest.mark.parametrize("make", [*FIGURES, *TABLES])
def test_a_search_with_complete_trials_is_shown(make):
    assert isinstance(ask(make, search_of("complete")), Figure if make.__name__ == "figure" else Table)


@pytest.mark.parametrize("make", [*FIGURES, *TABLES])
def test_a_search_without_one_is_refused_in_words(make):
    of = search_of("running")
    if make.__module__ == "analysis.figures.front":  # a running search shows its axes, and fills them
        assert isinstance(make(of), Figure)
        return
    with pytest.raises(NothingToShow) as refusal:
        ask(make, of)
    assert str(refusal.value) and "\n" not in str(refusal.value) and not str(refusal.value).endswith(".")
