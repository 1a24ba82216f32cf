"""The front as one page that needs nothing else: no network, no library. Used by MLflow, the report and the notebooks.

The page is ``front_page.css`` and ``front_page.js`` around the numbers; both files lie beside this one. Texts come from
users' folders, so none is ever put together as markup: the numbers travel as JSON without ``<``, and the script makes
text nodes of them; the table below the picture, which needs no script, is escaped here.
"""

import contextlib
import json
import math
from html import escape
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.markers import MarkerStyle
from matplotlib.transforms import Affine2D

from analysis import claims, configurations, labels
from analysis.confirmation import arrows, confirmation
from analysis.figures.front import limits
from analysis.results import NothingToShow, Search

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


def content(search: Search) -> dict[str, Any]:
    """What the page draws: ``axes`` (the objectives), ``methods`` with their style, and ``points``, those of the front
    last. A point is a complete configuration; its ``values`` are what is claimed of it, ``half`` half of their 95 %
    intervals, ``test`` what fresh trainings showed on the test split (both None where they are not known). ``bands``
    are the numbers of the front's points in its order, those that cannot be told apart in one list, ``verdict`` says it
    in words, ``bars`` what the bars are."""
    claimed = claims.claims(search)
    rows = arrows(search).sort_values("on_front", kind="stable")
    tested: list[str] = []
    with contextlib.suppress(NothingToShow):
        tested = [
            "Arrows lead to the test split, where fresh trainings were measured.",
            *confirmation(search).sentences(),
        ]
    bands = claimed.bands() if claimed.known else [[index] for index in claimed.front.index]
    axes = [
        {
            "name": labels.name(name),
            "label": labels.axis(name),
            "up": direction == "maximize",
            "frame": list(limits(rows, name)) if len(rows) else [],
        }
        for name, direction in zip(search.objectives, search.directions)
    ]
    styles = {name: style for name, style in labels.METHOD_STYLES.items() if (rows["method"] == name).any()}
    # Method stands before the hyperparameters.
    varied = [name for name in configurations.varied(search.trials) if name != "method"]
    return {
        "name": search.name,
        "axes": axes,
        "methods": {name: {"color": style.color, "path": _path(style.marker)} for name, style in styles.items()},
        "points": [_point(row, search, varied) for row in rows.astype(object).to_dict("records")],
        "bands": [rows.loc[band, "number"].tolist() for band in bands],
        "verdict": [*claimed.sentences(), *tested],
        "bars": f"Bars are 95 % intervals over {claimed.luck}. " if claimed.known and len(claimed.front) else "",
    }


def _path(marker: str) -> str:
    """SVG's path of one of matplotlib's markers, 2 units wide, around the origin."""
    shape = MarkerStyle(marker)
    scale = shape.get_transform() + Affine2D().scale(2, -2)  # y grows downwards
    commands = {1: "M", 2: "L", 3: "Q", 4: "C", 79: "Z"}
    segments = shape.get_path().transformed(scale).iter_segments(simplify=False)
    return "".join(
        commands[int(code)] + ("" if code == 79 else " ".join(f"{round(v, 3):g}" for v in points))
        for points, code in segments
    )


def _point(row: dict[str, Any], search: Search, varied: list[str]) -> dict[str, Any]:
    values, half = ([row[f"{name}_{what}"] for name in search.objectives] for what in ("claimed", "half"))
    given = {name: row[name] for name in varied if pd.notna(row[name])}
    return {
        "number": int(row["number"]),
        "method": row["method"],
        "front": bool(row["on_front"]),
        "values": values,
        "half": [value if math.isfinite(value) else None for value in half],  # JSON has no NaN
        "test": [row[f"{name}_test"] if math.isfinite(row[f"{name}_test"]) else None for name in search.objectives],
        "chance": row["chance"] if math.isfinite(row["chance"]) else None,
        "trainings": row["trainings"],
        "settings": {
            labels.hyperparameter(name): float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
            for name, value in given.items()
        },
    }


def _members_table(drawn: dict[str, Any]) -> str:
    """The front's members for those who print or run no scripts; the best in the first objective first."""
    rows = [point for point in drawn["points"] if point["front"]]
    rows.sort(key=lambda point: point["values"][0], reverse=drawn["axes"][0]["up"])
    names = list(dict.fromkeys(name for point in rows for name in point["settings"]))
    heads = ["trial", "method", *(axis["name"] for axis in drawn["axes"]), "on the front", "trainings", *names]
    cells = []
    for row in rows:
        values = [labels.claim(value, half) for value, half in zip(row["values"], row["half"])]
        values += ["–" if row["chance"] is None else f"{row['chance']:.2f}", str(row["trainings"])]
        settings = [labels.number(row["settings"].get(name), "g") for name in names]  # pandas' 8.0 is a rank of 8
        cells.append([str(row["number"]), row["method"], *values, *settings])
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in cells)
    return f'<table class="members"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
