"""The format of a search's record (``events.jsonl``, ``search.json``), and how the previous one is read.

Standard library only: the search itself reads its record without pandas.
"""

import ast
from collections.abc import Mapping
from typing import Any

FORMAT = 3
PREVIOUS_FORMAT = 2


def upgraded(settings: dict[str, Any]) -> dict[str, Any]:
    """``settings`` of the previous format in this one; those of any other format as they are.

    Format 2 holds a search's distributions as Optuna printed them, format 3 holds their names and attributes.
    """
    if settings.get("format") != PREVIOUS_FORMAT:
        return settings
    searched = {name: _from_text(entry) for name, entry in settings.get("searched", {}).items()}
    return settings | {"format": FORMAT, "searched": searched}


def _from_text(entry: str | Mapping[str, str]) -> dict[str, Any]:
    """ "FloatDistribution(high=1.0, log=False, low=0.0, step=None)" as ``study.distribution_data`` has it."""
    if not isinstance(entry, str):
        return {method: _from_text(text) for method, text in entry.items()}
    call = ast.parse(entry, mode="eval").body
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise ValueError(f"a distribution must be like IntDistribution(low=1, high=8), but is {entry}")
    values = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    attributes = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return {"name": call.func.id, "attributes": attributes}
