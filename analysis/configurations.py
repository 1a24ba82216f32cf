"""A row a configuration: its metrics as means and standard deviations over seeds; and the one chosen for a method."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis import labels
from analysis.estimates import estimate
from analysis.results import NothingToShow, Search
from trainables.config import FIELDS, METHODS

FEW = 4  # configurations, of which a spread means something
CHOSEN_BY = "val_accuracy"  # FairLoRA chooses its models so too


def complete(search: Search) -> pd.DataFrame:
    """The configurations that are complete with every seed, in the order of their first trials' numbers.

    Columns: ``number`` (its first trial's), ``config_id``, ``method``, the hyperparameters, ``on_front``, ``feasible``
    (True where the search had no constraint), each ``val_`` metric as the mean over the seeds (NaN where any seed has
    none), and its standard deviation, with ddof 1, as ``<metric>_sd`` (NaN with one seed).
    """
    trials = search.trials.sort_values("number")
    numbers = trials["number"] // search.seeds
    whole = trials["status"].eq("complete").groupby(numbers).transform("sum") == search.seeds
    groups = trials[whole].groupby(numbers[whole])
    described = ["number", "config_id", "on_front", *(name for name in FIELDS if name != "seed")]
    rows = groups[[name for name in described if name in trials]].first()
    rows["feasible"] = ~groups["feasible"].first().eq(False) if "feasible" in trials else True
    metrics = [name for name in trials if name.startswith("val_")]
    means = groups[metrics].mean().where(groups[metrics].count() == search.seeds)
    spread = groups[metrics].std().add_suffix("_sd")
    return pd.concat([rows, means, spread], axis="columns").reset_index(drop=True)


def expected(search: Search) -> pd.DataFrame:
    """What other training seeds would show of the configurations of ``complete``, on the same images.

    Columns: ``number``, ``on_front``, each objective as ``estimates`` has it, and half of its 95 % interval as
    ``<objective>_half``. Empty where fewer than ``FEW`` have finite objectives: they say too little of each other.
    """
    rows, names = complete(search).dropna(subset=search.objectives), search.objectives
    if len(rows) < FEW:
        return rows.iloc[:0]
    trials = search.trials.set_index("number")[names]
    found = estimate([trials.loc[n : n + search.seeds - 1].to_numpy(float) for n in rows["number"]])
    table = rows[["number", "on_front"]].reset_index(drop=True)
    table[names], table[[f"{name}_half" for name in names]] = found.mean, found.half
    return table


def eligible(search: Search, by: str = CHOSEN_BY) -> pd.DataFrame:
    """The rows of ``complete`` that a choice may fall on: within the constraints, with a value of ``by``."""
    rows = complete(search)
    return rows[rows["feasible"] & rows[by].notna()]


def best(rows: pd.DataFrame, by: str) -> pd.Series:
    """The row that is best in ``by``; of equals, the one that began first."""
    order = (rows[by] * -labels.sign(by)).rename("cost").to_frame().assign(number=rows["number"])
    return rows.loc[order.sort_values(["cost", "number"]).index[0]]


def chosen(search: Search, by: str = CHOSEN_BY) -> pd.DataFrame:
    """The row of ``eligible`` that is best in ``by``, for each method that has any, in the order of ``METHODS``.

    Raises NothingToShow where there is none.
    """
    rows = eligible(search, by)
    if rows.empty:
        raise NothingToShow(f"no complete configuration has a validation {labels.name(by)}")
    each = [best(rows[rows["method"] == method], by) for method in METHODS if (rows["method"] == method).any()]
    return pd.DataFrame(each, columns=rows.columns).reset_index(drop=True)


def rule(search: Search, by: str = CHOSEN_BY) -> str:
    """How ``chosen`` chooses, in words."""
    best = "highest" if labels.sign(by) > 0 else "lowest"
    mean = "" if search.seeds == 1 else "mean "
    within = ", within the constraints" if search.settings.get("constraints") else ""
    return f"of each method the complete configuration with the {best} {mean}validation {labels.name(by)}{within}"


def varied(rows: pd.DataFrame) -> list[str]:
    """The hyperparameters that differ among the rows that have them, in TrainConfig's order."""
    return [name for name in FIELDS if name in rows and name != "seed" and rows[name].nunique() > 1]


def seeds_in_words(search: Search) -> str:
    """What "±" means, or why there is none."""
    if search.seeds == 1:
        return "one seed, so no standard deviation"
    return f"mean ± standard deviation over {search.seeds} seeds"


def title(row: "pd.Series | Mapping[str, Any]") -> str:
    """A configuration's name: "FairLoRA r8 λ0.1"."""
    rank = f" r{row['rank']:.0f}" if pd.notna(row.get("rank")) else ""
    lam = f" λ{row['lam']:.3g}" if pd.notna(row.get("lam")) else ""
    return f"{labels.METHOD_STYLES[row['method']].name}{rank}{lam}"
