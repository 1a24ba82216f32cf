"""The HTML around a report: one file that needs nothing else, fetches nothing, and runs no script but those it names.

Every text passes through ``escape``. Besides, the page's own policy (``Content-Security-Policy``) forbids all network
and every script whose hash it does not hold: markup that got through would be shown, not run.
"""

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from pathlib import Path


def document(title: str, lead: str, sections: list[tuple[str, str]], scripts: Sequence[str] = ()) -> str:
    """The whole page. ``title`` and the sections' headings are texts; ``lead`` and the sections' bodies are HTML, in
    which only ``scripts`` (their code) may run."""
    body = "".join(
        f'<section id="s{i}"><h2>{escape(heading)}</h2>\n{content}</section>\n'
        for i, (heading, content) in enumerate(sections)
    )
    links = "".join(f'<li><a href="#s{i}">{escape(heading)}</a></li>' for i, (heading, _) in enumerate(sections))
    digests = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}"
    style = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style>"
    )
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body><header><h1>{escape(title)}</h1>{lead}</header>\n'
        f"<nav><ul>{links}</ul></nav>\n<main>\n{body}</main></body></html>\n"
    )


def paragraph(text: str, kind: str = "") -> str:
    return f"<p{f' class={kind}' if kind else ''}>{escape(text)}</p>\n"


def of_texts(table: str) -> str:
    """The HTML of a table, set for words instead of numbers."""
    return table.replace('class="table"', 'class="table texts"', 1)
