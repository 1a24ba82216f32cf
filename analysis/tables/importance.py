"""The importance of each hyperparameter for each objective, the most important first."""

import numpy as np

from analysis import labels
from analysis.figures.importance import FOLDS, LEAST, REPEATS, measure
from analysis.results import Search
from analysis.table import Table

NOTE = (
    "Importance: share of an objective's held-out variance that a random forest loses when the hyperparameter is "
    f"shuffled, {REPEATS} repeats of {FOLDS} folds. Where the held-out R² is near 0 or below, the forest predicts "
    "nothing and the row means nothing. A hyperparameter is measured among the configurations that have it, at least "
    f"{LEAST}; method and learning rate share what they explain, as their ranges differ by method."
)


def table(search: Search) -> Table:
    """Raises NothingToShow as ``measure`` does."""
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
