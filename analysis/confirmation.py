"""What stands of a front on fresh data: new trainings of its configurations, measured on the test split."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from analysis import labels, results
from analysis.claims import Claims, claims
from analysis.pareto import as_minimization, front
from analysis.results import CONFIRMATION, FRESH, NothingToShow, Search


@dataclass(frozen=True, eq=False)
class Confirmed:
    """``rows``: those of ``claims(search).front``, in its order, with

    - ``<objective>_test``: the mean of the fresh trainings on the test split, ``<objective>_test_half`` half of its
      95 % interval over seeds and test images (NaN where too little is known);
    - ``fresh``: how many trainings came to their end, and ``failed``: how many collapsed or diverged;
    - ``stands``: no other of these is better there; False where a fresh training failed, missing where none ended.

    ``look``: how often the test split has been looked at, with this time; 0 where it is not known.
    """

    search: Search
    rows: pd.DataFrame
    look: int
    test: Claims | None  # of the fresh trainings themselves, where their record is at hand

    def sentences(self) -> list[str]:
        """``verdict`` as sentences, and how often the test split has been looked at."""
        looks = [f"looks at this test split on this machine, with this one: {self.look}"] if self.look else []
        return [labels.sentence(line) for line in (*self.verdict(), *looks)]

    def verdict(self) -> list[str]:
        """In words: how much of the front stands, and what the numbers were worth."""
        rows, measured = self.rows, self.rows[self.rows["fresh"] > 0]
        known = rows["stands"].notna()
        lines = [f"{int(rows.loc[known, 'stands'].sum())} of {known.sum()} points stand on the test split"]
        lines[0] += f" ({len(rows) - known.sum()} more were not measured)" if not known.all() else ""
        lines[0] += ": no other point of the front is better there in every objective" if len(rows) > 1 else ""
        for name in self.search.objectives:
            difference = (measured[f"{name}_test"] - measured[f"{name}_claimed"]).abs()
            both = np.hypot(measured[f"{name}_half"], measured[f"{name}_test_half"])
            if len(measured) and both.notna().all():
                agree = int((difference <= both).sum())
                lines.append(
                    f"in {labels.name(name)} {agree} of {len(measured)} are what was claimed, within both intervals"
                )
        if self.test is not None and len(measured) > 1 and self.test.known:
            pairs = [(i, j) for i in range(len(self.test.rows)) for j in range(i)]
            if not any(self.test.told_apart(i, j) for i, j in pairs):
                lines.append("no two of them can be told apart there")
        failed = rows[rows["failed"] > 0]
        if len(failed):
            numbers = ", ".join(map(str, failed["number"]))
            lines.append(f"trial {numbers}: a fresh training of its configuration collapsed or diverged")
        return lines


@lru_cache(maxsize=8)
def confirmation(search: Search) -> Confirmed:
    """What the fresh trainings of ``search`` say. Raises NothingToShow where there are none."""
    table = search.confirmed
    table = table[table["trained_on"] == FRESH] if len(table) else table
    if table.empty:
        raise NothingToShow("no fresh training was measured on the test split: search --resume NAME --confirm does it")
    rows, names = claims(search).front.copy(), search.objectives
    columns = [f"test_{name.removeprefix('val_')}" for name in names]
    groups = table.groupby("config_id")
    rows["fresh"] = rows["config_id"].map(groups.size()).fillna(0).astype(int)
    test, failed = _record(search)
    rows["failed"] = rows["config_id"].map(failed).fillna(0).astype(int)
    halves = None if test is None else test.rows.set_index("config_id")
    for name, column in zip(names, columns):
        rows[f"{name}_test"] = rows["config_id"].map(groups[column].mean())
        rows[f"{name}_test_half"] = np.nan if halves is None else rows["config_id"].map(halves[f"{name}_half"])
    costs = as_minimization(rows[[f"{name}_test" for name in names]].to_numpy(float), search.directions)
    stands = pd.Series(front(costs), index=rows.index).astype("boolean")
    rows["stands"] = (stands & (rows["failed"] == 0)).where((rows["fresh"] > 0) | (rows["failed"] > 0))
    look = 0 if test is None else int(test.search.settings.get("look", 0))
    return Confirmed(search, rows.reset_index(drop=True), look, test)


def arrows(search: Search) -> pd.DataFrame:
    """The rows of ``claims(search)`` with ``<objective>_test``: where the front's arrows to the test split end, NaN
    where nothing was measured."""
    rows = claims(search).rows
    try:
        test = confirmation(search).rows.set_index("config_id")
    except NothingToShow:
        test = pd.DataFrame(index=pd.Index([], dtype=str), columns=[f"{name}_test" for name in search.objectives])
    for name in search.objectives:
        rows = rows.assign(**{f"{name}_test": rows["config_id"].map(test[f"{name}_test"]).astype(float)})
    return rows


def _record(search: Search) -> tuple[Claims | None, "pd.Series[int]"]:
    """What the record of the fresh trainings claims of them, and how many of a configuration collapsed or diverged."""
    if search.folder is None or not (search.folder / CONFIRMATION / "search.json").is_file():
        return None, pd.Series(dtype=int)
    own = results.read(search.folder / CONFIRMATION)
    failed = own.trials[own.trials["status"].isin(("collapsed", "diverged"))].groupby("config_id").size()
    return claims(own), failed
