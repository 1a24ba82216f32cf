"""Constraints on a search's results: ``--constraint "val_accuracy>=0.9"``."""

import math
from collections.abc import Iterable, Mapping

from analysis import bounds
from analysis.bounds import Bound as Constraint
from trainables.config import ConfigError
from trainables.metrics import METRICS


def parse(texts: Iterable[str]) -> tuple[Constraint, ...]:
    """Raises ConfigError on another form, an unknown metric, and on bounds that no model could keep."""
    constraints = tuple(bounds.parse(text, "a constraint") for text in texts)
    for metric in {c.metric for c in constraints}:
        _check_range(metric, [c for c in constraints if c.metric == metric])
    return constraints


def feasible(constraints: Iterable[Constraint], metrics: Mapping[str, float]) -> bool:
    return all(constraint.violation(metrics) <= 0 for constraint in constraints)


def _check_range(metric: str, constraints: list[Constraint]) -> None:
    largest = math.inf if METRICS[metric.removeprefix("val_")].unit else 1.0
    low = max([0.0, *(c.bound for c in constraints if c.sign == ">=")])
    high = min([largest, *(c.bound for c in constraints if c.sign == "<=")])
    if low > high:
        texts = " and ".join(map(str, constraints))
        raise ConfigError(f"a constraint must leave {metric} some room, but {texts} can never hold")
