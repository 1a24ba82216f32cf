"""One HTML file with all that a search found: the front, tables, figures, settings. For people who have no MLflow.

python -m tune_fairlora.report --search NAME
"""

if __name__ == "__main__":
    from tune_fairlora.startup import run_command

    run_command("report")  # imports this file again, under its own name

import argparse
from pathlib import Path

from trainables.config import ConfigError, lookup
from trainables.metrics import OBJECTIVES
from tune_fairlora import cli

FILE = "report.html"


def parser() -> cli.Parser:
    p = cli.Parser(
        "report",
        "Write one HTML file with all that a search found; it opens anywhere, without a network.",
    )
    p.add_argument(
        "--search", required=True, metavar="NAME|DIR", help="a search in runs/, or its folder; may be running"
    )
    p.add_argument("--out", type=Path, metavar="FILE", help=f"default: {FILE} in the search's folder")
    p.add_argument(
        "--by",
        default="val_accuracy",
        metavar="METRIC",
        help="what a configuration is chosen by where methods are compared; default: %(default)s",
    )
    p.add_argument("--storage", default="runs", metavar="DIR", help="where searches lie; default: ./%(default)s")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit status: 0 done, 2 the user's mistake, 130 interrupted."""
    return cli.run(parser(), argv, _command, "interrupted; no report was written")


def _command(args: argparse.Namespace) -> int:
    from tune_fairlora.record.search_folder import find

    lookup(OBJECTIVES, args.by, "metric of --by")
    folder = find(args.search, args.storage)
    out = args.out or folder / FILE
    if out.is_dir() or not out.parent.is_dir():
        raise ConfigError(f"--out must be a file in a folder that exists, but got {out}")
    write(out, html(folder, args.by))
    print(out)
    return 0


def html(folder: Path, by: str) -> str:
    """The report of the search in ``folder``. Raises ConfigError where tables or log are damaged or not there yet."""
    from analysis import results
    from tune_fairlora.record.event_log import read_events
    from tune_fairlora.reporting import sections
    from tune_fairlora.reporting.html import page

    try:
        search = results.read(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"the tables of {folder} must be whole, but: {error}") from error
    try:
        made = sections.material(search, read_events(folder), by)
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"the log of {folder} must be whole, but an event of it is not ({error!r})") from error
    scripts = [made.drawing[1]] if len(made.front) else []
    return page(f"Search {search.name}", sections.lead(made), sections.sections(made), scripts)


def write(path: Path, text: str) -> None:
    """Replace ``path`` at once. Raises ConfigError where it cannot be written."""
    from trainables.files import replace_atomically

    content = text.encode(errors="replace")  # paths may hold halves of characters
    try:
        replace_atomically(path, lambda temporary: temporary.write_bytes(content))
    except OSError as error:
        raise ConfigError(f"the report cannot be written to {path} ({error.strerror})") from error
