"""A table to be read by people: plain texts, which LaTeX, Markdown and HTML each escape in their own way.

Class, group and folder names come from users. A text may hold anything; no renderer passes on what its format would act
upon, and no cell is ever a formula.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from trainables.files import plain

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "λ": r"$\lambda$", "Δ": r"$\Delta$", "±": r"$\pm$", "–": "--", "−": "$-$",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "²": r"$^2$", "×": r"$\times$", "…": r"\ldots{}", "≥": r"$\geq$",
    "≤": r"$\leq$", "[": "{[}", "*": "{*}",  # which behind the end of a row would be taken for its options
}  # fmt: skip
MARKDOWN = re.compile(r"([\\`*_{}\[\]#!|~])")
ENTITIES = re.compile(r"[$@^]|:(?=//)")  # formulas and links; before these, MLflow's Markdown would keep a backslash


@dataclass(frozen=True)
class Table:
    """``rows`` of texts under ``header``; ``best`` holds (row, column) of the cells in bold.

    ``caption`` and ``note`` say what a reader must know: which split, how the rows were chosen, how many seeds.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    best: frozenset[tuple[int, int]] = frozenset()
    note: str = ""

    def __post_init__(self) -> None:
        wrong = [row for row in self.rows if len(row) != len(self.header)]
        if wrong:
            raise ValueError(f"a row must have {len(self.header)} cells, but has {len(wrong[0])}: {wrong[0]}")

    def _repr_html_(self) -> str:
        """How Jupyter shows it."""
        return to_html(self)


def latex(text: str) -> str:
    """``text`` as LaTeX prints it."""
    return "".join(LATEX.get(c, c) for c in plain(text))


def markdown(text: object) -> str:
    """``text`` as Markdown shows it, GitHub's and MLflow's: no markup, no HTML, no link, no end of a cell."""
    backslashed = escape(MARKDOWN.sub(r"\\\1", plain(text)), quote=False)
    return ENTITIES.sub(lambda match: f"&#{ord(match[0])};", backslashed)


def to_latex(table: Table) -> str:
    """A ``table`` environment with booktabs' rules, the first column to the left."""
    rows = _bold([[latex(cell) for cell in row] for row in table.rows], table.best, r"\textbf{%s}")
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex('. '.join(filter(None, [table.caption, table.note])))}}}",
        rf"\begin{{tabular}}{{{'l' + 'r' * (len(table.header) - 1)}}}",
        r"\toprule",
        " & ".join(map(latex, table.header)) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def to_markdown(table: Table) -> str:
    """A pipe table with its caption above and its note below."""
    rows = _bold([[markdown(cell) for cell in row] for row in table.rows], table.best, "**%s**")
    parts = [f"**{markdown(table.caption)}**", pipes([markdown(text) for text in table.header], rows, numbers=True)]
    return "\n\n".join([*parts, *([markdown(table.note)] if table.note else [])]) + "\n"


def pipes(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = False) -> str:
    """The lines of a pipe table, of cells that are Markdown; ``numbers`` sets all but the first column to the right."""
    rules = ["---", *["---:" if numbers else "---"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rules, *rows))


def to_html(table: Table) -> str:
    """A ``figure`` element: the table in a box that scrolls by itself, its caption and note."""
    rows = _bold([[escape(cell) for cell in row] for row in table.rows], table.best, "<strong>%s</strong>")
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    note = f"<p>{escape(table.note)}</p>" if table.note else ""
    return (
        f'<figure class="table"><figcaption><strong>{escape(table.caption)}</strong>{note}</figcaption>'
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></figure>'
    )


def _bold(rows: list[list[str]], best: frozenset[tuple[int, int]], form: str) -> list[list[str]]:
    return [[form % cell if (i, j) in best else cell for j, cell in enumerate(row)] for i, row in enumerate(rows)]
