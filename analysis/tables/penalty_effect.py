"""What the fairness penalty changes, in numbers: ``figures.penalty_effect`` as a table, improvements in bold."""

import pandas as pd

from analysis import configurations, labels
from analysis.figures.penalty_effect import metrics, pairs
from analysis.results import Search
from analysis.table import Table


def table(search: Search, by: str = configurations.CHOSEN_BY) -> Table:
    """Raises NothingToShow as ``pairs`` does."""
    compared, names = pairs(search, by).to_dict("records"), metrics(search)
    rows, better = [], set()
    for i, row in enumerate(compared):
        cells = [row["title"], f"{row['fair']} less {row['plain']}", row["kind"]]
        for name in names:
            if row[name] * labels.sign(name) > 0:
                better.add((i, len(cells)))
            spread = f" ± {row[f'{name}_sd']:.4f}" if pd.notna(row[f"{name}_sd"]) else ""
            cells.append(f"{row[name]:+.4f}{spread}".replace("-", "−"))
        rows.append(tuple(cells))
    header = ("configuration", "trials", "compared", *map(labels.heading, names))
    note = (
        "Fair less plain; bold: better with the penalty. Rates are fractions, loss variance is in nats². "
        f"Over seeds: {configurations.seeds_in_words(search)}."
    )
    return Table("What the penalty changes, validation split", header, tuple(rows), frozenset(better), note)
