"""One HTML file with all that a search found: the front, tables, figures, settings. For people who have no MLflow.

python -m tune_fairlora.report --search NAME
"""

if __name__ == "__main__":
    from tune_fairlora.startup import run_command

    run_command("report")  # imports this file again, under its own name

import argparse
from pathlib import Path

from tune_fairlora import api, cli


def parser() -> cli.Parser:
    about = "Write one HTML file with all that a search found; it opens anywhere, without a network."
    p = cli.Parser("report", about, "interrupted; no report was written")
    p.add_argument("--search", required=True, metavar="NAME|DIR", help="a search in runs/, or its folder; may run")
    p.add_argument("--out", type=Path, metavar="FILE", help=f"default: {api.REPORT} in the search's folder")
    p.add_argument(
        "--by",
        default="val_accuracy",
        metavar="METRIC",
        help="what a configuration is chosen by where methods are compared; default: %(default)s",
    )
    p.add_argument("--storage", default="runs", metavar="DIR", help="where searches lie; default: ./%(default)s")
    return p


def command(args: argparse.Namespace) -> int:
    """Run the command; the exit status: 0 done, 2 the user's mistake, 130 interrupted."""
    print(api.open(args.search, args.storage).report(args.out, args.by))
    return 0
