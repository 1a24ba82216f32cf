"""Which hyperparameters moved which objective: random forests on the complete configurations, permutation importance.

A forest predicts the objective from the hyperparameters; the importance of one is how much of the held-out variance the
forest loses when that column is shuffled (Breiman 2001). Only held-out folds count, as a forest fits what it has seen
whatever a column means; and the held-out R² stands beside it: where a forest predicts nothing, importances mean
nothing. Complete trials alone: one that was stopped early says what its first epochs were.

A hyperparameter that some methods lack (rank, λ) is measured among the configurations that have it. The ranges of a
learning rate differ by method, so ``method`` and ``lr`` share what they explain.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import KFold

from analysis import configurations, labels
from analysis.html.table import Table
from analysis.results import Search
from trainables.config import FIELDS

# Configurations. With ten, and one of three hyperparameters behind 60 % of an objective's variance, that one came first
# in 8 of 8 simulations while the held-out R² was still 0; with twice as many, R² was 0.4.
LEAST = 10
SOUND = 0.1  # held-out R² from which a forest may be said to predict something
FOLDS, REPEATS, TREES = 5, 10, 30


def varied(rows: pd.DataFrame) -> list[str]:
    """The hyperparameters that differ among the configurations that have them, in TrainConfig's order."""
    return [name for name in FIELDS if name in rows and name != "seed" and rows[name].nunique() > 1]


def scopes(rows: pd.DataFrame) -> list[tuple[pd.Series, list[str]]]:
    """Which rows have which hyperparameters: (mask over ``rows``, the hyperparameters that exactly those have)."""
    found: dict[tuple, list[str]] = {}
    for name in varied(rows):
        found.setdefault(tuple(rows[name].notna()), []).append(name)
    return [(pd.Series(mask, index=rows.index), names) for mask, names in found.items()]


def measure(search: Search, least: int = LEAST) -> pd.DataFrame:
    """The importance of each hyperparameter that was searched, for each objective; the same numbers at every call.

    Columns: ``objective``, ``hyperparameter``, ``configurations`` (how many have it), ``importance`` (share of the
    held-out variance lost by shuffling it: 0 none; its mean over repeats), ``low`` and ``high`` (2.5 and 97.5 % of the
    repeats), ``r2`` (of the held-out predictions: 1 all explained, 0 or less nothing). NaN where fewer than ``least``
    have it.

    Raises ValueError where fewer than ``least`` configurations are complete.
    """
    rows = configurations.complete(search)
    if len(rows) < least:
        raise ValueError(f"importance needs at least {least} complete configurations, but the search has {len(rows)}")
    found = []
    for mask, own in scopes(rows):
        inside = rows[mask]
        shared = [name for name in varied(inside) if inside[name].notna().all()]
        own = [name for name in own if name in shared]
        for objective in search.objectives if own else []:
            r2, drops = _drops(inside[shared], inside[objective], own) if len(inside) >= least else _nothing(own)
            for name in own:
                low, high = np.quantile(drops[name], [0.025, 0.975])
                found.append((objective, name, len(inside), np.mean(drops[name]), low, high, r2))
    columns = ["objective", "hyperparameter", "configurations", "importance", "low", "high", "r2"]
    return pd.DataFrame(found, columns=columns)


def _nothing(names: list[str]) -> tuple[float, dict[str, list[float]]]:
    return np.nan, {name: [np.nan] for name in names}


def _drops(columns: pd.DataFrame, target: pd.Series, names: list[str]) -> tuple[float, dict[str, list[float]]]:
    """The mean held-out R², and for each of ``names`` the R² lost by shuffling it, repeat by repeat."""
    inputs, places = _encoded(columns)
    values, variance = target.to_numpy(float), target.to_numpy(float).var()
    if variance == 0:
        return _nothing(names)
    scores, drops = [], {name: [] for name in names}
    for repeat in range(REPEATS):
        errors = _held_out(inputs, values, [places[name] for name in names], repeat)
        scores.append(1 - errors[0] / variance)
        for name, error in zip(names, errors[1:]):
            drops[name].append((error - errors[0]) / variance)
    return float(np.mean(scores)), drops


def _held_out(inputs: np.ndarray, values: np.ndarray, groups: list[list[int]], seed: int) -> np.ndarray:
    """Mean squared error over held-out folds: of the forests, then with each group of columns shuffled in turn."""
    rng, errors = np.random.default_rng(seed), np.zeros((1 + len(groups), len(values)))
    for train, held in KFold(FOLDS, shuffle=True, random_state=seed).split(inputs):
        forest = RandomForestRegressor(TREES, random_state=seed).fit(inputs[train], values[train])
        versions = [inputs[held]]
        for columns in groups:
            shuffled = inputs[held].copy()
            # Values of any configuration: among the few held out, a column could come back as it was.
            shuffled[:, columns] = inputs[rng.permutation(len(inputs))[: len(held)]][:, columns]
            versions.append(shuffled)
        predicted = forest.predict(np.concatenate(versions)).reshape(len(versions), -1)
        errors[:, held] = (predicted - values[held]) ** 2
    return errors.mean(axis=1)


def _encoded(columns: pd.DataFrame) -> tuple[np.ndarray, dict[str, list[int]]]:
    """The hyperparameters as numbers, a column a value for texts; and which columns are whose. Forests need no logs."""
    parts, places = [], {}
    for name in columns:
        column = columns[name]
        part = pd.get_dummies(column) if FIELDS[name].type is str else column.to_frame()
        places[name] = list(range(sum(p.shape[1] for p in parts), sum(p.shape[1] for p in parts) + part.shape[1]))
        parts.append(part)
    return pd.concat(parts, axis="columns").to_numpy(float), places


def table(found: pd.DataFrame) -> Table:
    """``measure``'s result, the most important first."""
    ordered = found.sort_values(["objective", "importance"], ascending=[True, False], kind="stable")
    rows = tuple(
        (
            labels.hyperparameter(row["hyperparameter"]),
            labels.name(row["objective"]),
            str(row["configurations"]),
            "too few" if np.isnan(row["importance"]) else f"{row['importance']:.2f}",
            "–" if np.isnan(row["importance"]) else f"{row['low']:.2f} … {row['high']:.2f}",
            "–" if np.isnan(row["r2"]) else f"{row['r2']:.2f}",
        )
        for row in ordered.to_dict("records")
    )
    header = ("hyperparameter", "objective", "configurations", "importance", "95 % of repeats", "held-out R²")
    return Table("Importance of each hyperparameter, validation split", header, rows, note=NOTE)


NOTE = (
    "Importance: share of an objective's held-out variance that a random forest loses when the hyperparameter is "
    f"shuffled, {REPEATS} repeats of {FOLDS} folds. Where the held-out R² is near 0 or below, the forest predicts "
    "nothing and the row means nothing. A hyperparameter is measured among the configurations that have it, at least "
    f"{LEAST}; method and learning rate share what they explain, as their ranges differ by method."
)


def summary(search: Search) -> tuple[Table, Figure]:
    """``measure`` as a table and a figure. Raises ValueError as it does."""
    found = measure(search)
    return table(found), figure(found)


def draw(ax: Axes, found: pd.DataFrame, objective: str) -> None:
    """Bars with the range of the repeats; pale where the forest predicts nothing."""
    rows = found[(found["objective"] == objective) & found["importance"].notna()].sort_values("importance")
    for place, row in enumerate(rows.to_dict("records")):
        sound = row["r2"] >= SOUND
        ax.barh(place, row["importance"], color="#0072B2" if sound else "0.8", height=0.6)
        ax.hlines(place, row["low"], row["high"], color="0.2" if sound else "0.6", linewidth=1)
    names = [f"{labels.hyperparameter(r['hyperparameter'])} (n={r['configurations']})" for r in rows.to_dict("records")]
    ax.set_yticks(range(len(rows)), names, fontsize=8)
    ax.axvline(0, color="0.6", linewidth=1, zorder=0)
    ax.set_xlabel(f"share of validation {labels.name(objective)}'s\nheld-out variance lost by shuffling")
    ax.spines[["top", "right"]].set_visible(False)


def figure(found: pd.DataFrame) -> Figure:
    """One panel an objective, of ``measure``'s result."""
    names = list(dict.fromkeys(found["objective"]))
    most = found.groupby("objective").size().max()
    page = Figure(figsize=(3.6 * len(names), 1.6 + 0.3 * most), layout="constrained")
    for ax, objective in zip(page.subplots(1, len(names), squeeze=False)[0], names):
        draw(ax, found, objective)
    page.suptitle("importance of hyperparameters (grey: the forest predicts nothing held out)", fontsize=10)
    return page
