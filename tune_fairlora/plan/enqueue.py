"""``--enqueue FILE``: points that a search tries before its sampler chooses any."""

import json
from pathlib import Path
from typing import Any

from search_spaces.space import Point, Space
from trainables.config import FIELDS, ConfigError, lookup


def read(path: str, space: Space) -> list[Point]:
    """The points in a JSON file: a list of objects, or one object a line, each ``{"method": …, "rank": …, …}``.

    A searched hyperparameter that a point leaves out is that of its method's first point. Raises ConfigError on a value
    that the space does not hold.
    """
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"`enqueue` {path} must be a file that can be read ({error})") from error
    try:
        entries = json.loads(text) if text.lstrip().startswith("[") else [json.loads(x) for x in text.splitlines() if x]
    except ValueError as error:
        raise ConfigError(f"`enqueue` {path} must hold JSON: a list of objects, or one a line ({error})") from error
    if not entries:
        raise ConfigError(f"`enqueue` {path} must hold at least one point, but is empty")
    return [_point(entry, f"`enqueue` {path}, point {i}", space) for i, entry in enumerate(entries, 1)]


def _point(entry: Any, where: str, space: Space) -> Point:
    if not isinstance(entry, dict) or entry.get("method") not in space.methods:
        raise ConfigError(f"{where} must be an object with a method of {', '.join(space.methods)}: {entry}")
    method = entry["method"]
    point = space.first_point(method)
    for name, value in entry.items():
        kind = lookup(FIELDS, name, "hyperparameter").type
        distribution = space.distribution(name, method)
        if name != "method" and distribution is None:
            raise ConfigError(f"{where} has {name}, which this space does not search for {method}")
        if name != "method" and not space.holds(name, method, value):
            raise ConfigError(f"{where} has {name}={value}, outside of {distribution}")
        point[name] = float(value) if kind is float else value  # JSON writes a float that is whole as an int
    space.config(point, 0)  # its rules, in one line
    return point
