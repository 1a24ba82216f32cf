"""The front as one page that needs nothing else: no network, no library. Used by MLflow, the report and the notebooks.

The page is ``front_page.css`` and ``front_page.js`` around the numbers; both files lie beside this one. Texts come from
users' folders, so none is ever put together as markup: the numbers travel as JSON without ``<``, and the script makes
text nodes of them; the table below the picture, which needs no script, is escaped here.
"""

import json
import math
from html import escape
from itertools import count
from pathlib import Path

import pandas as pd

from analysis import labels
from analysis.figures.front import STYLES, by_configuration, limits
from analysis.results import Search
from trainables.config import FIELDS

SHAPES = {"o": "circle", "D": "diamond", "s": "square", "^": "triangle"}
NOT_SHOWN = ("method", "seed")  # the one stands before the hyperparameters, the other is no property of a configuration
DIGITS = 5  # significant ones, of the hyperparameters

_ids = count()


def page(search: Search) -> str:
    """A whole HTML document with the front of ``search``."""
    title = escape(f"Pareto front of {search.name}")
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    return f"<!doctype html>\n<html lang='en'><head>{head}</head><body>{fragment(search)}</body></html>\n"


def fragment(search: Search) -> str:
    """The front as a part of a page (a ``div`` with its own style and script); any number of them share a page."""
    markup, script = parts(search)
    return f"{markup}\n<script>{script}</script>"


def parts(search: Search) -> tuple[str, str]:
    """The fragment's markup, and the script that comes behind it, for a page that says which scripts may run."""
    here, name = Path(__file__).parent, f"front-{next(_ids)}"
    style, script = ((here / f"front_page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    drawn = content(search)
    data = json.dumps(drawn, ensure_ascii=False, allow_nan=False)
    for character in "<>&\u2028\u2029":  # no text can end the script element, nor begin a comment in it
        data = data.replace(character, f"\\u{ord(character):04x}")
    call = f'drawFront(document.getElementById("{name}"), {data});'
    markup = f'<div class="front" id="{name}"><style>{style}</style>{_members_table(drawn)}</div>'
    return markup, f"{{\n{script}\n{call}\n}}"


def content(search: Search) -> dict:
    """What the page draws: ``axes`` (the objectives), ``methods`` with their style, and ``points``, those of the front
    last. A point is a configuration that is complete with every seed; its values are means over its seeds, ``spread``
    their standard deviations (None with one seed)."""
    points = by_configuration(search)
    points = points[points[search.objectives].map(math.isfinite).all(axis=1)].sort_values("on_front", kind="stable")
    axes = [
        {
            "name": labels.name(name),
            "label": labels.axis(name),
            "up": direction == "maximize",
            "frame": list(limits(points, name)) if len(points) else [],
        }
        for name, direction in zip(search.objectives, search.directions)
    ]
    present = [name for name in STYLES if (points["method"] == name).any()]
    trials = {row["number"]: row for row in search.trials.astype(object).to_dict("records")}
    names = searched(search)
    return {
        "name": search.name,
        "axes": axes,
        "methods": {m: {"color": STYLES[m][0], "shape": SHAPES[STYLES[m][1]]} for m in present},
        "points": [_point(row, trials[row["number"]], search, names) for row in points.to_dict("records")],
        "seeds": search.seeds,
    }


def _point(row: dict, trial: dict, search: Search, names: list[str]) -> dict:
    return {
        "number": int(row["number"]),
        "method": row["method"],
        "front": bool(row["on_front"]),
        "values": [_known(row[name]) for name in search.objectives],
        "spread": [_known(row[f"{name}_sd"]) for name in search.objectives],
        "settings": {labels.hyperparameter(name): _short(trial[name]) for name in names if not pd.isna(trial[name])},
    }


def searched(search: Search) -> list[str]:
    """The hyperparameters that differ between trials, or that only some have, in TrainConfig's order."""
    known = [name for name in FIELDS if name in search.trials and name not in NOT_SHOWN]
    return [name for name in known if search.trials[name].nunique(dropna=False) > 1]


def _short(value):
    """A hyperparameter in few digits; what is no number as it is."""
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _known(value: float) -> float | None:
    """None for NaN, which JSON lacks."""
    return float(value) if math.isfinite(value) else None


def _members_table(drawn: dict) -> str:
    """The front's members for those who print or run no scripts; the best in the first objective first."""
    rows = [point for point in drawn["points"] if point["front"]]
    rows.sort(key=lambda point: point["values"][0], reverse=drawn["axes"][0]["up"])
    names = list(dict.fromkeys(name for point in rows for name in point["settings"]))
    heads = ["trial", "method", *(axis["name"] for axis in drawn["axes"]), *names]
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in _cells(p, names)) + "</tr>" for p in rows)
    return f'<table class="members"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _cells(point: dict, names: list[str]) -> list[str]:
    values = [f"{v:.4f}" if s is None else f"{v:.4f} ± {s:.4f}" for v, s in zip(point["values"], point["spread"])]
    settings = [point["settings"].get(name, "–") for name in names]
    shown = [
        f"{value:g}" if isinstance(value, float) else str(value) for value in settings
    ]  # pandas' 8.0 is a rank of 8
    return [str(point["number"]), point["method"], *values, *shown]
