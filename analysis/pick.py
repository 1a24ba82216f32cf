"""One point of a search, chosen by a rule: its knee, the most accurate, the fairest, or the best that keeps a bound."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from analysis import bounds
from analysis.claims import Claims, claims
from analysis.labels import BETTER
from analysis.pareto import SIGNS, as_minimization, front, knee
from analysis.results import Search
from trainables.config import ConfigError
from trainables.metrics import OBJECTIVES, objective

RULES = {"knee": "", "accuracy": "maximize", "fairness": "minimize"}  # the last two: an objective of that direction


@dataclass(frozen=True)
class Choice:
    """Trial ``number``, the first of the configuration that was chosen, and why it was, with the numbers."""

    number: int
    why: str


def pick(search: Search, rule: str) -> Choice:
    """The configuration that ``rule`` chooses among the ``eligible`` (``claims.Claims``); objectives are what is
    claimed of them, other metrics means over their trainings.

    ``knee``: the front point that gives most for least (``pareto.knee``); where no two points of the front can be told
    apart, or it has only two, the one with the larger gain over the others in standard errors. ``accuracy``: the
    best of the first objective to be maximised; ``fairness``: the best of the first to be minimised.
    ``"val_accuracy>=0.9 then val_delta_f1"``: of those that keep the bound, the best of the other metric. Among equals
    the objectives decide, in their order, then the lower number. Raises ConfigError for another rule, and where none
    keeps the bound: then it says how close the best comes.
    """
    name, (bound, then, target) = rule.strip(), rule.partition(" then ")
    if name not in RULES and not then:
        known = ", ".join(RULES)
        raise ConfigError(
            f'a rule to pick by is {known}, or like "val_accuracy>=0.9 then val_delta_f1", but got {rule!r}'
        )
    claimed = claims(search)
    rows = claimed.rows[claimed.rows["eligible"]]
    rows = rows.assign(**{name: rows[f"{name}_claimed"] for name in search.objectives}).set_index("number")
    if rows.empty:
        raise ConfigError(f"the search {search.name} has no complete trial to pick from")
    if then:
        number, why = _bounded(search, rows, bounds.parse(bound, "a rule to pick by"), target.strip())
    elif name == "knee":
        number, why = _knee(claimed, rows)
    elif RULES[name] in search.directions:
        number, why = _best(search, rows, search.objectives[search.directions.index(RULES[name])])
    else:
        raise ConfigError(
            f"the rule {name} needs an objective to {RULES[name]}, but {search.name} has none: "
            f'name a metric, as in "{search.objectives[0]}>=0 then {search.objectives[-1]}"'
        )
    return Choice(number, why)


def _knee(claimed: Claims, rows: pd.DataFrame) -> tuple[int, str]:
    search = claimed.search
    points = as_minimization(rows[search.objectives].to_numpy(float), search.directions)
    members = np.flatnonzero(front(points))
    places = [claimed.rows.index[claimed.rows["number"] == number][0] for number in rows.index[members]]
    apart = any(claimed.told_apart(i, j) for i, j in combinations(places, 2))
    distinct = len(np.unique(points[members], axis=0))
    if distinct > 2 and (apart or not claimed.known):
        row = knee(points)
        if row is None:
            raise ConfigError(f"the front of {search.name} has no finite point, so no knee")
        number = int(rows.index[row])
        which = "is the knee of the front, the deepest point below the plane through its extremes"
    else:
        # The gain over the others, summed over the objectives, each in standard errors of a difference.
        costs, draws = points[members], claimed.draws[:, places]
        error = np.sqrt((draws - draws.mean(axis=1, keepdims=True)).var(axis=0).mean(axis=0))
        gains = ((costs.mean(axis=0) - costs) / np.where(error > 0, error, 1.0)).sum(axis=1)
        number = int(rows.index[members[int(np.argmax(gains)) if claimed.known else 0]])
        which = "has the larger gain in standard errors of the front's points"
        if distinct == 1:
            which = "is the only point of the front"
        elif not claimed.known:
            which = "is the first of the front's two points, and nothing is known of their luck"
        elif not apart:
            which += ", but there is no choice to make: no two of them can be told apart"
    return number, f"trial {number} {which}: {_values(rows, number, search.objectives, ' ')}"


def _bounded(search: Search, rows: pd.DataFrame, bound: bounds.Bound, target: str) -> tuple[int, str]:
    target = objective(target, "metric of a rule to pick by")
    for name in (bound.metric, target):
        if name not in rows:
            raise ConfigError(f"the search {search.name} must have measured {name}, but has not")
    values = rows[bound.metric].dropna()
    kept = values[values >= bound.bound] if bound.sign == ">=" else values[values <= bound.bound]
    if kept.empty:
        closest = f"none has a value of {bound.metric}"
        if len(values):
            number = int(values.idxmax() if bound.sign == ">=" else values.idxmin())
            closest = f"trial {number} comes closest with {values[number]:.4f}"
        raise ConfigError(f"no complete trial keeps {bound}: {closest}")
    return _best(search, rows.loc[kept.index], target, f" with {bound}", [bound.metric])


def _best(
    search: Search, rows: pd.DataFrame, target: str, among: str = "", beside: Sequence[str] = ()
) -> tuple[int, str]:
    """The best of ``rows`` in ``target``; the reason names its values of ``beside``, too."""
    rows = rows.dropna(subset=[target])
    if rows.empty:
        raise ConfigError(f"no complete trial{among} has a value of {target}")
    direction = OBJECTIVES[target]
    signs = [SIGNS[direction], *(SIGNS[each] for each in search.directions)]
    costs = rows[[target, *search.objectives]].to_numpy(float) * signs
    number = int(rows.index[np.lexsort([rows.index.to_numpy(), *costs.T[::-1]])[0]])
    others = [name for name in dict.fromkeys([*beside, *search.objectives]) if name != target]
    why = f"trial {number} has the best {target} ({rows.loc[number, target]:.4f}, {BETTER[direction]})"
    also = f"; {_values(rows, number, others, ' is ')}" if others else ""
    return number, f"{why} of the {len(rows)} complete configurations{among}{also}"


def _values(rows: pd.DataFrame, number: int, names: Sequence[str], verb: str) -> str:
    return ", ".join(f"{name}{verb}{rows.loc[number, name]:.4f}" for name in names)
