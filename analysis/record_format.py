"""The format of a search's record (``events.jsonl``, ``search.json``), and how earlier ones are read.

Standard library only: the search itself reads its record without pandas.
"""

import ast
import contextlib
from collections.abc import Mapping
from typing import Any

FORMAT, OLDEST_FORMAT = 4, 2


def upgraded(settings: dict[str, Any]) -> dict[str, Any]:
    """``settings`` of an earlier format in this one; those of any other format as they are.

    Format 2 holds a search's distributions as Optuna printed them, later ones hold their names and attributes. Before
    format 4 no search trained its candidates again. Raises ValueError where a text is no distribution.
    """
    if not isinstance(settings, dict):
        raise TypeError(f"settings must be an object, but are {settings!r}")
    made_with = settings.get("format")
    if not isinstance(made_with, int) or not OLDEST_FORMAT <= made_with < FORMAT:
        return settings
    changes: dict[str, Any] = {"format": FORMAT, "reseed": 0.0}
    if made_with == OLDEST_FORMAT:
        changes["searched"] = {name: _from_text(entry) for name, entry in settings.get("searched", {}).items()}
    if "options" in settings:
        changes["options"] = settings["options"] | {"reseed": 0.0}
    return settings | changes


def _from_text(entry: str | Mapping[str, str]) -> dict[str, Any]:
    """ "IntDistribution(high=8, log=False, low=1, step=1)", or such a text for each method, as data."""
    if isinstance(entry, Mapping):
        return {method: _from_text(text) for method, text in entry.items()}
    with contextlib.suppress(SyntaxError, TypeError):
        call = ast.parse(entry, mode="eval").body
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
            values = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
            attributes = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
            return {"name": call.func.id, "attributes": attributes}
    raise ValueError(f"a distribution must be like IntDistribution(high=8, low=1), but is {entry}")
