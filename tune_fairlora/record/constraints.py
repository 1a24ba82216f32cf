"""Constraints on a search's results: ``--constraint "val_accuracy>=0.9"``."""

import math
from collections.abc import Iterable, Mapping

from analysis.bounds import Bound, parse_bound
from trainables.config import ConfigError

UNBOUNDED = ("val_loss", "val_loss_variance")  # every other metric is a rate, in [0, 1]


def parse(texts: Iterable[str]) -> tuple[Bound, ...]:
    """Raises ConfigError on another form, an unknown metric, and on bounds that no model can keep."""
    constraints = tuple(parse_bound(text, "--constraint") for text in texts)
    for metric in {c.metric for c in constraints}:
        same = [c for c in constraints if c.metric == metric]
        low = max([0.0, *(c.value for c in same if c.sign == ">=")])
        high = min([math.inf if metric in UNBOUNDED else 1.0, *(c.value for c in same if c.sign == "<=")])
        if low > high:
            raise ConfigError(
                f"a constraint must leave {metric} some room, but {' and '.join(map(str, same))} can never hold"
            )
    return constraints


def feasible(constraints: Iterable[Bound], metrics: Mapping[str, float]) -> bool:
    return all(constraint.violation(metrics) <= 0 for constraint in constraints)
