"""One point of a search, chosen by a rule: its knee, the most accurate, the fairest, or the best that keeps a bound."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import configurations
from analysis.bounds import parse_bound
from analysis.pareto import SIGNS, as_minimization, front, knee
from analysis.results import Search
from trainables.config import ConfigError, lookup
from trainables.metrics import OBJECTIVES

BOUNDED = re.compile(r"(.*(?:>=|<=).*\S)\s+then\s+([a-z_0-9]+)\s*")
BETTER = {"maximize": "larger is better", "minimize": "smaller is better"}


@dataclass(frozen=True)
class Choice:
    """Trial ``number``, the first seed of the configuration that was chosen, and why it was, with the numbers."""

    number: int
    why: str


def pick(search: Search, rule: str) -> Choice:
    """The configuration that ``rule`` chooses among those that are complete with every seed and keep the search's
    constraints; its metrics are means over its seeds.

    ``knee``: the front point that gives most for least (``pareto.knee``). ``accuracy``: the best of the first objective
    to be maximised; ``fairness``: the best of the first to be minimised. ``"val_accuracy>=0.9 then val_delta_f1"``: of
    those that keep the bound, the best of the other metric. Among equals the objectives decide, in their order, then
    the lower number. Raises ConfigError for another rule, and where none keeps the bound: then it says how close the
    best comes.
    """
    named = rule.strip()
    if named not in RULES and not BOUNDED.fullmatch(rule):
        raise ConfigError(
            f'--pick takes {", ".join(RULES)} or a rule like "val_accuracy>=0.9 then val_delta_f1", but got {rule!r}'
        )
    table = _configurations(search)
    if table.empty:
        raise ConfigError(f"the search {search.name} has no complete trial to pick from")
    number, why = RULES[named](search, table) if named in RULES else _bounded(search, table, rule)
    return Choice(number, why + (f" (means over {search.seeds} seeds)" if search.seeds > 1 else ""))


def _configurations(search: Search) -> pd.DataFrame:
    """A row a configuration that may be chosen, by the number of its first trial; the mean of each metric."""
    rows = configurations.complete(search)
    return rows[rows["feasible"]].set_index("number").dropna(subset=search.objectives)


def _knee(search: Search, table: pd.DataFrame) -> tuple[int, str]:
    points = as_minimization(table[search.objectives].to_numpy(float), search.directions)
    row = knee(points)
    if row is None:
        raise ConfigError(f"the front of {search.name} has no finite point, so no knee")
    number, members = int(table.index[row]), np.unique(points[front(points)], axis=0)
    if len(members) <= 2:
        return number, f"the front has {len(members)} point(s), so no knee; trial {number} is one: " + \
                       _values(search, table, number)  # fmt: skip
    return number, f"trial {number} is the knee of the front, the deepest point below the plane through its " \
                   f"extremes: {_values(search, table, number)}"  # fmt: skip


def _best_objective(direction: str) -> Callable:
    def choose(search: Search, table: pd.DataFrame) -> tuple[int, str]:
        if direction not in search.directions:
            raise ConfigError(
                f"the rule needs an objective to {direction}, but {search.name} has none: "
                f'name a metric, as in "{search.objectives[0]}>=0 then {search.objectives[-1]}"'
            )
        return _best(search, table, search.objectives[search.directions.index(direction)], "")

    return choose


def _bounded(search: Search, table: pd.DataFrame, rule: str) -> tuple[int, str]:
    text, target = BOUNDED.fullmatch(rule).groups()
    bound = parse_bound(text, "--pick")
    metric = bound.metric
    lookup(OBJECTIVES, target, "metric of --pick")
    for name in (metric, target):
        if name not in table:
            raise ConfigError(f"the search {search.name} must have measured {name}, but has not")
    values = table[metric].dropna()
    kept = values[values >= bound.value] if bound.sign == ">=" else values[values <= bound.value]
    if kept.empty:
        raise ConfigError(f"no complete trial keeps {bound}{_closest(values, metric, bound.sign)}")
    return _best(search, table.loc[kept.index], target, f" with {bound}", metric)


def _closest(values: pd.Series, metric: str, sign: str) -> str:
    if values.empty:
        return f": none has a value of {metric}"
    number = int(values.idxmax() if sign == ">=" else values.idxmin())
    return f": trial {number} comes closest with {values[number]:.4f}"


def _best(search: Search, table: pd.DataFrame, target: str, among: str, *shown: str) -> tuple[int, str]:
    table = table.dropna(subset=[target])
    if table.empty:
        raise ConfigError(f"no complete trial{among} has a value of {target}")
    direction = OBJECTIVES[target]
    signs = [SIGNS[direction], *(SIGNS[each] for each in search.directions)]
    costs = table[[target, *search.objectives]].to_numpy(float) * signs
    number = int(table.index[np.lexsort([table.index.to_numpy(), *costs.T[::-1]])[0]])
    ours, count = table.loc[number], len(table)
    best = f"trial {number} has the best {target} ({ours[target]:.4f}, {BETTER[direction]})"
    others = [name for name in dict.fromkeys([*shown, *search.objectives]) if name != target]
    beside = f"; {', '.join(f'{name} is {ours[name]:.4f}' for name in others)}" if others else ""
    return number, f"{best} of the {count} complete configurations{among}{beside}"


def _values(search: Search, table: pd.DataFrame, number: int) -> str:
    return ", ".join(f"{name} {table.loc[number, name]:.4f}" for name in search.objectives)


RULES = {"knee": _knee, "accuracy": _best_objective("maximize"), "fairness": _best_objective("minimize")}
