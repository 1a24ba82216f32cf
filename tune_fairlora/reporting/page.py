"""The HTML around a report: one file that needs nothing else, fetches nothing, and runs no script but those it names.

Every text passes through ``escape``. Besides, the page's own policy (``Content-Security-Policy``) forbids all network
and every script whose hash it does not hold: markup that got through would be shown, not run.
"""

import base64
import hashlib
from collections.abc import Sequence
from html import escape

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff; margin: 0 auto; max-width: 62rem;
  padding: 1rem; }
h1, h2, h3 { line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 2.6rem 0 .6rem; padding-top: .5rem; border-top: 1px solid #ccc; }
p, li { max-width: 46rem; overflow-wrap: anywhere; }
.split { background: #fff3d6; border-left: 4px solid #e69f00; padding: .5rem .8rem; max-width: none; }
nav ul { columns: 14rem; padding-left: 1.2rem; }
figure { margin: 1.2rem 0; overflow-x: auto; }
figure > img { display: block; }
figcaption { max-width: 46rem; font-size: .92rem; }
figcaption p { margin: .2rem 0 .5rem; color: #444; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .22rem .6rem; text-align: right; border-bottom: 1px solid #ddd; }
th { vertical-align: bottom; border-bottom: 2px solid #888; }
td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.texts td, .texts th { text-align: left; vertical-align: top; }
.texts td:last-child { white-space: normal; overflow-wrap: anywhere; min-width: 12rem; }
.front .members { display: none; }
pre { overflow-x: auto; background: #f5f5f5; padding: .6rem; font-size: .8rem; }
.missing { color: #555; font-style: italic; }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav, details { display: none; }
  h2 { break-after: avoid; }
  figure, tr { break-inside: avoid; }
  figure, .scroll { overflow: visible; }
  figure.table { break-inside: auto; }
  table { font-size: 7.5pt; }
  th, td { padding: .12rem .3rem; }
}
"""


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
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
    )
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body><header><h1>{escape(title)}</h1>{lead}</header>\n'
        f"<nav><ul>{links}</ul></nav>\n<main>\n{body}</main></body></html>\n"
    )


def paragraph(text: str, kind: str = "") -> str:
    return f"<p{f' class={kind}' if kind else ''}>{escape(text)}</p>\n"


def bullets(texts: list[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>\n"


def of_texts(table: str) -> str:
    """The HTML of a table, set for words instead of numbers."""
    return table.replace('class="table"', 'class="table texts"', 1)
