"""Names from users' folders pass through LaTeX, Markdown and HTML as text and as nothing else."""

import html
from html.parser import HTMLParser

import pytest

from analysis.table import Table, latex, markdown, to_html, to_latex, to_markdown
from tests.analysis.handmade import HOSTILE

ODD = (
    *HOSTILE,
    "a|b",
    "50 % & up_to #1 $x$ {y} ~z ^w \\end",
    "[0]",
    "*x*",
    "`x`",
    "two\nlines\x1b[0m",
    "λ Δ ± ↑ ²",
    "",
)


class Seen(HTMLParser):
    """Tags and texts as a browser would see them."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.attributes, self.texts = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]

    def handle_data(self, data):
        self.texts.append(data)


def table() -> Table:
    return Table(ODD[0], ("class", *ODD[:1]), tuple((name, name) for name in ODD), frozenset({(1, 1)}), ODD[3])


def test_html_shows_every_name_and_makes_no_tag_of_it():
    seen = Seen(to_html(table()))
    assert set(seen.tags) == {"figure", "figcaption", "strong", "p", "div", "table", "thead", "tbody", "tr", "th", "td"}
    assert {name for name in ODD if name} <= set(seen.texts)
    assert seen.tags.count("tr") == 1 + len(ODD) and seen.tags.count("td") == 2 * len(ODD)


def test_markdown_keeps_one_line_a_row_and_as_many_cells():
    lines = to_markdown(table()).splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert len(rows) == 2 + len(ODD)
    for row in rows:
        assert row.replace("\\|", "").count("|") == 3
    assert "<script>" not in to_markdown(table()) and r"a\|b" in to_markdown(table())
    assert markdown("*x* `y` [z](u)") == r"\*x\* \`y\` \[z\](u)"
    assert "**=cmd()**" in to_markdown(table())


def test_escaping_leaves_one_line_that_markdown_shows_as_it_was():
    ordinary = "red square, 2-door (new)"
    assert markdown(ordinary).replace("\\", "") == ordinary
    links = ["[x](javascript:alert(1))", "![i](http://x)", "<a href='x'>"]
    for text in (*links, *HOSTILE, "*a* _b_ `c` ~d~ # e", "a|b", "&lt;", "$x^2$"):
        escaped = markdown(text)
        assert html.unescape(escaped.replace("\\", "")) == text
        assert (
            "<" not in escaped
            and "](" not in escaped.replace("\\]", "")
            and " |" not in f" {escaped}".replace("\\|", "")
        )
        assert "://" not in escaped and "$" not in escaped
    assert markdown("a\nb\x00") == "a\\\\nb\\\\x00"


def test_latex_escapes_what_it_would_act_upon():
    assert latex("50 % & a_b #1 $x$ {y}") == r"50 \% \& a\_b \#1 \$x\$ \{y\}"
    assert latex("\\input{x}~^") == r"\textbackslash{}input\{x\}\textasciitilde{}\textasciicircum{}"
    assert latex("λ Δ ± ↑²") == r"$\lambda$ $\Delta$ $\pm$ $\uparrow$$^2$"
    # A row that began with [ would be read as the distance that the row before it asks for.
    assert latex("[0]") == "{[}0]" and latex("*") == "{*}"
    text = to_latex(table())
    assert r"\textbf{=cmd()}" in text and "<script>" not in text
    rows = text[text.index("\\midrule") : text.index("\\bottomrule")].splitlines()[1:]
    assert len(rows) == len(ODD) and all(
        row.endswith(r" \\") and row.count(" & ") == 1 for row in rows if "50" not in row
    )


def test_a_row_of_another_width_is_refused():
    with pytest.raises(ValueError, match="a row must have 2 cells, but has 1"):
        Table("t", ("a", "b"), (("x",),))
