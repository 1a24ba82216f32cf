"""The papers' tables of a search: method by metric, percent, mean ± standard deviation over seeds, best in bold."""

import numpy as np
import pandas as pd

from analysis import configurations, labels
from analysis.html.table import Table
from analysis.results import Search
from trainables.config import METHODS

# FairLoRA's tables 1, 2 and 6, then its table 3 (of which sensitive accuracy needs a second model), then Ding et al.'s.
METRICS = (
    "accuracy",
    "min_f1",
    "min_recall",
    "delta_f1",
    "eod_max",
    "equalized_odds",
    "min_group_accuracy",
    "delta_group_accuracy",
    "loss_variance",
)


def by_method(search: Search, by: str = configurations.CHOSEN_BY, metrics=METRICS) -> Table:
    """Method by metric on the validation split: of each method the configuration that ``configurations.chosen`` takes.

    Args:
        by: Any metric with its prefix: what the configuration is chosen by.
        metrics: Without prefix.
    """
    rows = configurations.chosen(search, by)
    note = f"Chosen: {configurations.rule(search, by)}. {_units(search)}"
    return _table("Methods compared, validation split", rows, _named(rows), [f"val_{name}" for name in metrics], note)


def confirmed(search: Search, metrics=METRICS) -> Table:
    """What ``confirm`` measured on the test split: a row a configuration and what it was trained on.

    Raises ValueError where nothing was confirmed.
    """
    if not len(search.confirmed):
        raise ValueError("nothing of this search was measured on the test split: tune_fairlora.confirm does it")
    names = [f"test_{name}" for name in metrics]
    rows = _confirmed_rows(search, names)
    note = f"Chosen on the validation split; test numbers must not choose again. {_units(search)}"
    if search.seeds > 1:
        counts = ", ".join(f"trial {row['number']}: {row['seeds']}" for row in rows.to_dict("records"))
        note += f" Seeds that were measured: {counts}."
    named = [[*one, {"train": "train", "trainval": "train and val"}[on]] for one, on in zip(_named(rows), rows["on"])]
    return _table("Methods compared, test split", rows, named, names, note, ("trained on",))


def _confirmed_rows(search: Search, names: list[str]) -> pd.DataFrame:
    """A row a configuration and training data; means over the seeds that were measured, ``seeds`` of them."""
    described = search.trials.set_index("number")
    table = search.confirmed.assign(first=search.confirmed["number"] // search.seeds * search.seeds)
    groups = table.groupby(["first", "trained_on"])
    rows = pd.concat(
        [groups[names].mean(), groups[names].std().add_suffix("_sd"), groups.size().rename("seeds")], axis=1
    )
    rows = rows.reset_index().rename(columns={"first": "number", "trained_on": "on"})
    known = [name for name in ("method", "rank", "lam") if name in described]
    rows = rows.join(described.loc[rows["number"], known].reset_index(drop=True))
    order = rows["method"].map(list(METHODS).index)
    return rows.assign(order=order).sort_values(["order", "number", "on"], ignore_index=True)


def _named(rows: pd.DataFrame) -> list[list[str]]:
    return [
        [labels.METHOD_NAMES[row["method"]], str(row["number"]), _value(row.get("rank")), _value(row.get("lam"))]
        for row in rows.to_dict("records")
    ]


def _value(value) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:.3g}"


def _units(search: Search) -> str:
    return f"Percent (loss variance in nats²); {configurations.seeds_in_words(search)}."


def _table(caption: str, rows: pd.DataFrame, named: list[list[str]], metrics: list[str], note: str, more=()) -> Table:
    """``named`` cells to the left, then the metrics that any row has, the best of each in bold."""
    shown = [name for name in metrics if name in rows and rows[name].notna().any()]
    header = ("method", "trial", "rank", "λ", *more, *map(labels.heading, shown))
    cells = [[*left, *(cell(row, name) for name in shown)] for left, row in zip(named, rows.to_dict("records"))]
    first = len(header) - len(shown)
    best = {(i, first + j) for j, name in enumerate(shown) for i in best_rows(rows[name], name)}
    return Table(caption, header, tuple(map(tuple, cells)), frozenset(best), note)


def cell(row: dict, metric: str) -> str:
    """ "97.35 ± 0.17"; without ± where there is one seed, "–" where nothing supports the metric."""
    if np.isnan(row[metric]):
        return "–"
    spread = row.get(f"{metric}_sd", np.nan)
    return _printed(row[metric], metric) + ("" if np.isnan(spread) else f" ± {_printed(spread, metric)}")


def _printed(value: float, metric: str) -> str:
    return f"{value:.4f}" if labels.plain(metric) in labels.UNITS else f"{100 * value:.2f}"


def best_rows(values: pd.Series, metric: str) -> list[int]:
    """The rows whose printed mean is the best: what looks equal is equally bold."""
    known = [float(_printed(value, metric)) * labels.sign(metric) for value in values]
    top = np.nanmax(known)
    return [i for i, value in enumerate(known) if value == top]
