"""Which hyperparameters moved which objective: random forests on the complete configurations, permutation importance.

A forest predicts the objective from the hyperparameters; the importance of one is how much of the held-out variance the
forest loses when that column is shuffled (Breiman 2001). Only held-out folds count, as a forest fits what it has seen
whatever a column means; and the held-out R² stands beside it: where a forest predicts nothing, importances mean
nothing. Complete trials alone: one that was stopped early says what its first epochs were.
"""

from functools import lru_cache

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import KFold

from analysis import configurations, labels
from analysis.results import NothingToShow, Search
from analysis.table import Table
from trainables.config import FIELDS

# Configurations. With ten, and one of three hyperparameters behind 60 % of an objective's variance, that one came first
# in 8 of 8 simulations while the held-out R² was still 0; with twice as many, R² was 0.4.
LEAST = 10
SOUND = 0.1  # held-out R² from which a forest may be said to predict something
FOLDS, REPEATS, TREES = 5, 10, 30
NOTE = (
    "Importance: share of an objective's held-out variance that a random forest loses when the hyperparameter is "
    f"shuffled, {REPEATS} repeats of {FOLDS} folds. Where the held-out R² is near 0 or below, the forest predicts "
    "nothing and the row means nothing. A hyperparameter is measured among the configurations that have it, at least "
    f"{LEAST}; method and learning rate share what they explain, as their ranges differ by method."
)


@lru_cache(maxsize=1)  # it takes seconds, and a table and a figure show it
def measure(search: Search) -> pd.DataFrame:
    """The importance of each hyperparameter that was searched, for each objective; the same numbers at every call.

    Columns: ``objective``, ``hyperparameter``, ``configurations`` (how many have it), ``importance`` (share of the
    held-out variance lost by shuffling it: 0 none; its mean over repeats), ``low`` and ``high`` (2.5 and 97.5 % of the
    repeats), ``r2`` (of the held-out predictions: 1 all explained, 0 or less nothing). NaN where fewer than ``LEAST``
    have it. Raises NothingToShow where fewer than ``LEAST`` configurations are complete.
    """
    rows = configurations.complete(search)
    if len(rows) < LEAST:
        raise NothingToShow(f"importance needs {LEAST} complete configurations, but the search has {len(rows)}")
    owners: dict[tuple[bool, ...], list[str]] = {}  # which rows have a hyperparameter -> those that exactly these have
    for name in configurations.varied(rows):
        owners.setdefault(tuple(rows[name].notna()), []).append(name)
    measured = []
    for mask, own in owners.items():
        inside = rows[list(mask)]
        shared = [name for name in configurations.varied(inside) if inside[name].notna().all()]
        own = [name for name in own if name in shared]
        for objective in search.objectives if own else []:
            r2, lost = np.nan, {name: [np.nan] for name in own}
            if len(inside) >= LEAST and inside[objective].var() > 0:
                r2, lost = _lost_by_shuffling(inside[shared], inside[objective].to_numpy(float), own)
            for name in own:
                low, high = np.quantile(lost[name], [0.025, 0.975])
                measured.append((objective, name, len(inside), np.mean(lost[name]), low, high, r2))
    columns = ["objective", "hyperparameter", "configurations", "importance", "low", "high", "r2"]
    return pd.DataFrame(measured, columns=columns)


def _lost_by_shuffling(
    columns: pd.DataFrame, target: np.ndarray, names: list[str]
) -> tuple[float, dict[str, list[float]]]:
    """The mean held-out R², and for each of ``names`` the R² lost by shuffling it, repeat by repeat."""
    parts = [  # the hyperparameters as numbers, a column a value for texts; forests need no logarithms
        pd.get_dummies(columns[name]) if FIELDS[name].type is str else columns[[name]] for name in columns
    ]
    inputs = pd.concat(parts, axis="columns").to_numpy(float)
    ends = np.cumsum([part.shape[1] for part in parts])
    places = {name: list(range(end - part.shape[1], end)) for name, part, end in zip(columns, parts, ends)}
    scores: list[float] = []
    lost: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(REPEATS):
        errors = _held_out_errors(inputs, target, [places[name] for name in names], repeat) / target.var()
        scores.append(1 - errors[0])
        for name, error in zip(names, errors[1:]):
            lost[name].append(error - errors[0])
    return float(np.mean(scores)), lost


def _held_out_errors(inputs: np.ndarray, target: np.ndarray, groups: list[list[int]], seed: int) -> np.ndarray:
    """Mean squared error over held-out folds: of the forests, then with each group of columns shuffled in turn."""
    rng, errors = np.random.default_rng(seed), np.zeros((1 + len(groups), len(target)))
    for train, held in KFold(FOLDS, shuffle=True, random_state=seed).split(inputs):
        forest = RandomForestRegressor(TREES, random_state=seed).fit(inputs[train], target[train])
        versions = [inputs[held]]
        for columns in groups:
            shuffled = inputs[held].copy()
            # Values of any configuration: among the few held out, a column could come back as it was.
            shuffled[:, columns] = inputs[rng.permutation(len(inputs))[: len(held)]][:, columns]
            versions.append(shuffled)
        predicted = forest.predict(np.concatenate(versions)).reshape(len(versions), -1)
        errors[:, held] = (predicted - target[held]) ** 2
    return errors.mean(axis=1)


def figure(search: Search) -> Figure:
    """One panel an objective: bars with the range of the repeats, pale where the forest predicts nothing. Raises
    NothingToShow as ``measure`` does."""
    measured, objectives = measure(search), search.objectives
    size = (3.6 * len(objectives), 1.6 + 0.3 * measured["hyperparameter"].nunique())
    page = Figure(figsize=size, layout="constrained")
    page.suptitle("importance of hyperparameters (grey: the forest predicts nothing held out)", fontsize=10)
    for ax, objective in zip(page.subplots(1, len(objectives), squeeze=False)[0], objectives):
        rows = measured[(measured["objective"] == objective) & measured["importance"].notna()]
        names = []
        for place, row in enumerate(rows.sort_values("importance").to_dict("records")):
            sound = row["r2"] >= SOUND
            ax.barh(place, row["importance"], color="#0072B2" if sound else "0.8", height=0.6)
            ax.hlines(place, row["low"], row["high"], color="0.2" if sound else "0.6", linewidth=1)
            names.append(f"{labels.hyperparameter(row['hyperparameter'])} (n={row['configurations']})")
        ax.set_yticks(range(len(rows)), names, fontsize=8)
        ax.axvline(0, color="0.6", linewidth=1, zorder=0)
        ax.set_xlabel(f"share of validation {labels.name(objective)}'s\nheld-out variance lost by shuffling")
        ax.spines[["top", "right"]].set_visible(False)
    return page


def table(search: Search) -> Table:
    """The most important hyperparameter of each objective first. Raises NothingToShow as ``measure`` does."""
    ordered = measure(search).sort_values(["objective", "importance"], ascending=[True, False], kind="stable")
    rows = tuple(
        (
            labels.hyperparameter(row["hyperparameter"]),
            labels.name(row["objective"]),
            str(row["configurations"]),
            "too few" if np.isnan(row["importance"]) else f"{row['importance']:.2f}",
            labels.ABSENT if np.isnan(row["low"]) else f"{row['low']:.2f} … {row['high']:.2f}",
            labels.number(row["r2"], ".2f"),
        )
        for row in ordered.to_dict("records")
    )
    header = ("hyperparameter", "objective", "configurations", "importance", "95 % of repeats", "held-out R²")
    return Table("Importance of each hyperparameter, validation split", header, rows, note=NOTE)
