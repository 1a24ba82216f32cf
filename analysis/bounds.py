"""Bounds on metrics, ``val_accuracy>=0.9``: a search's constraints (``--constraint``), and rules to pick a trial by."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from trainables.config import ConfigError
from trainables.metrics import METRICS, objective

FORM = re.compile(r"\s*([a-z_0-9]+)\s*(>=|<=)\s*(\S+)\s*")


@dataclass(frozen=True)
class Bound:
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


def parse(text: str, what: str) -> Bound:
    """Raises ConfigError, which begins with ``what`` the bound is, on another form and on an unknown metric."""
    match = FORM.fullmatch(text)
    if match is None:
        raise ConfigError(f'{what} takes "metric>=number" or "metric<=number", but got {text!r}')
    metric, sign, number = match.groups()
    try:
        bound = float(number)
    except ValueError:
        bound = math.nan
    if not math.isfinite(bound):
        raise ConfigError(f"{what} must end in a number, but got {text!r}")
    return Bound(objective(metric, f"metric of {what}"), sign, bound)


def constraints(texts: Iterable[str]) -> tuple[Bound, ...]:
    """Raises ConfigError on another form, an unknown metric, and on bounds that no model could keep."""
    bounds = tuple(parse(text, "a constraint") for text in texts)
    for metric in {bound.metric for bound in bounds}:
        own = [bound for bound in bounds if bound.metric == metric]
        largest = math.inf if METRICS[metric.removeprefix("val_")].unit else 1.0
        low = max([0.0, *(bound.bound for bound in own if bound.sign == ">=")])
        high = min([largest, *(bound.bound for bound in own if bound.sign == "<=")])
        if low > high:
            texts = " and ".join(map(str, own))
            raise ConfigError(f"a constraint must leave {metric} some room, but {texts} can never hold")
    return bounds


def feasible(constraints: Iterable[Bound], metrics: Mapping[str, float]) -> bool:
    return all(constraint.violation(metrics) <= 0 for constraint in constraints)
