"""Figures and tables as HTML, for notebooks and for pages that must stand alone."""

import base64
import io
from collections.abc import Callable
from html import escape
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from analysis.results import NothingToShow
from analysis.table import Table, to_html, to_latex, to_markdown


class Html:
    """A piece of HTML that Jupyter shows as such."""

    def __init__(self, text: str):
        self.text = text

    def _repr_html_(self) -> str:
        return self.text


def show(make: Callable[..., Figure | Table], *arguments: Any, sources: bool = False, **options: Any) -> Html:
    """The figure or table that ``make(*arguments, **options)`` returns, to be looked at; ``sources`` adds a table as
    LaTeX and as Markdown, to copy. Where it raises NothingToShow, the reason takes its place."""
    try:
        shown = make(*arguments, **options)
    except NothingToShow as reason:
        return Html(f'<p class="missing">Not shown: {escape(str(reason))}.</p>')
    if isinstance(shown, Figure):
        return Html(f"<figure>{image(shown)}</figure>")
    texts = {"as LaTeX": to_latex(shown), "as Markdown": to_markdown(shown)} if sources else {}
    folded = (f"<details><summary>{k}</summary><pre>{escape(v)}</pre></details>\n" for k, v in texts.items())
    return Html(to_html(shown) + "".join(folded))


def svg(figure: Figure) -> str:
    """``figure`` as an SVG document, equal for equal figures: the ids derive from the shapes and there is no date.
    Letters become outlines: no font is needed, and a text that looks like markup is a drawing."""
    page = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "tune-fairlora"}):
        figure.savefig(page, format="svg", metadata={"Date": None})
    return page.getvalue()


def image(figure: Figure) -> str:
    """An ``img`` element with the figure inside: a picture runs nothing. Its title is for who cannot see it."""
    title = figure.get_suptitle() or next((ax.get_title() for ax in figure.axes), "")
    data = base64.b64encode(svg(figure).encode()).decode()
    width = figure.get_size_inches()[0]
    return (
        f'<img src="data:image/svg+xml;base64,{data}" alt="{escape(title)}" '
        f'style="width:{width:.1f}in;max-width:100%;min-width:min({width:.1f}in,30rem);height:auto">'
    )
