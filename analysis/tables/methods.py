"""The papers' tables of a search: method by metric, percent, mean ± standard deviation over seeds, best in bold."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis import configurations, labels
from analysis.results import Search
from analysis.table import Table

# FairLoRA's tables 1, 2 and 6, then its table 3 (of which sensitive accuracy needs a second model), then Ding et al.'s.
COMPARED = (
    *("accuracy", "min_f1", "min_recall", "delta_f1", "eod_max"),
    *("equalized_odds", "worst_cell_accuracy", "min_group_accuracy", "delta_group_accuracy", "loss_variance"),
)


def table(search: Search, metrics: Sequence[str] = COMPARED, by: str = configurations.CHOSEN_BY) -> Table:
    """Method by metric on the validation split: of each method the configuration that ``configurations.chosen`` takes.

    ``metrics`` come without prefix, ``by`` with it. Raises NothingToShow where no configuration is complete.
    """
    rows = configurations.chosen(search, by)
    note = f"Chosen: {configurations.rule(search, by)}. {units(search)}"
    return by_metric("Methods compared, validation split", rows, [f"val_{name}" for name in metrics], note)


def units(search: Search) -> str:
    return f"Percent (loss variance in nats²); {configurations.seeds_in_words(search)}."


def by_metric(caption: str, rows: pd.DataFrame, metrics: Sequence[str], note: str, more: str = "") -> Table:
    """A row for each of ``rows`` with the metrics that any of them has, the best of each in bold; to the left what it
    is, and the column ``more``, if there is one."""
    shown = [name for name in metrics if name in rows and rows[name].notna().any()]
    left = ("method", "trial", "rank", "λ", *([more] if more else []))
    cells = tuple(
        (
            labels.METHOD_STYLES[row["method"]].name,
            *(str(row["number"]), labels.number(row.get("rank"), ".3g"), labels.number(row.get("lam"), ".3g")),
            *([row[more]] if more else []),
            *(_cell(row, name) for name in shown),
        )
        for row in rows.to_dict("records")
    )
    best = {(i, len(left) + j) for j, name in enumerate(shown) for i in _best_rows(rows[name], name)}
    return Table(caption, (*left, *map(labels.heading, shown)), cells, frozenset(best), note)


def _cell(row: dict[str, Any], metric: str) -> str:
    """ "97.35 ± 0.17"; without ± where there is one seed, "–" where nothing supports the metric."""
    if np.isnan(row[metric]):
        return labels.ABSENT
    spread = row.get(f"{metric}_sd", np.nan)
    return _printed(row[metric], metric) + ("" if np.isnan(spread) else f" ± {_printed(spread, metric)}")


def _best_rows(values: pd.Series, metric: str) -> list[int]:
    """The rows whose printed mean is the best: what looks equal is equally bold."""
    printed = [float(_printed(value, metric)) * labels.sign(metric) for value in values]
    top = np.nanmax(printed)
    return [i for i, value in enumerate(printed) if value == top]


def _printed(value: float, metric: str) -> str:
    return f"{value:.4f}" if labels.unit(metric) else f"{100 * value:.2f}"
