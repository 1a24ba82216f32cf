"""How much each method was given, and how good its best would be had all been given as little.

The best of 25 configurations beats the best of 5 of equal worth by luck and by choice. The expected best of n
configurations, drawn without replacement from all that a method tried, compares methods at equal n.

Source: Dodge et al. 2019, "Show your work: improved reporting of experimental results" (EMNLP). It has no interval: the
bootstrap of this number misses its level for few configurations (Tang et al. 2020, "Showing your work doesn't always
work", ACL), and what a sampler draws that learns is not independent.
"""

from collections.abc import Sequence
from math import comb

import pandas as pd

from analysis import configurations, labels
from analysis.results import NothingToShow, Search
from analysis.table import Table

UNDECIDED = ("running", "interrupted")  # statuses of trials that have not ended


def expected_best(costs: Sequence[float], tried: int, n: int, worst: float) -> float:
    """The mean lowest cost of ``n`` configurations, over all ways to draw them from ``tried`` without replacement,
    1 <= n <= tried. ``costs`` are those of the complete ones; the others cost more than these: ``worst``."""
    total = 0.0
    for place, cost in enumerate(sorted(costs), start=1):  # it is the best where the other n - 1 are worse
        total += cost * comb(tried - place, n - 1)
    return (total + worst * comb(tried - len(costs), n)) / comb(tried, n)


def table(search: Search) -> Table:
    """A row a method with a complete configuration: what it was given, and its best in each objective, of all and of
    equally many. Raises NothingToShow where there is none."""
    trials = search.trials[~search.trials["status"].isin(UNDECIDED)]
    complete = {name: configurations.eligible(search, name) for name in search.objectives}
    methods = [m for m in labels.METHOD_STYLES if any((rows["method"] == m).any() for rows in complete.values())]
    if not methods:
        raise NothingToShow("no method has a complete configuration")
    tried = {m: trials.loc[trials["method"] == m, "config_id"].nunique() for m in methods}
    n = min(tried.values())
    rows: list[list[str]] = []
    numbers = pd.DataFrame(index=methods, columns=[*search.objectives], dtype=float)
    for method in methods:
        ends = configurations.complete(search)["method"].eq(method).sum()
        counts = tried[method], ends, trials["method"].eq(method).sum()
        rows.append([labels.METHOD_STYLES[method].name, *map(str, counts)])
        for name in search.objectives:
            sign = labels.sign(name)
            costs = -sign * complete[name][name].astype(float)
            own = costs[complete[name]["method"] == method]
            if len(own):
                numbers.loc[method, name] = -sign * expected_best(own.tolist(), tried[method], n, costs.max())
            rows[-1] += [labels.number(-sign * own.min()), labels.number(numbers.loc[method, name])]
    best = {
        (row, 5 + 2 * j)
        for j, name in enumerate(search.objectives)
        for row, value in enumerate(numbers[name].round(4))
        if value * labels.sign(name) == (numbers[name].round(4) * labels.sign(name)).max()
    }
    columns = (text for name in search.objectives for text in (f"{labels.name(name)}, best", f"best of {n}"))
    note = (
        f"Tried: configurations, those too that were stopped, collapsed or failed. Best of {n}: the mean over all ways "
        f"to draw {n} of a method's configurations, so that none has more luck than another, though each is still the "
        "luck of a choice. What is not complete, or breaks a constraint, counts as the worst complete one of all."
    )
    header = ("method", "tried", "complete", "trainings", *columns)
    return Table("Methods at equal effort, validation split", header, tuple(map(tuple, rows)), frozenset(best), note)
