"""``--enqueue FILE``: points that a search tries before its sampler has a say."""

import json
from pathlib import Path

from search_spaces.space import Space
from trainables.config import FIELDS, ConfigError, lookup


def read(path: str, space: Space) -> list[dict]:
    """The points in a JSON file: a list of objects, or one object a line, each ``{"method": …, "rank": …, …}``.

    A searched hyperparameter that a point leaves out is that of its method's first point. Raises ConfigError on a value
    that the space does not hold.
    """
    return [_point(entry, f"{path}, point {i}", space) for i, entry in enumerate(_entries(path), 1)]


def _entries(path: str) -> list:
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--enqueue {path} must be a file that can be read ({error})") from error
    try:
        entries = json.loads(text) if text.lstrip().startswith("[") else [json.loads(x) for x in text.splitlines() if x]
    except ValueError as error:
        raise ConfigError(f"--enqueue {path} must hold JSON: a list of objects, or one a line ({error})") from error
    if not entries:
        raise ConfigError(f"--enqueue {path} must hold at least one point, but is empty")
    return entries


def _point(entry, where: str, space: Space) -> dict:
    if not isinstance(entry, dict) or entry.get("method") not in space.methods:
        raise ConfigError(f"--enqueue {where} must be an object with a method of {', '.join(space.methods)}: {entry}")
    method = entry["method"]
    for name, value in entry.items():
        lookup(FIELDS, name, "hyperparameter")
        if name != "method":
            _check(name, value, method, where, space)
    point = space.first_point(method) | {name: _typed(name, value) for name, value in entry.items()}
    space.config(point, 0)  # its rules, in one line
    return point


def _check(name: str, value, method: str, where: str, space: Space) -> None:
    distribution = space.distribution(name, method)
    if distribution is None:
        raise ConfigError(f"--enqueue {where} has {name}, which this space does not search for {method}")
    if not space.holds(name, method, value):
        raise ConfigError(f"--enqueue {where} has {name}={value}, outside of {distribution}")


def _typed(name: str, value):
    """JSON writes a float that is whole as an int."""
    return float(value) if FIELDS[name].type is float else value
