"""A row a configuration: its metrics as means and standard deviations over seeds; and the one chosen for a method."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis import labels
from analysis.results import NothingToShow, Search
from trainables.config import FIELDS, METHODS

CHOSEN_BY = "val_accuracy"  # FairLoRA chooses its models so too


def trainings(search: Search) -> pd.DataFrame:
    """The complete trials of the configurations that are complete with every seed, each training seed once, by number.

    No seed of such a configuration collapsed or diverged.
    """
    rows = search.trials.sort_values("number")
    complete = rows[rows["status"] == "complete"].drop_duplicates(["config_id", "seed"])
    unsound = rows.loc[rows["status"].isin(("collapsed", "diverged")), "config_id"]
    enough = complete.groupby("config_id")["number"].transform("size") >= search.seeds
    return complete[enough & ~complete["config_id"].isin(unsound)]


def complete(search: Search) -> pd.DataFrame:
    """The configurations of ``trainings``, in the order of their first complete trials' numbers.

    Columns: ``number`` (that trial's), ``config_id``, ``method``, the hyperparameters, ``on_front``, ``feasible`` (True
    where the search had no constraint), ``trainings`` (complete trials), each ``val_`` metric as the mean over them
    (NaN where any has none), and its standard deviation, with ddof 1, as ``<metric>_sd`` (NaN with one).
    """
    trials = trainings(search)
    groups = trials.groupby("config_id", sort=False)
    described = ["number", "on_front", *(name for name in FIELDS if name != "seed")]
    rows = groups[[name for name in described if name in trials]].first()
    rows["feasible"] = groups["feasible"].first().ne(False).fillna(True).astype(bool) if "feasible" in trials else True
    rows["trainings"] = groups.size()
    rows.insert(1, "config_id", rows.index)
    metrics = [name for name in trials if name.startswith("val_")]
    means = groups[metrics].mean().where(groups[metrics].count().eq(rows["trainings"], axis="index"))
    spread = groups[metrics].std().add_suffix("_sd")
    return pd.concat([rows, means, spread], axis="columns").reset_index(drop=True)


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
    mean = "" if (complete(search)["trainings"] == 1).all() else "mean "
    within = ", within the constraints" if search.settings.get("constraints") else ""
    return f"of each method the complete configuration with the {best} {mean}validation {labels.name(by)}{within}"


def varied(rows: pd.DataFrame) -> list[str]:
    """The hyperparameters that differ among the rows that have them, in TrainConfig's order."""
    return [name for name in FIELDS if name in rows and name != "seed" and rows[name].nunique() > 1]


def seeds_in_words(search: Search) -> str:
    """What "±" means, or why there is none."""
    counts = complete(search)["trainings"]
    if counts.max() == 1:
        return "one seed, so no standard deviation"
    seeds = f"{counts.min()} to {counts.max()}" if counts.min() < counts.max() else counts.max()
    return f"mean ± standard deviation over {seeds} seeds"


def title(row: "pd.Series | Mapping[str, Any]") -> str:
    """A configuration's name: "FairLoRA r8 λ0.1"."""
    rank = f" r{row['rank']:.0f}" if pd.notna(row.get("rank")) else ""
    lam = f" λ{row['lam']:.3g}" if pd.notna(row.get("lam")) else ""
    return f"{labels.METHOD_STYLES[row['method']].name}{rank}{lam}"
