"""Figures as pictures that hold no text, no script and no date."""

import base64
import re

import matplotlib.figure
import pytest

from analysis.html import show
from analysis.results import NothingToShow
from analysis.table import Table
from tests.analysis.handmade import HOSTILE


def drawn():
    figure = matplotlib.figure.Figure()
    ax = figure.add_subplot()
    ax.set_title(HOSTILE[0])
    ax.text(0.5, 0.5, f"--><script>alert(1)</script>{HOSTILE[1]}", parse_math=False)
    return figure


def test_text_becomes_outlines_and_comments_that_end_where_they_should():
    text = show.svg(drawn())
    assert "<script" not in text and "<text" not in text
    assert "-->" not in re.sub(r"<!--(?:(?!--).)*-->", "", text, flags=re.S)
    assert text == show.svg(drawn()) and "dc:date" not in text


def test_an_image_carries_all_of_it_and_its_title_as_text():
    image = show.image(drawn())
    assert image.count("<") == 1 and 'alt="&lt;script&gt;alert(1)&lt;/script&gt;"' in image
    data = re.search(r"base64,([^\"]+)", image)[1]
    assert base64.b64decode(data).decode() == show.svg(drawn())


def test_a_refusal_is_told_and_escaped():
    def refuse():
        raise NothingToShow(HOSTILE[0])

    text = show.show(refuse)._repr_html_()
    assert "Not shown: &lt;script&gt;" in text and "<script" not in text


def test_another_error_is_no_refusal():
    def broken():
        raise ValueError("a mistake of ours")

    with pytest.raises(ValueError, match="a mistake of ours"):
        show.show(broken)


def test_a_table_comes_with_its_sources_where_they_are_wanted():
    table = Table("t", ("a",), ((HOSTILE[0],),))
    plain, whole = (show.show(lambda: table, sources=sources).text for sources in (False, True))
    assert "<details>" not in plain and whole.startswith(plain) and whole.count("<details>") == 2
    assert r"\begin{tabular}" in whole and "| --- |" in whole and "<script>" not in whole
    assert show.show(drawn).text.startswith("<figure><img")
