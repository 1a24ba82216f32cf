"""The front's gaps beside what an evenly right model of the same accuracy shows by chance."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis import labels
from analysis.chance import GAPS, by_chance, smallest
from analysis.results import NothingToShow, Search
from analysis.table import Table
from analysis.tables import front

Counts = Mapping[int, Any]  # of a search: by a trial's number, validation images by class and group, int [K, G]


def table(search: Search, counts: Counts) -> Table:
    """A row a trial of the front that has ``counts`` and an accuracy, a column a gap. Raises NothingToShow where there
    is none."""
    rows, cells = front.members(search), []
    positive = search.settings.get("positive")
    names = [name for name in GAPS if f"val_{name}" in rows and rows[f"val_{name}"].notna().any()]
    for row in rows.to_dict("records"):
        if row["number"] in counts and not np.isnan(row.get("val_accuracy", np.nan)):
            images = np.asarray(counts[row["number"]])
            ranges = by_chance(images, row["val_accuracy"], names, positive)
            shown = [
                f"{row[f'val_{name}']:.3f}: chance {ranges[name]}, {ranges[name].of(row[f'val_{name}'])}"
                if name in ranges
                else "–"
                for name in names
            ]
            cells.append((str(row["number"]), labels.number(row["val_accuracy"]), *shown))
    if not cells:
        raise NothingToShow("no trial on the front has the numbers that chance is computed from")
    header = ("trial", labels.heading("val_accuracy"), *(labels.heading(f"val_{name}") for name in names))
    sizes = ", ".join(f"{n} in the smallest {what}" for what, n in smallest(images).items())
    note = (
        "Chance: mean and 5–95 % of a model that is right equally often in every class and group, as often as this "
        f"one, on these {images.sum()} images ({sizes}). A gap inside its range is no sign of unfairness."
    )
    return Table("Gaps that chance alone would show", header, tuple(cells), note=note)
