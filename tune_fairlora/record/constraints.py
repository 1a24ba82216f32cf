"""Constraints on a search's results: ``--constraint "val_accuracy>=0.9"``."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from trainables.config import ConfigError
from trainables.metrics import objective

FORM = re.compile(r"\s*([a-z_0-9]+)\s*(>=|<=)\s*(\S+)\s*")
UNBOUNDED = ("val_loss", "val_loss_variance")  # every other metric is a rate, in [0, 1]


@dataclass(frozen=True)
class Constraint:
    """``metric >= bound`` or ``metric <= bound``, over the metrics that may be objectives."""

    metric: str
    sign: str
    bound: float

    def __str__(self) -> str:
        return f"{self.metric}{self.sign}{self.bound:g}"

    def violation(self, metrics: Mapping[str, float]) -> float:
        """By how much ``metrics`` break it, in the metric's unit: positive when broken (NaN breaks it, by infinity)."""
        value = metrics.get(self.metric, math.nan)
        if math.isnan(value):
            return math.inf
        return self.bound - value if self.sign == ">=" else value - self.bound


def parse(texts: Iterable[str]) -> tuple[Constraint, ...]:
    """Raises ConfigError on another form, an unknown metric, and on bounds that no model could keep."""
    constraints = tuple(_parse(text) for text in texts)
    for metric in {c.metric for c in constraints}:
        _check_range(metric, [c for c in constraints if c.metric == metric])
    return constraints


def feasible(constraints: Iterable[Constraint], metrics: Mapping[str, float]) -> bool:
    return all(constraint.violation(metrics) <= 0 for constraint in constraints)


def _parse(text: str) -> Constraint:
    match = FORM.fullmatch(text)
    if match is None:
        raise ConfigError(f'--constraint takes "metric>=number" or "metric<=number", but got {text!r}')
    metric, sign, number = match.groups()
    try:
        bound = float(number)
    except ValueError:
        bound = math.nan
    if not math.isfinite(bound):
        raise ConfigError(f"--constraint must end in a number, but got {text!r}")
    return Constraint(objective(metric, "metric of a constraint"), sign, bound)


def _check_range(metric: str, constraints: list[Constraint]) -> None:
    low = max([0.0, *(c.bound for c in constraints if c.sign == ">=")])
    high = min([math.inf if metric in UNBOUNDED else 1.0, *(c.bound for c in constraints if c.sign == "<=")])
    if low > high:
        texts = " and ".join(map(str, constraints))
        raise ConfigError(f"a constraint must leave {metric} some room, but {texts} can never hold")
