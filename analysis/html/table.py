"""A table to be read by people: plain texts, which LaTeX, Markdown and HTML each escape in their own way.

Class, group and folder names come from users. A text may hold anything; no renderer passes on what its format would act
upon, and no cell is ever a formula.
"""

import html as markup
import re
from dataclasses import dataclass

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "λ": r"$\lambda$", "Δ": r"$\Delta$", "±": r"$\pm$", "–": "--", "−": "$-$",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "²": r"$^2$", "×": r"$\times$", "…": r"\ldots{}", "≥": r"$\geq$",
    "≤": r"$\leq$", "[": "{[}", "*": "{*}",  # which behind the end of a row would be taken for its options
}  # fmt: skip
MARKDOWN = re.compile(r"([\\`*_{}\[\]#|~$!])")  # a backslash for these; entities for <, > and &


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

    def __post_init__(self):
        wrong = [row for row in self.rows if len(row) != len(self.header)]
        if wrong:
            raise ValueError(f"a row must have {len(self.header)} cells, but has {len(wrong[0])}: {wrong[0]}")

    def _repr_html_(self) -> str:
        """How Jupyter shows it."""
        return to_html(self)


def one_line(text: str) -> str:
    """Without line breaks and other control characters, which would end a row or a comment."""
    return "".join(c if c.isprintable() else " " for c in text)


def latex(text: str) -> str:
    """``text`` as LaTeX prints it."""
    return "".join(LATEX.get(c, c) for c in one_line(text))


def markdown(text: str) -> str:
    """``text`` as Markdown shows it: neither markup nor the end of a cell."""
    return MARKDOWN.sub(r"\\\1", markup.escape(one_line(text), quote=False))


def to_latex(table: Table) -> str:
    """A ``table`` environment with booktabs' rules, the first column to the left."""
    body = [" & ".join(_bold(table, i, j, latex(cell), r"\textbf{%s}") for j, cell in enumerate(row)) + r" \\"
            for i, row in enumerate(table.rows)]  # fmt: skip
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex(_sentences(table))}}}",
        rf"\begin{{tabular}}{{{'l' + 'r' * (len(table.header) - 1)}}}",
        r"\toprule",
        " & ".join(map(latex, table.header)) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def to_markdown(table: Table) -> str:
    """A pipe table with its caption above and its note below."""
    lines = [
        f"**{markdown(table.caption)}**",
        "",
        _row(map(markdown, table.header)),
        _row(["---", *["---:"] * (len(table.header) - 1)]),
        *(
            _row(_bold(table, i, j, markdown(cell), "**%s**") for j, cell in enumerate(row))
            for i, row in enumerate(table.rows)
        ),
    ]
    return "\n".join([*lines, *(["", markdown(table.note)] if table.note else [])]) + "\n"


def to_html(table: Table) -> str:
    """A ``figure`` element: the table in a box that scrolls by itself, its caption and note."""
    head = "".join(f'<th scope="col">{markup.escape(cell)}</th>' for cell in table.header)
    body = "".join(f"<tr>{_html_row(table, i)}</tr>" for i in range(len(table.rows)))
    note = f"<p>{markup.escape(table.note)}</p>" if table.note else ""
    return (
        f'<figure class="table"><figcaption><strong>{markup.escape(table.caption)}</strong>{note}</figcaption>'
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></figure>'
    )


def _html_row(table: Table, i: int) -> str:
    cells = [_bold(table, i, j, markup.escape(cell), "<strong>%s</strong>") for j, cell in enumerate(table.rows[i])]
    return "".join(f"<td>{cell}</td>" for cell in cells)


def _row(cells) -> str:
    return f"| {' | '.join(cells)} |"


def _bold(table: Table, i: int, j: int, cell: str, form: str) -> str:
    return form % cell if (i, j) in table.best else cell


def _sentences(table: Table) -> str:
    return ". ".join(filter(None, [table.caption, table.note]))
