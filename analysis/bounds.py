"""Bounds on a metric, ``val_accuracy>=0.9``: what a constraint and a rule of ``pick`` say."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from trainables.config import ConfigError, lookup
from trainables.metrics import OBJECTIVES

FORM = re.compile(r"\s*([a-z_0-9]+)\s*(>=|<=)\s*(\S+)\s*")


@dataclass(frozen=True)
class Bound:
    """``metric >= value`` or ``metric <= value``, over the metrics that may be objectives."""

    metric: str
    sign: str
    value: float

    def __str__(self) -> str:
        return f"{self.metric}{self.sign}{self.value:g}"

    def violation(self, metrics: Mapping[str, float]) -> float:
        """By how much ``metrics`` break it, in the metric's unit: positive when broken (NaN breaks it, by infinity)."""
        measured = metrics.get(self.metric, math.nan)
        if math.isnan(measured):
            return math.inf
        return self.value - measured if self.sign == ">=" else measured - self.value


def parse_bound(text: str, option: str) -> Bound:
    """The bound that ``text`` states. Raises ConfigError, which names ``option``, on another form, on an unknown metric
    and on what is not a finite number."""
    match = FORM.fullmatch(text)
    if match is None:
        raise ConfigError(f'{option} takes "metric>=number" or "metric<=number", but got {text!r}')
    metric, sign, number = match.groups()
    lookup(OBJECTIVES, metric, f"metric of {option}")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"{option} must compare with a number, but got {text!r}")
    return Bound(metric, sign, value)
