"""The confusion matrix of one trial as a page. A search makes one for every trial, so it must cost next to nothing.

matplotlib takes 0.1 s for one, which a search of short trials would pay from its trials' own processor time.
"""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

WRITTEN = 16  # classes up to which each cell carries its count; beyond, the pointer shows it
DARK = 0.55  # share from which a cell's count is white


def shares(confusion: Any) -> np.ndarray:
    """Each row of ``[K, K]`` (true class by predicted class) divided by its sum; NaN where a class has no image."""
    confusion = np.asarray(confusion, float)
    total = confusion.sum(axis=1, keepdims=True)
    return np.divide(confusion, total, out=np.full_like(confusion, np.nan), where=total > 0)


def page(confusion: Any, classes: Sequence[str], title: str) -> str:
    """A whole HTML document, no script in it: rows are true classes, columns predicted ones, cells are shaded by the
    share of the true class; a class without images is grey. ``confusion``: counts ``[K, K]``, validation split."""
    names, sheet = [escape(name) for name in classes], Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
    heads = "".join(f'<th title="{name}">{name}</th>' for name in names)
    rows = []
    for true, counts, share in zip(names, confusion, shares(confusion).tolist()):
        kind = ' class="none"' if math.isnan(share[0]) else ""
        cells = ""
        for predicted, count, part in zip(names, map(int, counts), share):
            style = f"background:rgba(8,81,156,{part:.2f})" + (";color:#fff" if part > DARK else "")
            hint, text = f"{true} as {predicted}: {count} ({part:.0%})", count if len(names) <= WRITTEN else ""
            cells += f'<td style="{style}" title="{hint}">{text}</td>' if count else "<td></td>"
        rows.append(f'<tr{kind}><th title="{true}">{true}</th>{cells}</tr>')
    kind = ' class="many"' if len(names) > WRITTEN else ""
    heading = f"{escape(title)}, validation split: true class (rows) by predicted class"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{sheet}</style>'
        f"<h1>{heading}</h1><table{kind}><thead><tr><td></td>{heads}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></html>"
    )
