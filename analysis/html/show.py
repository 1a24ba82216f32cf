"""Figures and tables as HTML, for notebooks and for pages that must stand alone."""

import base64
import html
import io
from collections.abc import Callable

import matplotlib
from matplotlib.figure import Figure

from analysis.html import table
from analysis.html.table import Table

# Letters become outlines: no font is needed, and a text that looks like markup is a drawing. Equal figures give equal
# bytes, so the marks' ids derive from their shapes alone and there is no date.
SETTINGS = {"svg.fonttype": "path", "svg.hashsalt": "tune-fairlora"}


class Html:
    """A piece of HTML that Jupyter shows as such."""

    def __init__(self, text: str):
        self.text = text

    def _repr_html_(self) -> str:
        return self.text


def show(make: Callable, *arguments) -> Html:
    """What ``make(*arguments)`` returns, to be looked at: a figure, a table, or several of them.

    Where it refuses (ValueError: too few trials, no such method), the reason takes its place.
    """
    try:
        made = make(*arguments)
    except ValueError as error:
        return Html(f'<p class="missing">Not shown: {html.escape(str(error))}.</p>')
    return Html("".join(to_html(one) for one in (made if isinstance(made, tuple) else (made,))))


def to_html(made: Figure | Table) -> str:
    return table.to_html(made) if isinstance(made, Table) else f"<figure>{image(made)}</figure>"


def svg(figure: Figure) -> str:
    """``figure`` as an SVG document."""
    page = io.StringIO()
    with matplotlib.rc_context(SETTINGS):
        figure.savefig(page, format="svg", metadata={"Date": None})
    return page.getvalue()


def image(figure: Figure, alternative: str = "") -> str:
    """An ``img`` element with the figure inside: a picture runs nothing. ``alternative`` is for who cannot see it; by
    default, the figure's title."""
    data = base64.b64encode(svg(figure).encode()).decode()
    width = figure.get_size_inches()[0]
    return (
        f'<img src="data:image/svg+xml;base64,{data}" alt="{html.escape(alternative or title(figure))}" '
        f'style="width:{width:.1f}in;max-width:100%;min-width:min({width:.1f}in,30rem);height:auto">'
    )


def title(figure: Figure) -> str:
    """The figure's own title, else its first panel's."""
    return figure.get_suptitle() or next((ax.get_title() for ax in figure.axes), "")
